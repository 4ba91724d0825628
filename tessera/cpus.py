"""How many CPUs this process may really use: a container's quota counts, not the cores of its host."""

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the whole CPUs that are ours, at least 1: the least of the affinity mask and of the quotas of our cgroup and those above it.

    Args:
        cgroup: Where the cgroup file system is mounted; v2, v1 or both.
        own: The file that says in which cgroups this process is.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, int(min([allowed, *_quotas(cgroup, own)])))


def _quotas(cgroup: Path, own: Path) -> Iterator[float]:
    """Yield every quota that binds us, in CPUs."""
    for hierarchy, group in _groups(cgroup, own):
        for level in (group, *group.parents):
            files = (level / "cpu.max",) if hierarchy == "v2" else (level / "cpu.cfs_quota_us", level / "cpu.cfs_period_us")
            if quota := _quota(*files):
                yield quota
            if level == cgroup:
                break


def _groups(cgroup: Path, own: Path) -> Iterator[tuple[str, Path]]:
    """Yield the directories of our cgroups that can hold a CPU quota.

    Within a container the mount often shows our cgroup alone as its root, while the file names it as the host does; so the roots are looked
    at in any case.
    """
    yield "v2", cgroup
    yield from (("v1", mount) for mount in _v1_mounts(cgroup))
    try:
        entries = own.read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        number, controllers, path = entry.split(":", 2)
        inside = path.strip("/")
        if number == "0":
            yield "v2", cgroup / inside
        elif "cpu" in controllers.split(","):
            yield from (("v1", mount / inside) for mount in _v1_mounts(cgroup))


def _v1_mounts(cgroup: Path) -> Iterator[Path]:
    """Yield where the CPU controller of v1 may be mounted."""
    yield from (cgroup / "cpu", cgroup / "cpu,cpuacct")


def _quota(*files: Path) -> float | None:
    """Return quota / period in CPUs, or None if the files are not there or set no limit ("max", -1)."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):
        return None
