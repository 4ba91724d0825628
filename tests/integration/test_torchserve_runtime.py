"""The runtime on a real TorchServe: what it computes, and that it comes back whatever is killed."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from opentelemetry.trace import INVALID_SPAN

from services.inference.batches import Request, compute
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import RuntimeOptions
from services.inference.runtimes.torchserve import TorchServeModel
from tessera.errors import DataLossError, TesseraError, UnavailableError
from tests.fixtures.inference import TinyModel
from tests.fixtures.torchserve import RealTorchServe, program_manifest
from tests.fixtures.waiting import WAIT_S, blocking_until

ROOT = Path(__file__).parents[2]
TINY = TinyModel(marker=3)
IMAGES = np.random.default_rng(1).uniform(0.1, 1, (5, 3, 64, 64)).astype(np.float32)
BLACK = np.zeros((1, 3, 64, 64), np.float32)


@pytest.fixture(scope="module")
def model(torchserve: RealTorchServe) -> TorchServeModel:
    """Stays loaded for the whole module."""
    return torchserve.load(TINY)


def right(model: TorchServeModel, tiny: TinyModel = TINY) -> bool:
    return np.allclose(model.run({"image": IMAGES})["logits"], tiny.logits(IMAGES), rtol=1e-4, atol=1e-4)


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # in between
        return True


def outage(model: TorchServeModel) -> list[TesseraError]:
    """Ask until the model answers rightly again, and return what it said meanwhile."""
    said: list[TesseraError] = []
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert right(model)
            return said
        except TesseraError as error:
            said.append(error)
            assert time.monotonic() < deadline, error.message
            time.sleep(0.05)


def test_a_program_computes_what_numpy_computes_for_any_batch(model: TorchServeModel) -> None:
    for rows in (1, 2, 5):
        np.testing.assert_allclose(model.run({"image": IMAGES[:rows]})["logits"], TINY.logits(IMAGES[:rows]), rtol=1e-4, atol=1e-4)


async def test_a_piece_on_which_the_model_raises_fails_alone(model: TorchServeModel) -> None:
    loop = asyncio.get_running_loop()
    pieces = [IMAGES[:1], BLACK, IMAGES[1:2]]
    batch = [Request({"image": piece}, 1, None, CallOptions(), loop.create_future(), INVALID_SPAN) for piece in pieces]
    first, failed, last = (outcome.result for outcome in await asyncio.to_thread(compute, model.run, batch))
    assert isinstance(failed, TesseraError)
    assert failed.code == "INTERNAL"
    assert "a piece is black" in failed.message
    for result, piece in ((first, pieces[0]), (last, pieces[2])):
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(result["logits"], TINY.logits(piece), rtol=1e-4, atol=1e-4)


def test_a_program_that_is_not_the_one_of_the_manifest_is_not_even_packed(torchserve: RealTorchServe, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DataLossError, match="digest"):
        torchserve.runtime.load(program_manifest(TINY), tmp_path / "model.pt2", RuntimeOptions())


def test_two_versions_are_there_at_once_and_one_goes_without_the_other(torchserve: RealTorchServe, model: TorchServeModel) -> None:
    second = TinyModel(marker=7)
    other = torchserve.load(second, version=2)
    workers = {worker.pid for worker in torchserve.workers()}
    assert right(model)
    assert right(other, second)
    other.close()
    assert right(model)
    blocking_until(lambda: {worker.pid for worker in torchserve.workers()} < workers)


def test_nothing_of_ours_listens_but_on_loopback(torchserve: RealTorchServe, model: TorchServeModel) -> None:
    listening = [each.laddr for each in torchserve.java().net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert len(listening) == 4
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert not {address.port for address in listening} & {8080, 8081, 8082, 7070, 7071}


def test_its_log_holds_warnings_alone(torchserve: RealTorchServe, model: TorchServeModel) -> None:
    with pytest.raises(TesseraError):
        model.run({"image": BLACK})
    blocking_until(lambda: "RuntimeError: a piece is black" in torchserve.log_file.read_text())
    assert " INFO " not in torchserve.log_file.read_text()


def test_a_worker_that_is_killed_comes_back_and_callers_are_told_to_come_again(torchserve: RealTorchServe, model: TorchServeModel) -> None:
    (worker,) = torchserve.workers()
    worker.kill()
    blocking_until(lambda: has_ended(worker))
    said = outage(model)
    assert all(isinstance(error, UnavailableError) and error.retry_after_s for error in said)
    assert [each.pid for each in torchserve.workers()] != [worker.pid]


def test_a_torchserve_that_is_killed_is_started_again_with_its_models(torchserve: RealTorchServe, model: TorchServeModel) -> None:
    java = torchserve.java()
    workers = torchserve.workers()
    java.kill()
    said = outage(model)
    assert said
    assert all(isinstance(error, UnavailableError) and error.retry_after_s for error in said)
    assert torchserve.java().pid != java.pid
    blocking_until(lambda: all(has_ended(worker) for worker in workers))


HOST = """
import sys, time
from pathlib import Path
from tests.fixtures.torchserve import RealTorchServe, TinyModel
real = RealTorchServe(Path(sys.argv[1]))
real.load(TinyModel(marker=3))
print(real.process.pid, *(worker.pid for worker in real.workers()), flush=True)
time.sleep(600)
"""


def test_a_process_that_is_killed_leaves_no_java_and_no_worker_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout
        pids = [int(pid) for pid in read_pids(host).split()]
        assert len(pids) == 2
        children = [psutil.Process(pid) for pid in pids]
        host.kill()
        host.wait(WAIT_S)
        blocking_until(lambda: all(has_ended(child) for child in children))


def read_pids(host: "subprocess.Popen[str]") -> str:
    """Return the line of pids, which comes after what is logged."""
    assert host.stdout
    for line in host.stdout:
        if line.replace(" ", "").strip().isdigit():
            return line
    raise AssertionError("it ended before it had loaded the model")
