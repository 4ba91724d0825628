"""What a server does for a reconstruction stays bounded whatever comes in, and never holds up the other calls."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from services.inference.ptychography import spool
from services.inference.ptychography.models import Model
from services.inference.ptychography.plan import Plan
from services.inference.ptychography.refining import MOST_WAVES, refine
from services.inference.ptychography.source import Source
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.iterating import Estimate
from tessera.tasks.ptychography.validation import check_positions


async def test_a_step_that_would_take_too_much_memory_is_refused() -> None:
    modes, size, frames = 32, 512, 64
    estimate = cast(Estimate, SimpleNamespace(probe=np.broadcast_to(np.complex64(1), (modes, size, size)), corners=np.zeros((frames, 2))))
    assert frames * estimate.probe.size > MOST_WAVES
    engine, source = cast(Model, SimpleNamespace()), cast(Source, SimpleNamespace())

    async def told(number: int, error: float) -> None: ...

    with pytest.raises(InvalidArgumentError, match="64 frames at a time, with 32 modes of 512 x 512 pixels") as caught:
        await refine(engine, estimate, source, Plan(ModelSelector(model="engine"), batch=1024), told)
    assert caught.value.field == "plan.batch"


async def test_the_positions_of_a_whole_scan_are_judged_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def check(*arguments: Any) -> None:
        threads.append(threading.get_ident())
        check_positions(*arguments)

    monkeypatch.setattr(spool, "check_positions", check)
    with spool.Spool(tmp_path, 1 << 20) as frames:
        await frames.append(np.ones((2, 16, 16), np.float32), np.array([[0.0, 0.0], [4.0, 2.0]]))
        await frames.end()
    assert len(threads) == 1
    assert threading.get_ident() not in threads
