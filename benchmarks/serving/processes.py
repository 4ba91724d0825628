"""CPU time of process trees, from /proc."""

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds, user and system, of a process and all below it, those that have ended and were waited for included."""
    return sum(_cpu_s(one) for one in tree(pid))


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting.extend(int(child) for child in file.read_text().split())
            except OSError:  # the thread has ended meanwhile
                continue
    return found


def machine_busy_s() -> float:
    """Return the CPU seconds that the whole machine has worked since it was started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) * _TICK_S


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) * _TICK_S
