"""The number of usable CPUs follows the container's quota, wherever among its cgroups that is set."""

import os
from pathlib import Path

import pytest

from tessera.cpus import available_cpus

MANY = 64
"""CPUs of the host in these tests."""


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with many CPUs, all of them in our affinity mask."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(MANY)))


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def cpus(root: Path, own: str = "0::/\n") -> int:
    write(root / "self", own)
    return available_cpus(root / "mount", root / "self")


@pytest.mark.parametrize(
    ("content", "expected"),
    [("100000 100000", 1), ("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", MANY), ("9900000 100000", MANY)],
)
def test_a_quota_of_cgroup_v2_counts(tmp_path: Path, content: str, expected: int) -> None:
    write(tmp_path / "mount/cpu.max", content)
    assert cpus(tmp_path) == expected


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", MANY)])
def test_a_quota_of_cgroup_v1_counts(tmp_path: Path, mount: str, quota: str, expected: int) -> None:
    write(tmp_path / "mount" / mount / "cpu.cfs_quota_us", quota)
    write(tmp_path / "mount" / mount / "cpu.cfs_period_us", "100000")
    assert cpus(tmp_path, "4:memory:/\n3:cpu,cpuacct:/\n") == expected


@pytest.mark.parametrize("level", ["", "system.slice", "system.slice/tessera.service"])
def test_a_quota_above_our_own_cgroup_counts_too(tmp_path: Path, level: str) -> None:
    for each in ("", "system.slice", "system.slice/tessera.service"):
        write(tmp_path / "mount" / each / "cpu.max", "500000 100000" if each == level else "max 100000")
    assert cpus(tmp_path, "0::/system.slice/tessera.service\n") == 5


def test_the_least_of_nested_quotas_counts(tmp_path: Path) -> None:
    write(tmp_path / "mount/kubepods/cpu.max", "300000 100000")
    write(tmp_path / "mount/kubepods/pod1/cpu.max", "800000 100000")
    assert cpus(tmp_path, "0::/kubepods/pod1\n") == 3


def test_a_nested_quota_of_cgroup_v1_counts(tmp_path: Path) -> None:
    write(tmp_path / "mount/cpu/docker/c1/cpu.cfs_quota_us", "200000")
    write(tmp_path / "mount/cpu/docker/c1/cpu.cfs_period_us", "100000")
    assert cpus(tmp_path, "5:cpuset:/\n3:cpuacct,cpu:/docker/c1\n") == 2


def test_a_quota_of_another_cgroup_does_not_count(tmp_path: Path) -> None:
    write(tmp_path / "mount/system.slice/other.service/cpu.max", "100000 100000")
    assert cpus(tmp_path, "0::/system.slice/tessera.service\n") == MANY


def test_a_container_sees_its_own_cgroup_as_the_root_though_it_is_named_as_on_the_host(tmp_path: Path) -> None:
    write(tmp_path / "mount/cpu.max", "200000 100000")
    assert cpus(tmp_path, "0::/kubepods.slice/pod1/container1\n") == 2
    assert cpus(tmp_path, "0::/../../other\n") == 2


def test_the_affinity_mask_counts_if_it_is_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 7})
    write(tmp_path / "mount/cpu.max", "400000 100000")
    assert cpus(tmp_path) == 2


@pytest.mark.parametrize("content", ["", "nonsense", "100000", "100000 0 0", "100000 x"])
def test_a_file_that_makes_no_sense_is_left_out(tmp_path: Path, content: str) -> None:
    write(tmp_path / "mount/cpu.max", content)
    assert cpus(tmp_path) == MANY


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none", tmp_path / "neither") == MANY
