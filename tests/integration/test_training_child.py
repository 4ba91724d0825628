"""The training child as its supervisor sees it: a process, a pipe, files, an exit code."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from model_store.manifest import Manifest
from tests.fixtures.family import PICTURE

DEADLINE_S = 120.0
Message = dict[str, Any]


class Child:
    """A child in a directory of its own; `messages` reads its pipe to the end."""

    def __init__(self, directory: Path, **job: Any) -> None:
        directory.mkdir()
        defaults = {
            "job_id": "job-1",
            "attempt": 1,
            "family": "puzzle_cells",
            "architecture": "cells_exp3",
            "model": "photo",
            "name": "",
            "model_config": {"columns": 4, "rows": 3},
            "hyperparameters": {"epochs": 2},
            "inputs": {"picture": str(PICTURE)},
            "input_digests": {},
            "experiment_id": "",
            "resume_from": None,
        }
        (directory / "job.json").write_text(json.dumps(defaults | job))
        reader, writer = os.pipe()
        self.directory = directory
        self.log = directory / "log"
        command = [sys.executable, "-m", "trainers.child", str(directory), "--progress-fd", str(writer)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, pass_fds=[writer], stdout=log, stderr=log)
        os.close(writer)
        self.pipe = os.fdopen(reader)

    def messages(self) -> Iterator[Message]:
        return (json.loads(line) for line in self.pipe)

    def read_until(self, **wanted: Any) -> Message:
        """Return the first message with these values."""
        for message in self.messages():
            if all(message.get(key) == value for key, value in wanted.items()):
                return message
        raise AssertionError(f"{wanted} never came; log: {self.log.read_text()}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.directory / "checkpoints").glob("*.ckpt"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts children in numbered directories, and ends them."""
    children: list[Child] = []

    def start_child(**job: Any) -> Child:
        children.append(Child(tmp_path / f"attempt-{len(children) + 1}", **job))
        return children[-1]

    yield start_child
    for child in children:
        child.close()


