"""Directories of jobs: attempts apart, the newest checkpoint found, old jobs removed."""

import os
import time
from pathlib import Path

import pytest

from tessera.errors import InvalidArgumentError
from trainers.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def checkpoint(workspace: Workspace, attempt: int, name: str) -> Path:
    path = workspace.begin_attempt("job1", attempt) / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_the_checkpoint_with_the_most_epochs_of_earlier_attempts_is_resumed(workspace: Workspace) -> None:
    assert workspace.newest_checkpoint("job1", before=1) is None
    checkpoint(workspace, 1, "epoch=0009.ckpt")
    best = checkpoint(workspace, 2, "epoch=0010.ckpt")
    checkpoint(workspace, 3, "epoch=0010.ckpt.partial")
    checkpoint(workspace, 4, "epoch=0099.ckpt")
    assert workspace.newest_checkpoint("job1", before=4) == best


def test_of_two_equal_checkpoints_the_later_attempt_wins(workspace: Workspace) -> None:
    checkpoint(workspace, 2, "epoch=0003.ckpt")
    later = checkpoint(workspace, 10, "epoch=0003.ckpt")
    assert workspace.newest_checkpoint("job1", before=11) == later


def test_only_jobs_that_nothing_was_written_for_are_old(workspace: Workspace) -> None:
    path = checkpoint(workspace, 1, "epoch=0001.ckpt")
    workspace.begin_attempt("job2", 1)
    assert list(workspace.untouched_jobs(60)) == []
    long_ago = time.time() - 3600
    for old in (path, path.parent, path.parent.parent, path.parent.parent.parent):
        os.utime(old, (long_ago, long_ago))
    assert list(workspace.untouched_jobs(60)) == ["job1"]
    workspace.remove("job1")
    assert workspace.newest_checkpoint("job1", before=9) is None
    assert list(workspace.untouched_jobs(-1)) == ["job2"]


def test_a_job_id_is_never_a_path(workspace: Workspace) -> None:
    with pytest.raises(InvalidArgumentError):
        workspace.begin_attempt("../x", 1)
