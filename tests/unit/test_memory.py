"""The memory that this process may use follows the container's limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.memory import available_memory
from tests.fixtures.waiting import WAIT_S

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("content", "expected"), [("268435456\n", 268435456), ("max\n", MACHINE), (f"{2**62}\n", MACHINE)])
@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_limit_of_a_cgroup_of_either_version_counts(tmp_path: Path, file: str, content: str, expected: int) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert available_memory(tmp_path) == expected


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == MACHINE


FREEING = """
import numpy as np
from tessera.memory import resident_memory, return_freed_memory

before = resident_memory()
pieces = [np.ones(1000, np.float64) for _ in range(10_000)]  # 80 MB in pieces that the allocator keeps for later
last = np.ones(1000, np.float64)  # keeps the top of the heap
assert resident_memory() - before > 60e6
pieces.clear()
return_freed_memory()
assert resident_memory() - before < 20e6
assert last.all()
"""


def test_what_was_freed_is_given_back_to_the_system() -> None:
    """In a process of its own, whose heap no other test has filled and freed."""
    subprocess.run([sys.executable, "-c", FREEING], check=True, timeout=WAIT_S)
