"""How many CPUs this process may really use: a container's quota counts, not the cores of its host."""

import os
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the whole CPUs that are ours, at least 1: the least of the affinity mask and the cgroup's quota (v2 or v1).

    Args:
        cgroup: Where the cgroup file system is mounted.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup / "cpu.max") or _quota(cgroup / "cpu/cpu.cfs_quota_us", cgroup / "cpu/cpu.cfs_period_us")
    return max(1, min(allowed, int(quota))) if quota else allowed


def _quota(*files: Path) -> float | None:
    """Return quota / period in CPUs, or None if the files are not there or set no limit ("max", -1)."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):
        return None
