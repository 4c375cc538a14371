"""What this machine offers to a runtime: platform, interpreter, C library, and the memory and processors one may use.

Only the kernel's own files are read, each with a bound; a value that nobody could tell is empty, never a guess.
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from packaging import tags

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.formats import canonical
from airpack.types import Digest

_BOUND: Final = 1 << 20  # bytes read of one kernel file
_ARCHITECTURES: Final = {  # `uname -m` to OCI image-spec v1.1, image-index.md "platform" (the names of Go)
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_NARROW: Final = {"amd64": "386", "arm64": "arm"}  # what a 32-bit interpreter runs on a 64-bit kernel


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One machine, as the process that asks sees it.

    Attributes:
        os: Operating system by its OCI name, such as `linux`.
        architecture: By its OCI name, such as `amd64`; the kernel's own name where OCI has none.
        python: Version of this interpreter's language, such as `3.11`.
        implementation: Interpreter, such as `cpython`.
        python_tags: Wheel tags that this interpreter takes, best first (PEP 425).
        libc: Such as `glibc 2.36`; empty when it does not say.
        memory: Bytes that may be used at most: the least of RAM and the limits of all control groups of this process.
        cpus: Processors that may be used: the least of affinity and control group quota, rounded up.
    """

    os: str
    architecture: str
    python: str
    implementation: str
    python_tags: tuple[str, ...]
    libc: str
    memory: int
    cpus: int

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON values."""
        return {
            "os": self.os,
            "architecture": self.architecture,
            "python": self.python,
            "implementation": self.implementation,
            "python_tags": list(self.python_tags),
            "libc": self.libc,
            "memory": self.memory,
            "cpus": self.cpus,
        }

    def digest(self) -> Digest:
        """Return the identity of this kind of host, over canonical JSON.

        Memory and processors are left out: limits move from one start to the next, and each activation judges anew.
        """
        facts = self.to_dict()
        del facts["memory"], facts["cpus"]
        return Digest.of(canonical.emit(facts))


def read_host(root: Path = Path("/")) -> HostFacts:
    """Return the facts of this machine.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    return HostFacts(
        os=platform.system().lower(),
        architecture=_architecture(platform.machine(), wide=sys.maxsize > 2**32),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        implementation=sys.implementation.name,
        python_tags=tuple(str(tag) for tag in tags.sys_tags()),
        libc=_libc(),
        memory=_memory(root, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        cpus=_cpus(root, len(os.sched_getaffinity(0))),
    )


def _architecture(machine: str, *, wide: bool) -> str:
    name = _ARCHITECTURES.get(machine, machine)
    return name if wide else _NARROW.get(name, name)


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # musl knows no such name
        return ""


def _memory(root: Path, physical: int) -> int:
    limits = [physical, *_limits(root, "memory", _memory_limit)]
    # A container may be shown less here than the system call tells.
    total = re.search(r"^MemTotal:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if total:
        limits.append(int(total.group(1)) << 10)
    return min(limits)


def _cpus(root: Path, affinity: int) -> int:
    return min([affinity, *_limits(root, "cpu", _cpu_limit)])


def _memory_limit(folder: Path) -> int | None:
    return _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")


def _cpu_limit(folder: Path) -> int | None:
    """Return the quota of one control group in whole processors, at least one."""
    both = re.fullmatch(r"(\d+) (\d+)\s*", _read(folder / "cpu.max"))
    if both:
        quota, period = int(both.group(1)), int(both.group(2))
    else:
        quota, period = _number(folder / "cpu.cfs_quota_us") or 0, _number(folder / "cpu.cfs_period_us") or 0
    return max(1, -(-quota // period)) if quota and period else None


def _limits(root: Path, controller: str, read: Callable[[Path], int | None]) -> Iterator[int]:
    """Yield what `read` finds in each control group of this process and above it: every one of them binds."""
    for base, group in _groups(root, controller):
        for folder in (group, *group.parents):
            limit = read(base / folder)
            if limit is not None:
                yield limit


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield (where the hierarchy is mounted, this process's group in it); cgroups(7), "/proc/pid/cgroup"."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # outside this process's cgroup namespace: only what is mounted can be read
            group = PurePosixPath()
        if not names:
            yield mounts, group
            yield mounts / "unified", group
        elif controller in names.split(","):
            yield mounts / controller, group


def _number(path: Path) -> int | None:
    """Return the whole number in `path`; None for `max`, -1, the 2**63 that means no limit, or no file."""
    text = _read(path).strip()
    return int(text) if re.fullmatch(r"\d{1,15}", text) else None


def _read(path: Path) -> str:
    """Return the text of one kernel file, empty when it is not there or may not be read."""
    try:
        return fsops.read_regular(path, _BOUND).decode("ascii", "replace")
    except (NotFoundError, StorageError, IntegrityError):
        return ""
