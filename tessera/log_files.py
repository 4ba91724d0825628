"""Files that a child process prints to: kept small while it runs, read from their ends."""

import os
from pathlib import Path


def bound_log(path: Path, limit_bytes: int) -> None:
    """Move the end of a log that has grown over a limit to `<name>.1`, in place of what lies there, and empty the log.

    Whoever writes the log goes on at its new beginning, if it opened the file for appending; it need not know. What it writes in the
    moment between the copy and the emptying is lost. A log that is missing or small is left alone.

    Args:
        path: The log.
        limit_bytes: Above this many bytes; the copy is as large at most.

    Raises:
        OSError: The copy cannot be written; the log is emptied all the same, since its disk may be full.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= limit_bytes:
        return
    try:
        with path.open("rb") as log, path.with_name(f"{path.name}.1").open("wb") as copy:
            log.seek(size - limit_bytes)
            copy.write(log.read(limit_bytes))  # the log may be growing at this moment
    finally:
        os.truncate(path, 0)


def log_tail(path: Path, most_bytes: int) -> str:
    """Return the last bytes of a log as text, without the line that they cut; empty if there is no such file."""
    try:
        with path.open("rb") as log:
            start = max(0, log.seek(0, os.SEEK_END) - most_bytes)
            log.seek(start)
            data = log.read(most_bytes)
    except FileNotFoundError:
        return ""
    if start:
        data = data.partition(b"\n")[2] or data
    return data.decode(errors="replace").strip()
