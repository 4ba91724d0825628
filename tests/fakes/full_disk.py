"""Runs a module whose disk is full while a file is there, for machines that let no test mount a small volume."""

import errno
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FULL, MODULE = Path(sys.argv[1]), sys.argv[2]

statvfs, mkstemp = os.statvfs, tempfile.mkstemp


def statvfs_when_full(path: Any) -> Any:
    found = statvfs(path)
    return SimpleNamespace(f_bavail=0, f_frsize=found.f_frsize, f_files=0, f_favail=0) if FULL.exists() else found


def mkstemp_when_full(*args: Any, **options: Any) -> tuple[int, str]:
    if FULL.exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(options.get("dir")))
    return mkstemp(*args, **options)


if __name__ == "__main__":
    os.statvfs, tempfile.mkstemp = statvfs_when_full, mkstemp_when_full
    sys.argv = [MODULE]
    runpy.run_module(MODULE, run_name="__main__")
