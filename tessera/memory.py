"""How much memory this process may really use, how much it uses, and giving back what is free: a container's limit counts, not its host."""

import ctypes
import os
from pathlib import Path


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that are ours: the least of what the machine has and the cgroup's limit (v2 or v1).

    Args:
        cgroup: Where the cgroup file system is mounted.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = (_limit(cgroup / "memory.max"), _limit(cgroup / "memory/memory.limit_in_bytes"))
    return min([machine, *(limit for limit in limits if limit is not None)])


def resident_memory(process: Path = Path("/proc/self")) -> int:
    """Return the bytes that a process, by default this one, has in memory now.

    Args:
        process: Its folder in /proc.
    """
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def return_freed_memory() -> None:
    """Give the system back what was freed; takes some milliseconds.

    The allocator of glibc would keep most of it: large pieces too, once it has seen a few of them, and in many arenas, one for each thread.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _limit(file: Path) -> int | None:
    """Return a limit in bytes, or None if the file is not there or sets none ("max", or more than any machine has)."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
