"""The processors of a host: their instruction set, and how much of them and of memory may be used.

Levels of x86-64: System V ABI, AMD64 supplement, "Micro-Architecture Levels". Control groups: cgroups(7), and the
kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final

from airpack.facts.machine import Machine
from airpack.formats.hostfacts import LEVELS, Isa, Unknown

_LINES: Final = {  # architecture to (names of the line with extensions, names of the line with the processor's name)
    "amd64": ("flags", "model name"),
    "386": ("flags", "model name"),
    "arm64": ("Features", "model name"),
    "arm": ("Features", "model name"),
    "s390x": ("features", "processor 0"),
    "riscv64": ("isa", "uarch"),
    "loong64": ("Features", "Model Name"),
}
# What compilers and runtimes ask for; the kernel's other words come and go with it, and say nothing about programs.
_X86: Final = re.compile(
    r"(?:sse\w*|ssse3|avx\w*|amx\w*|bmi[12]|fma4?|pni|popcnt|lahf_lm|cx16|cx8|cmov|fxsr|mmx|abm|f16c|movbe|xsave|aes|vaes"
    r"|pclmulqdq|vpclmulqdq|gfni|sha_ni|adx|rdrand|rdseed|xop|tbm|fsgsbase)\Z"
)
_NEEDED: Final = (  # by each level, beside those of the level below
    {"cmov", "cx8", "fxsr", "mmx", "sse", "sse2"},
    {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)
_NAME: Final = 200  # characters of a processor's name
_DEPTH: Final = 128  # control groups within each other
_HIERARCHIES: Final = 64


def read_isa(machine: Machine, architecture: str) -> Isa | Unknown:
    """Return the instruction set that every processor of the machine has; or why it is unknown.

    Args:
        machine: Whose `proc/cpuinfo` is read.
        architecture: By its OCI name.
    """
    text = machine.text("proc/cpuinfo")
    if text is None:
        return Unknown("isa", "/proc/cpuinfo cannot be read")
    if architecture not in _LINES:
        return Unknown("isa", f"/proc/cpuinfo of {architecture} is not known here")
    extensions, name = _LINES[architecture]
    found = [_words(line, architecture) for line in sorted(set(_values(text, extensions)))]
    if not found:
        return Unknown("isa", f"/proc/cpuinfo has no line {extensions!r}")
    features = frozenset.intersection(*found)
    processor = next(_values(text, name), "")[:_NAME]
    return Isa(processor, _level(features) if architecture == "amd64" else "", tuple(sorted(features)))


def _values(text: str, name: str) -> Iterator[str]:
    for match in re.finditer(rf"^{re.escape(name)}[ \t]*:(.*)$", text, re.MULTILINE):
        yield match[1].strip()


def _words(line: str, architecture: str) -> frozenset[str]:
    if architecture == "riscv64":  # rv64imafdc_zba_zbb: letters, then names
        letters, *names = line.split("_")
        return frozenset((*letters.removeprefix("rv64"), *names))
    words = line.split()
    return frozenset(word for word in words if architecture not in {"amd64", "386"} or _X86.match(word))


def _level(features: frozenset[str]) -> str:
    level = ""
    for name, needed in zip(LEVELS, _NEEDED, strict=True):
        if not needed <= features:
            break
        level = name
    return level


# --- how much may be used ---------------------------------------------------------------------------------------------


def read_memory(machine: Machine) -> int:
    """Return the bytes of memory that may be used at most: the least of RAM and of all control groups' limits."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits(machine, "memory", _memory_limit)]
    # A container may be shown less here than the system call tells.
    total = meminfo(machine, "MemTotal")
    return min([*limits, *([] if total is None else [total])])


def read_available(machine: Machine) -> int | None:
    """Return the bytes of memory that may be used now without swapping; None when nobody tells."""
    available = meminfo(machine, "MemAvailable")
    if available is None:
        return None
    return max(0, min([available, *_limits(machine, "memory", _memory_left)]))


def read_cpus(machine: Machine) -> int:
    """Return the processors that may be used: the least of affinity and of all control groups' quotas, rounded up."""
    return min([len(os.sched_getaffinity(0)), *_limits(machine, "cpu", _cpu_limit)])


def read_locked() -> int:
    """Return the bytes that may be locked into memory; -1 for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return -1 if soft == resource.RLIM_INFINITY else soft


def meminfo(machine: Machine, name: str) -> int | None:
    """Return the bytes that a line of `proc/meminfo` tells; None without it."""
    found = re.search(rf"^{name}:\s+([0-9]{{1,15}}) kB$", machine.text("proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _memory_limit(machine: Machine, folder: str) -> int | None:
    limit = machine.number(f"{folder}/memory.max")
    return limit if limit is not None else machine.number(f"{folder}/memory.limit_in_bytes")


def _memory_left(machine: Machine, folder: str) -> int | None:
    """Return what is left of one control group's limit; file pages that can be dropped count as left."""
    limit = _memory_limit(machine, folder)
    used = machine.number(f"{folder}/memory.current")
    used = used if used is not None else machine.number(f"{folder}/memory.usage_in_bytes")
    if limit is None or used is None:
        return limit
    droppable = re.search(r"^(?:total_)?inactive_file ([0-9]{1,15})$", _stat(machine, folder), re.MULTILINE)
    return limit - max(0, used - (int(droppable[1]) if droppable else 0))


def _stat(machine: Machine, folder: str) -> str:
    return machine.text(f"{folder}/memory.stat") or ""


def _cpu_limit(machine: Machine, folder: str) -> int | None:
    """Return the quota of one control group in whole processors, at least one."""
    both = re.fullmatch(r"([0-9]{1,15}) ([0-9]{1,15})\s*", machine.text(f"{folder}/cpu.max") or "")
    if both:
        quota, period = int(both[1]), int(both[2])
    else:
        quota = machine.number(f"{folder}/cpu.cfs_quota_us") or 0
        period = machine.number(f"{folder}/cpu.cfs_period_us") or 0
    return max(1, -(-quota // period)) if quota and period else None


def _limits(machine: Machine, controller: str, read: Callable[[Machine, str], int | None]) -> Iterator[int]:
    """Yield what `read` finds in each control group of this process and above it: every one of them binds."""
    for base, group in _groups(machine, controller):
        for folder in (group, *group.parents)[:_DEPTH]:
            limit = read(machine, str(base / folder))
            if limit is not None:
                yield limit


def _groups(machine: Machine, controller: str) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Yield (where the hierarchy is mounted, this process's group in it); cgroups(7), "/proc/pid/cgroup"."""
    mounts = PurePosixPath("sys/fs/cgroup")
    for line in (machine.text("proc/self/cgroup") or "").splitlines()[:_HIERARCHIES]:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # outside this process's cgroup namespace: only what is mounted can be read
            group = PurePosixPath()
        if not names:
            yield mounts, group
            yield mounts / "unified", group
        elif controller in names.split(","):
            yield mounts / controller, group
            yield mounts / names, group
