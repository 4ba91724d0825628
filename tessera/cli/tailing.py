"""The ends of log files, and what is added to them."""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

POLL_S = 0.2


def tail(files: Mapping[str, Path], *, lines: int, follow: bool, show: Callable[[str, str], None]) -> None:
    """Show the last lines of every file, then with `follow` what comes after them, until interrupted.

    Args:
        files: Name to file.
        lines: How many of each to begin with.
        follow: Whether to go on.
        show: Takes a name and a line.
    """
    opened = {name: path.open(encoding="utf-8", errors="replace") for name, path in files.items()}
    try:
        for name, file in opened.items():
            for line in deque(file, maxlen=lines):
                show(name, line.rstrip("\n"))
        while follow:
            if not sum(_show_new(name, file, show) for name, file in opened.items()):
                time.sleep(POLL_S)
    finally:
        for file in opened.values():
            file.close()


def _show_new(name: str, file: IO[str], show: Callable[[str, str], None]) -> int:
    if os.fstat(file.fileno()).st_size < file.tell():  # it had grown too large and was emptied
        file.seek(0)
    count = 0
    while line := file.readline():
        show(name, line.rstrip("\n"))
        count += 1
    return count
