"""Queued reconstructions: taken in, kept beside requests for tensors, computed from a scan's file; their progress and what came out."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.options import CallOptions
from services.inference.ptychography.listener import Progress as Stand
from services.inference.ptychography.result import Result as Reconstructed
from services.inference.ptychography.stored import StoredScan
from services.inference.queued.attempts import Result
from services.inference.queued.completing import complete_reconstruction
from services.inference.queued.inferences import Wishes
from services.inference.queued.progress import Progress
from services.inference.queued.reconstructions import Reconstructions
from services.inference.queued.tables import Outcome
from tessera.api.common.v1.common_pb2 import ModelSelector, Tensor
from tessera.api.inference.v1 import ptychography_pb2 as ptycho
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.blob_files import BlobRef
from tessera.errors import AlreadyExistsError, InvalidArgumentError
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.scan import Scan
from tessera.tensor_files import load_tensors
from tests.fixtures.queued import QueuedCore

SCAN = pb.TensorsBlob(sha256=BlobRef.of_bytes(b"scan").sha256, size_bytes=4)
FRAMES, SIZE = 5, 16


def plan(model: str = "ptycho", refine_with: str = "", **fields: Any) -> ptycho.ReconstructionPlan:
    return ptycho.ReconstructionPlan(
        model=ModelSelector(model=model), refine_with=ModelSelector(model=refine_with) if refine_with else None, **fields
    )


def request(**fields: Any) -> ptycho.SubmitReconstructionRequest:
    return ptycho.SubmitReconstructionRequest(**{"plan": plan(), "scan": SCAN} | fields)


def submit(core: QueuedCore, inference_id: str, **fields: Any) -> pb.Inference:
    return core.inferences.submit(inference_id, complete_reconstruction(request(**fields)), Wishes(), trace={})[0]


def scan(**changes: Any) -> Scan:
    random = np.random.default_rng(0)
    fields = {
        "amplitudes": random.uniform(0, 9, (FRAMES, SIZE, SIZE)).astype(np.float32),
        "positions": np.arange(2.0 * FRAMES).reshape(FRAMES, 2),
        "probe": np.ones((1, SIZE, SIZE), np.complex64),
    }
    return Scan(**fields | changes)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_scan(tmp_path / "scan", scan())
    return tmp_path / "scan"


def test_reconstructions_and_tensors_wait_in_one_queue_and_each_comes_back_as_it_was_asked_for(queued_core: QueuedCore) -> None:
    tensors = queued_core.submit()
    asked = plan(refine_with="rpie", iterations=30, target_fourier_error=0.25, seed=2**40)
    inference = submit(queued_core, "r", plan=asked)
    assert queued_core.inferences.get("r") == inference
    assert (inference.position, inference.model.model, inference.inputs.sha256) == (1, "ptycho", SCAN.sha256)
    assert inference.reconstruction == pb.ReconstructionStatus(refine_with=ModelSelector(model="rpie"))
    assert not tensors.HasField("reconstruction")
    assert {one.id: one.HasField("reconstruction") for one in queued_core.inferences.list()[0]} == {"r": True, tensors.id: False}
    claim = queued_core.attempts.claim("r", "server", "1-0")
    assert isinstance(claim.spec, ptycho.SubmitReconstructionRequest)
    assert claim.spec.plan == asked


def test_its_pass_and_its_error_are_kept_and_begin_anew_with_every_attempt(queued_core: QueuedCore) -> None:
    submit(queued_core, "r")
    claim = queued_core.attempts.claim("r", "first", "1-0")
    status = pb.ReconstructionStatus(frames=9, iteration=4, fourier_error=0.25)
    assert not queued_core.attempts.report(claim, Progress(rows=90, rows_done=36, reconstruction=status))
    running = queued_core.inferences.get("r")
    assert (running.rows, running.rows_done, running.reconstruction) == (90, 36, status)
    queued_core.clock.advance(timedelta(seconds=30))
    assert queued_core.attempts.lose_passed() == ["r"]
    queued_core.clock.advance(timedelta(seconds=5))
    [task] = queued_core.outbox.list_to_dispatch()
    assert queued_core.outbox.set_dispatched(task, "2-0")
    second = queued_core.attempts.claim("r", "second", "2-0")
    assert queued_core.inferences.get("r").reconstruction == pb.ReconstructionStatus()
    status.answered_by.append(AnsweredBy(model="ptycho", version=3))
    status.corner.extend([1.5, -2.0])
    queued_core.attempts.report(second, Progress(rows=90, rows_done=40, reconstruction=status))
    queued_core.attempts.finish(second, Outcome.SUCCEEDED, result=Result(BlobRef.of_bytes(b"object"), 3, "torchserve"))
    ended = queued_core.inferences.get_succeeded("r")
    assert (ended.rows_done, ended.reconstruction) == (90, status), "an engine that reached its aim early is done"


def test_a_key_stands_for_one_request_whatever_its_kind(queued_core: QueuedCore) -> None:
    queued_core.submit(key="tensors")
    first = submit(queued_core, "r", idempotency_key="scan")
    assert submit(queued_core, "s", idempotency_key="scan") == first
    for key, fields in (("tensors", {}), ("scan", {"plan": plan(iterations=7)}), ("scan", {"scan": pb.TensorsBlob(sha256="0" * 64)})):
        with pytest.raises(AlreadyExistsError, match=key):
            queued_core.inferences.find_submitted(complete_reconstruction(request(idempotency_key=key, **fields)))


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"plan": plan("")}, "plan.model.model", "no model"),
        ({"plan": plan(iterations=10_001)}, "plan.iterations", "10001"),
        (
            {"plan": plan(probe=Tensor(data_type="DATA_TYPE_FP32", shape=[1, 2, 16, 16], data=bytes(2048)))},
            "plan.probe",
            "file of the scan",
        ),
        ({"scan": None}, "scan", "no scan"),
        ({"scan": pb.TensorsBlob(sha256="x")}, "scan.sha256", "not a sha256"),
        ({"scan": pb.TensorsBlob(sha256="0" * 64, size_bytes=-1)}, "scan.size_bytes", "outside"),
        ({"max_attempts": 11}, "max_attempts", "max_attempts is 11"),
        ({"priority": 9}, "priority", "priority"),
    ],
)
def test_a_request_that_says_too_little_or_too_much_is_refused(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as refused:
        complete_reconstruction(request(**fields))
    assert refused.value.field == field


async def test_a_stored_scan_is_there_at_once_and_gives_any_of_its_frames(stored: Path) -> None:
    with StoredScan(stored) as source:
        assert (await source.wait(0), source.size) == (FRAMES, SIZE)
        assert np.array_equal(source.amplitudes(np.array([4, 0, 2])), scan().amplitudes[[4, 0, 2]])
        assert np.array_equal(source.positions(1, 3), scan().positions[1:3])
        assert source.probe is not None


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "NaN or infinity in frame 3"), (-1.0, "frame 3 holds -1")])
async def test_a_frame_that_is_not_fit_is_named_before_anything_is_computed(tmp_path: Path, bad: float, message: str) -> None:
    amplitudes = scan().amplitudes
    amplitudes[3, 2, 1] = bad
    write_scan(tmp_path / "scan", scan(amplitudes=amplitudes))
    with StoredScan(tmp_path / "scan") as source, pytest.raises(InvalidArgumentError, match=message) as refused:
        await source.wait(0)
    assert refused.value.field == "scan.amplitudes"


class Scripted:
    """A reconstructor that tells some stands one after the other, and notes what its listener makes of each."""

    def __init__(self, stands: list[Stand], progress: Progress) -> None:
        self.stands = stands
        self.progress = progress
        self.told: list[tuple[int, int, int]] = []

    async def reconstruct(self, plan: Any, options: CallOptions, source: StoredScan, listener: Any) -> Reconstructed:
        for stand in self.stands:
            await listener.progressed(stand, lambda: np.ones((2, 2), np.complex64))
            self.told.append((self.progress.rows, self.progress.rows_done, self.progress.reconstruction.iteration))
        return Reconstructed(
            object=np.full((20, 24), 1j, np.complex64),
            weight=np.ones((20, 24), np.float32),
            probe=source.probe,
            positions=source.positions(0, await source.wait(0)),
            errors=np.array([0.5, 0.25], np.float32),
            corner=(-7.5, 3.25),
            iterations=1,
            answered_by=[AnsweredBy(model="ptycho", version=2, runtime="torchserve"), AnsweredBy(model="rpie", version=5)],
        )


NETWORK = [Stand(FRAMES), Stand(FRAMES, 3), Stand(FRAMES, FRAMES)]
ENGINE = [Stand(FRAMES, 0, 1, 0.5), Stand(FRAMES, 0, 2, 0.25)]
BOTH = [Stand(FRAMES), Stand(FRAMES, FRAMES), Stand(FRAMES, FRAMES, 1, 0.5)]


@pytest.mark.parametrize(
    ("asked", "stands", "told"),
    [
        (plan(iterations=4), NETWORK[1:], [(5, 3, 0), (5, 5, 0)]),
        (plan("rpie", iterations=4), ENGINE, [(20, 5, 1), (20, 10, 2)]),
        (plan(refine_with="rpie", iterations=4), BOTH, [(25, 0, 0), (25, 5, 0), (25, 10, 1)]),
    ],
)
async def test_rows_are_frames_once_for_the_network_and_once_for_every_pass(
    stored: Path, tmp_path: Path, asked: ptycho.ReconstructionPlan, stands: list[Stand], told: list[tuple[int, int, int]]
) -> None:
    progress = Progress()
    scripted = Scripted(stands, progress)
    computer: Any = Reconstructions(scripted)  # type: ignore[arg-type]
    answered_by = await computer.compute(request(plan=asked), CallOptions(), stored, tmp_path / "out", progress)
    assert scripted.told == told
    assert (answered_by.model, answered_by.version) == ("ptycho", 2)
    status = progress.reconstruction
    assert (status.frames, status.iteration, status.fourier_error, list(status.corner)) == (FRAMES, 1, 0.25, [-7.5, 3.25])
    assert [one.model for one in status.answered_by] == ["ptycho", "rpie"]
    tensors = load_tensors(tmp_path / "out")
    assert {name: array.shape for name, array in tensors.items()} == {
        **dict.fromkeys(("amplitude", "phase", "weight"), (20, 24)),
        "probe": (1, 2, SIZE, SIZE),
        "positions": (FRAMES, 2),
        "errors": (2,),
        "corner": (2,),
    }
    assert tensors["corner"].tolist() == [-7.5, 3.25]
    assert tensors["corner"].dtype == np.float64
