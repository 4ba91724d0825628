"""Directories of jobs: `jobs/<job>/attempt-<n>/` for what an attempt writes, `jobs/<job>/inputs/` for what it reads.

Every attempt has a directory of its own, so that a worker that was given up and does not know it never writes into its successor's.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tessera.blob_files import check_room, disk_errors
from tessera.names import check_name

LEAST_ROOM_BYTES = 64 << 20
"""What a job needs at the very least for its inputs and checkpoints."""

_CHECKPOINT = re.compile(r"epoch=(\d+)\.ckpt")
_ATTEMPT = re.compile(r"attempt-(\d+)")


class Workspace:
    """The directories below one root, which several workers may share.

    Args:
        root: Made when missing.

    Raises:
        UnavailableError: It cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._jobs = root.absolute() / "jobs"
        with disk_errors():
            self._jobs.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Raise ResourceExhaustedError if there is no room, UnavailableError if the disk fails."""
        check_room(self._jobs, LEAST_ROOM_BYTES)

    def begin_attempt(self, job_id: str, number: int) -> Path:
        """Make the directory of an attempt and return it. Raises what `check` does."""
        directory = self._job(job_id) / f"attempt-{number}"
        with disk_errors():
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    def input_file(self, job_id: str, sha256: str) -> Path:
        """Return where an input of a job is kept."""
        return self._job(job_id) / "inputs" / sha256

    def newest_checkpoint(self, job_id: str, before: int) -> Path | None:
        """Return the checkpoint with the most epochs of the attempts before number `before`, None if there is none."""
        found = [
            (int(epoch[1]), int(attempt[1]), path)
            for path in self._job(job_id).glob("attempt-*/checkpoints/*.ckpt")
            if (epoch := _CHECKPOINT.fullmatch(path.name)) and (attempt := _ATTEMPT.fullmatch(path.parent.parent.name))
        ]
        return max((entry for entry in found if entry[1] < before), default=(0, 0, None))[2]

    def untouched_jobs(self, older_than_s: float) -> Iterator[str]:
        """Yield the jobs that nothing was written for since `older_than_s` seconds."""
        limit = time.time() - older_than_s
        for directory in self._jobs.glob("*/"):
            with suppress(FileNotFoundError):  # another worker removes it
                if max(path.lstat().st_mtime for path in (directory, *directory.rglob("*"))) < limit:
                    yield directory.name

    def remove(self, job_id: str) -> None:
        """Remove everything that was kept of a job."""
        shutil.rmtree(self._job(job_id), ignore_errors=True)

    def _job(self, job_id: str) -> Path:
        return self._jobs / check_name(job_id, "job_id")
