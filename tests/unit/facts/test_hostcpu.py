"""Instruction set, memory and processors, from the kernel's files of many machines."""

import os
from pathlib import Path

import pytest

from airpack.facts import hostcpu
from airpack.facts.machine import Machine
from airpack.formats.hostfacts import Isa, Unknown

V1 = "fpu cx8 cmov mmx fxsr sse sse2 lm"
V2 = f"{V1} pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
V3 = f"{V2} fma movbe xsave avx f16c abm bmi1 avx2 bmi2"
V4 = f"{V3} avx512f avx512dq avx512cd avx512bw avx512vl"


def made(root: Path, files: dict[str, str]) -> Machine:
    for name, text in {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Machine(root)


def isa(root: Path, text: str, architecture: str = "amd64") -> Isa | Unknown:
    return hostcpu.read_isa(made(root, {"proc/cpuinfo": text}), architecture)


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (V1, "x86-64-v1"),
        (V2, "x86-64-v2"),
        (V3, "x86-64-v3"),
        (V4, "x86-64-v4"),
        (V4.replace(" abm", ""), "x86-64-v2"),  # one of the level below is missing
        (V4.replace(" avx512vl", ""), "x86-64-v3"),
        (V3.replace(" xsave", ""), "x86-64-v2"),
        ("lm", ""),
    ],
)
def test_the_level_is_the_highest_whose_every_extension_is_there(tmp_path: Path, flags: str, level: str) -> None:
    found = isa(tmp_path, f"processor\t: 0\nmodel name\t: A  Processor\nflags\t\t: {flags} retpoline\nbugs\t\t: avx\n")
    assert isinstance(found, Isa)
    assert (found.level, found.processor) == (level, "A  Processor")
    assert "retpoline" not in found.features
    assert list(found.features) == sorted(found.features)


def test_an_extension_counts_when_every_processor_has_it(tmp_path: Path) -> None:
    found = isa(tmp_path, f"flags : {V4}\n\nflags : {V3}\n\nflags : {V4}\n")
    assert isinstance(found, Isa)
    assert found.level == "x86-64-v3"
    assert "avx512f" not in found.features


@pytest.mark.parametrize(
    ("architecture", "text", "features"),
    [
        (
            "arm64",
            "processor : 0\nFeatures\t: fp asimd asimdhp sve\nCPU part\t: 0xd40\n",
            ("asimd", "asimdhp", "fp", "sve"),
        ),
        (
            "riscv64",
            "isa\t\t: rv64imafdc_zba_zbb\nuarch\t\t: sifive,u74\n",
            ("a", "c", "d", "f", "i", "m", "zba", "zbb"),
        ),
        ("s390x", "features\t: esan3 zarch vx\n", ("esan3", "vx", "zarch")),
    ],
)
def test_other_machines_have_features_and_no_level(
    tmp_path: Path, architecture: str, text: str, features: tuple[str, ...]
) -> None:
    found = isa(tmp_path, text, architecture)
    assert isinstance(found, Isa)
    assert (found.level, found.features) == ("", features)


@pytest.mark.parametrize(
    ("text", "architecture", "reason"),
    [("", "amd64", "no line"), ("Features : a\n", "amd64", "no line"), ("cpu : POWER9\n", "ppc64le", "not known")],
)
def test_what_the_file_does_not_say_is_unknown(tmp_path: Path, text: str, architecture: str, reason: str) -> None:
    found = isa(tmp_path, text, architecture)
    assert isinstance(found, Unknown)
    assert reason in found.reason


def test_without_the_file_it_is_unknown(tmp_path: Path) -> None:
    assert hostcpu.read_isa(Machine(tmp_path), "amd64") == Unknown("isa", "/proc/cpuinfo cannot be read")


def test_many_processors_are_read_at_once(tmp_path: Path) -> None:
    found = isa(tmp_path, f"processor : 0\nflags : {V4}\nmodel name : A\n\n" * 2048)
    assert isinstance(found, Isa)
    assert found.level == "x86-64-v4"


# --- memory -----------------------------------------------------------------------------------------------------------

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
HALF = {"proc/meminfo": f"MemTotal: {PHYSICAL >> 11} kB\nMemAvailable: {PHYSICAL >> 12} kB\n"}


def test_memory_without_limits_is_all_of_it(tmp_path: Path) -> None:
    assert hostcpu.read_memory(Machine(tmp_path)) == PHYSICAL
    assert hostcpu.read_memory(made(tmp_path, HALF)) == PHYSICAL >> 11 << 10


def test_a_limit_of_a_parent_group_binds(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/memory.max": "1048576\n",
            "sys/fs/cgroup/slice/job/memory.max": "max\n",
        },
    )
    assert hostcpu.read_memory(machine) == 1 << 20


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_old_control_groups_bind_as_well(tmp_path: Path, folder: str) -> None:
    machine = made(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1048576\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            f"sys/fs/cgroup/{folder}/job/cpu.cfs_quota_us": "50000\n",
            f"sys/fs/cgroup/{folder}/job/cpu.cfs_period_us": "100000\n",
        },
    )
    assert hostcpu.read_memory(machine) == 1 << 20
    assert hostcpu.read_cpus(machine) == 1


def test_a_container_sees_its_old_groups_at_their_root(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123456789\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n",
        },
    )
    assert hostcpu.read_memory(machine) == 1 << 20


def test_a_group_outside_the_namespace_is_read_at_its_mount(tmp_path: Path) -> None:
    machine = made(
        tmp_path, {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "1048576\n", "memory.max": "1"}
    )
    assert hostcpu.read_memory(machine) == 1 << 20


@pytest.mark.parametrize(("quota", "cpus"), [("50000 100000", 1), ("max 100000", None), ("0 0", None), ("x y", None)])
def test_processor_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int | None) -> None:
    machine = made(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota + "\n"})
    assert hostcpu.read_cpus(machine) == (cpus or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("quota", "cpus"), [("250000 100000", 3), ("100000 100000", 1), ("1 100000", 1)])
def test_a_quota_is_a_whole_number_of_processors(tmp_path: Path, quota: str, cpus: int) -> None:
    assert hostcpu._cpu_limit(made(tmp_path, {"g/cpu.max": quota + "\n"}), "g") == cpus


def test_what_is_left_of_a_limit_is_available(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            **HALF,
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": "1000000\n",
            "sys/fs/cgroup/job/memory.current": "700000\n",
            "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 100000\nactive_file 5\n",
        },
    )
    assert hostcpu.read_available(machine) == 400_000


def test_a_group_that_is_full_has_nothing_left(tmp_path: Path) -> None:
    machine = made(
        tmp_path,
        {
            **HALF,
            "proc/self/cgroup": "4:memory:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2000\n",
        },
    )
    assert hostcpu.read_available(machine) == 0


def test_without_a_word_of_the_kernel_what_is_available_is_unknown(tmp_path: Path) -> None:
    assert hostcpu.read_available(made(tmp_path, {})) is None