def test_a_job_ends_with_a_whole_artifact_and_not_a_word_on_the_console(start: Any) -> None:
    child = start()
    messages = list(child.messages())
    assert child.process.wait(DEADLINE_S) == 0
    assert child.log.read_text() == ""
    assert messages[-1]["type"] == "done"
    assert {"top1", "top5", "loss"} <= set(messages[-1]["metrics"])
    assert [message["epoch"] for message in messages if message["type"] == "epoch"] == [1, 2]
    phases = [message["phase"] for message in messages if message["type"] == "progress"]
    assert list(dict.fromkeys(phases)) == ["prepare", "train", "evaluate", "export"]
    manifest = Manifest.parse((child.directory / "artifact/manifest.json").read_bytes())
    assert (manifest.lineage.job_id, manifest.model, manifest.version) == ("job-1", "photo", None)
    assert all((child.directory / "artifact" / entry.path).stat().st_size == entry.size_bytes for entry in manifest.files)


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({"architecture": "cells_exp9"}, "known: cells_exp3, cells_exp4"),
        ({"inputs": {"picture": "/nowhere/photo.jpg"}}, "cannot read photo.jpg"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_job_that_can_never_work_ends_as_a_permanent_error(start: Any, job: dict[str, Any], reason: str) -> None:
    child = start(**job)
    last = list(child.messages())[-1]
    assert child.process.wait(DEADLINE_S) == 1
    assert (last["type"], last["permanent"]) == ("error", True)
    assert reason in last["message"]
    assert not (child.directory / "artifact").exists()


def test_anything_else_that_fails_may_be_tried_again_and_its_traceback_is_logged(start: Any) -> None:
    child = start()
    (child.directory / "checkpoints").write_text("a file where a directory should be")
    last = list(child.messages())[-1]
    assert child.process.wait(DEADLINE_S) == 1
    assert (last["type"], last["permanent"]) == ("error", False)
    assert last["message"].startswith("FileExistsError")
    assert "Traceback" in child.log.read_text()


def test_a_full_disk_is_named(start: Any) -> None:
    child = start()
    limit = 200_000
    resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    last = list(child.messages())[-1]
    assert child.process.wait(DEADLINE_S) == 1
    assert (last["type"], last["permanent"]) == ("error", False)
    assert "the disk is full" in last["message"]
    assert list((child.directory / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("moment", [{"phase": "prepare"}, {"type": "epoch"}])
def test_sigterm_ends_it_with_143_at_any_moment(start: Any, moment: dict[str, Any]) -> None:
    child = start(hyperparameters={"epochs": 100_000, "evaluate_every": 100_000})
    child.read_until(**moment)
    child.process.send_signal(signal.SIGTERM)
    assert child.process.wait(DEADLINE_S) == 143
    assert not (child.directory / "artifact").exists()


def test_it_ends_when_nobody_listens_any_more(start: Any) -> None:
    child = start(hyperparameters={"epochs": 100_000, "evaluate_every": 100_000})
    child.read_until(type="epoch")
    child.pipe.close()
    assert child.process.wait(DEADLINE_S) == 1


def test_it_dies_with_its_supervisor(tmp_path: Path) -> None:
    """The supervisor is killed while another process keeps the pipe open, so that only the kernel can tell the child."""
    script = tmp_path / "supervisor.py"
    job = {"family": "puzzle_cells", "architecture": "cells_exp3", "model": "m", "hyperparameters": {"epochs": 100_000}}
    (tmp_path / "job.json").write_text(json.dumps(job | {"inputs": {"picture": str(PICTURE)}}))
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'trainers.child', sys.argv[1], '--progress-fd', sys.argv[2]],"
        " pass_fds=[int(sys.argv[2])])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    reader, writer = os.pipe()
    command = [sys.executable, str(script), str(tmp_path), str(writer)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.PIPE, text=True, env=environment) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        with os.fdopen(reader) as pipe:
            assert pipe.readline()
            supervisor.kill()
            deadline_s = time.monotonic() + DEADLINE_S
            while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            os.close(writer)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_kill_9_the_next_attempt_goes_on_and_ends_with_the_same_weights(start: Any) -> None:
    # Three hundred pieces make an epoch long enough to be killed in the middle of the training.
    job = {
        "model_config": {"columns": 20, "rows": 15},
        "hyperparameters": {"epochs": 6, "accelerator": "cpu"},
        "architecture": "cells_exp4",
    }
    straight = start(**job)
    assert list(straight.messages())[-1]["type"] == "done"

    killed = start(**job)
    killed.read_until(type="epoch", epoch=3)
    killed.process.kill()
    killed.process.wait()
    done = int(killed.checkpoints[-1].stem.removeprefix("epoch="))
    assert 3 <= done < 6

    resumed = start(**job, attempt=2, resume_from=str(killed.checkpoints[-1]))
    messages = list(resumed.messages())
    assert [message["epoch"] for message in messages if message["type"] == "resumed"] == [done]
    assert [message["epoch"] for message in messages if message["type"] == "epoch"] == list(range(1, 7))
    assert messages[-1]["type"] == "done"
    ours, theirs = (load_file(child.directory / "artifact/weights.safetensors") for child in (resumed, straight))
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5) for name in theirs)


@pytest.mark.slow
def test_two_devices_train_one_network(start: Any) -> None:
    child = start(hyperparameters={"epochs": 30, "devices": 2, "accelerator": "cpu", "batch_size": 6})
    child.read_until(type="epoch", epoch=1)
    ranks = [process for process in psutil.Process(child.process.pid).children() if "trainers.child" in process.cmdline()]
    assert len(ranks) == 1
    messages = list(child.messages())
    assert child.process.wait(DEADLINE_S) == 0, child.log.read_text()
    assert [message["epoch"] for message in messages if message["type"] == "epoch"] == list(range(2, 31))
    assert messages[-1]["type"] == "done"
    assert (child.directory / "artifact/manifest.json").exists()
