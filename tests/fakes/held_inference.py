"""The real inference service, whose queued calls wait while a file is there: so a test decides where it is killed or frozen."""

import asyncio
import itertools
import os
from pathlib import Path

from services.inference.__main__ import main
from services.inference.calls import Prediction
from services.inference.options import CallOptions, Priority
from services.inference.routing import Router
from tessera.api.common.v1.common_pb2 import ModelSelector

GATES = Path(os.environ["TESSERA_TEST_GATES"])
NAME = os.environ["TESSERA_INFERENCE_NAME"]
FREE = int(os.environ["TESSERA_TEST_FREE"])

begin = Router.begin
calls = itertools.count()


async def begin_when_open(router: Router, selector: ModelSelector, options: CallOptions) -> Prediction:
    if options.priority is Priority.LOW and next(calls) >= FREE:
        while (GATES / f"closed-{NAME}").exists():
            (GATES / f"held-{NAME}").touch()
            await asyncio.sleep(0.01)
    return await begin(router, selector, options)


if __name__ == "__main__":
    Router.begin = begin_when_open  # type: ignore[method-assign]
    main()
