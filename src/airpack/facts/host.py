"""What this machine offers to a runtime: system, libraries, instruction set, GPUs, and what of them one may use.

    read_host()     ->  HostFacts(os="linux", architecture="amd64", isa=Isa("AMD EPYC", "x86-64-v3", ...), ...)
    read_room()     ->  Room(memory=8589934592, cpus=4), without the rest

Only the kernel's own files and the host's own libraries are read, each with a bound, without root; NVIDIA's driver is
asked in a process of its own. A value that nobody could tell is None, with the reason in `unknown`; never a guess.
"""

import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from packaging import tags

from airpack.facts import hostcpu, hostgpus
from airpack.facts.hostlibs import read_libraries
from airpack.facts.machine import Machine
from airpack.formats.hostfacts import Disk, HostFacts, Now, Unknown

__all__ = ["HostFacts", "Room", "read_host", "read_room"]

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
    "loongarch64": "loong64",
}
_NARROW: Final = {"amd64": "386", "arm64": "arm"}  # what a 32-bit interpreter runs on a 64-bit kernel
_SITE: Final = Path("/var/lib/airpack")  # where a site lies by default
_HINTS: Final = (  # a file, what to find in it ("" for its being there), and what that hints at
    (".dockerenv", "", "docker"),
    ("run/.containerenv", "", "podman"),
    ("run/systemd/container", "", "systemd"),
    ("var/run/secrets/kubernetes.io", "", "kubernetes"),
    ("proc/1/cgroup", "docker", "docker"),
    ("proc/1/cgroup", "kubepods", "kubernetes"),
    ("proc/1/cgroup", "lxc", "lxc"),
    ("proc/1/cgroup", "libpod", "podman"),
    ("proc/version", "gVisor", "gvisor"),
    ("proc/sys/kernel/osrelease", "microsoft", "wsl"),
)


class Room(NamedTuple):
    """What may be used: bytes of memory, and processors."""

    memory: int
    cpus: int


def read_room(root: Path = Path("/")) -> Room:
    """Return what of this machine may be used.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    machine = Machine(root)
    return Room(hostcpu.read_memory(machine), hostcpu.read_cpus(machine))


def read_host(
    root: Path = Path("/"), *, ask: "hostgpus.Ask | None" = None, disks: Iterable[Path] | None = None
) -> HostFacts:
    """Return the facts of this machine.

    Args:
        root: Folder that holds `proc`, `sys`, `etc`, `dev` and `lib`.
        ask: Asks NVML; by default in a process of its own.
        disks: Folders whose file systems are described; by default those of the system, of temporary files, and where
            a site lies by default.
    """
    machine = Machine(root)
    architecture = _architecture(platform.machine(), wide=sys.maxsize > 2**32)
    gpus = hostgpus.read_gpus(machine, ask)
    libraries = read_libraries(machine, architecture)
    isa = hostcpu.read_isa(machine, architecture)
    unknown = [*gpus.unknown, *(each for each in (libraries, isa) if isinstance(each, Unknown))]
    room = read_room(root)
    return HostFacts(
        os=platform.system().lower(),
        architecture=architecture,
        kernel=platform.release(),
        distribution=_distribution(machine),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        implementation=sys.implementation.name,
        python_tags=tuple(str(tag) for tag in tags.sys_tags()),
        libc=_libc(),
        libraries=None if isinstance(libraries, Unknown) else libraries[0],
        sonames=None if isinstance(libraries, Unknown) else libraries[1],
        isa=None if isinstance(isa, Unknown) else isa,
        gpus=gpus.gpus,
        drivers=gpus.drivers,
        containers=_containers(machine),
        now=Now(
            memory=room.memory,
            available=hostcpu.read_available(machine),
            swap=hostcpu.meminfo(machine, "SwapTotal"),
            locked=hostcpu.read_locked(),
            cpus=room.cpus,
            gpus=gpus.free,
            disks=_disks(disks if disks is not None else (Path("/"), Path(tempfile.gettempdir()), _SITE)),
        ),
        unknown=tuple(unknown),
    )


def _architecture(machine: str, *, wide: bool) -> str:
    name = _ARCHITECTURES.get(machine, machine)
    return name if wide else _NARROW.get(name, name)


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # musl knows no such name
        return ""


def _distribution(machine: Machine) -> str:
    """Return name and version of the distribution (os-release(5))."""
    text = machine.text("etc/os-release") or machine.text("usr/lib/os-release") or ""
    found = {
        match[1]: match[3]
        for match in re.finditer(r"^(ID|VERSION_ID)=([\"']?)([A-Za-z0-9._-]{1,64})\2$", text, re.MULTILINE)
    }
    return " ".join(found[key] for key in ("ID", "VERSION_ID") if key in found)


def _containers(machine: Machine) -> tuple[str, ...]:
    found = {
        hint
        for path, word, hint in _HINTS
        if machine.has(path) and (not word or word.lower() in (machine.text(path) or "").lower())
    }
    return tuple(sorted(found))


def _disks(folders: Iterable[Path]) -> tuple[Disk, ...]:
    """Return the file systems of the folders that are there, each once."""
    found: dict[int, Disk] = {}
    for folder in folders:
        try:
            device, space = folder.stat().st_dev, os.statvfs(folder)
        except OSError:
            continue
        total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
        found.setdefault(device, Disk(str(folder), total, free))
    return tuple(sorted(found.values(), key=lambda disk: disk.path))
