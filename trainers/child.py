"""The child process that trains: `python -m trainers.child ATTEMPT_DIR --progress-fd N`.

It reads `job.json` in the attempt's directory, tells its supervisor through a pipe how it goes (one JSON object a line) and ends with

- 0 after `{"type": "done"}`: `artifact/` is complete,
- 1 after `{"type": "error"}`, which says whether another attempt makes sense,
- 143 on SIGTERM, at once; what is half done never counts, for checkpoints and the artifact appear by rename.

It never outlives its supervisor: the kernel kills it when its parent dies, and a broken pipe ends it too.
"""

import argparse
import ctypes
import errno
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from pydantic import ValidationError

from tessera.errors import InvalidArgumentError
from trainers.progress import PipeReport

TERMINATED = 128 + signal.SIGTERM
_PR_SET_PDEATHSIG = 1
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Train the job in the directory that the command line names, and exit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="of the attempt; holds job.json")
    parser.add_argument("--progress-fd", type=int, required=True, help="write end of the pipe to the supervisor")
    arguments = parser.parse_args()
    _die_with_parent()
    _exit_on_sigterm()
    # A training on several devices starts this program again for each of them; only the first has the pipe.
    report = PipeReport(arguments.progress_fd if int(os.environ.get("LOCAL_RANK", "0")) == 0 else None, on_broken=lambda: os._exit(1))
    sys.exit(_run(arguments.directory, report))


def _run(directory: Path, report: PipeReport) -> int:
    """Do the job and return the exit code."""
    try:
        with report:
            # Imported here, for torch takes seconds during which the supervisor should already hear of us, and SIGTERM should work.
            from trainers.job import Job, run

            metrics = run(Job.model_validate_json((directory / "job.json").read_bytes()), directory, report)
    except Exception as error:
        traceback.print_exc()
        report.error(describe(error), permanent=is_permanent(error))
        return 1
    report.done(metrics)
    return 0


def is_permanent(error: Exception) -> bool:
    """Whether every further attempt at the same job would end in this error."""
    return isinstance(error, InvalidArgumentError | ValidationError)


def describe(error: Exception) -> str:
    """Return one line that tells people what went wrong."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return f"the disk is full (or a quota is reached): {error}"
    if isinstance(error, InvalidArgumentError):
        return f"{error.field}: {error.message}" if error.field else error.message
    return traceback.format_exception_only(error)[-1].strip()


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; if that has happened already, the broken pipe tells."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _exit_on_sigterm() -> None:
    """End with 143 as soon as SIGTERM comes, even amid a long computation in C, and before a library handles it otherwise."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        os._exit(TERMINATED)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


if __name__ == "__main__":
    main()
