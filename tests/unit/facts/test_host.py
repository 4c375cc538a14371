"""Host facts: limits of control groups bind, identity does not move with them."""

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from airpack.facts import host


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_is_described() -> None:
    facts = host.read_host()
    assert facts.os == "linux"
    assert facts.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert facts.memory > 1 << 20
    assert 1 <= facts.cpus <= len(os.sched_getaffinity(0))
    assert any(tag.endswith("-any") for tag in facts.python_tags)


@pytest.mark.parametrize(
    ("machine", "wide", "name"),
    [("x86_64", True, "amd64"), ("aarch64", True, "arm64"), ("x86_64", False, "386"), ("mips64", True, "mips64")],
)
def test_architectures_have_their_oci_names(machine: str, wide: bool, name: str) -> None:
    assert host._architecture(machine, wide=wide) == name


def test_memory_without_limits_is_all_of_it(tmp_path: Path) -> None:
    assert host._memory(_machine(tmp_path, {}), 64 << 30) == 8 << 30


def test_memory_is_what_the_system_call_tells_where_no_file_does(tmp_path: Path) -> None:
    assert host._memory(tmp_path, 3 << 30) == 3 << 30
    assert host._memory(_machine(tmp_path, {}), 3 << 30) == 3 << 30


def test_a_limit_of_a_parent_group_binds(tmp_path: Path) -> None:
    root = _machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/memory.max": "1073741824\n",
            "sys/fs/cgroup/slice/job/memory.max": "max\n",
        },
    )
    assert host._memory(root, 64 << 30) == 1 << 30


def test_old_control_groups_bind_as_well(tmp_path: Path) -> None:
    root = _machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert host._memory(root, 64 << 30) == 512 << 20
    assert host._cpus(root, 64) == 2


def test_a_group_outside_the_namespace_is_read_at_its_mount(tmp_path: Path) -> None:
    root = _machine(
        tmp_path, {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "1048576\n", "memory.max": "1"}
    )
    assert host._memory(root, 64 << 30) == 1 << 20


@pytest.mark.parametrize(("quota", "cpus"), [("50000 100000", 1), ("250000 100000", 3), ("max 100000", 64)])
def test_processor_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    root = _machine(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota + "\n"})
    assert host._cpus(root, 64) == cpus


def test_digest_ignores_what_moves_and_holds_the_rest() -> None:
    facts = host.read_host()
    moved = dataclasses.replace(facts, memory=1, cpus=1)
    assert moved.digest() == facts.digest()
    for other in (
        dataclasses.replace(facts, libc="glibc 2.1"),
        dataclasses.replace(facts, python_tags=("py3-none-any",)),
        dataclasses.replace(facts, architecture="arm64"),
    ):
        assert other.digest() != facts.digest()
