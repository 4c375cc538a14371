"""The facts of one host: what a machine offers to a runtime, as the process that asked saw it.

    {"architecture":"amd64","gpus":[],"isa":{"features":["avx","avx2",...],"level":"x86-64-v3",...},"kernel":"6.1.0",...,
     "now":{"cpus":4,"memory":8589934592,...},"os":"linux",...,"schema":"airpack.host/1","unknown":[]}

`null` is what could not be found out, and `unknown` says why; an empty list is what is known to be none.
What moves from one minute to the next stands below `now`, and is no part of the digest.
`docs/spec/compat.md`, "Hosts".

Law: `HostFacts.parse(facts.emit()) == facts`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.types import Digest

SCHEMA: Final = "airpack.host/1"
LEVELS: Final = ("x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4")
VENDORS: Final = ("nvidia", "amd", "intel")

_TAGS: Final = 10_000  # tags of one interpreter
_FEATURES: Final = 1000
_LIBRARIES: Final = 64  # libraries whose symbol versions are known
_VERSIONS: Final = 1000  # symbol versions of one library
_SONAMES: Final = 50_000
_GPUS: Final = 1024
_DISKS: Final = 64
_UNKNOWN: Final = 256
_HINTS: Final = 16
_ARCHITECTURE: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\Z|gfx[0-9a-f]{3,8}\Z")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be found out.

    Attributes:
        fact: Its name, as in the document: `gpus`, `isa`.
        reason: Where it was looked for and what came, in one line.
    """

    fact: str
    reason: str


@dataclass(frozen=True, slots=True)
class Isa:
    """The instruction set that a runtime may use.

    Attributes:
        processor: What the processor calls itself; may be empty.
        level: Level of x86-64 (`LEVELS`); empty on other machines.
        features: Extensions that every processor has, by the kernel's names, sorted.
    """

    processor: str
    level: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """A library of the host.

    Attributes:
        path: Where it is.
        versions: Symbol versions that it defines, as they stand in it; empty for one without.
    """

    path: str
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. What is None could not be found out.

    Attributes:
        vendor: One of `VENDORS`.
        name: What it calls itself; may be empty.
        architecture: `9.0` is a compute capability of CUDA, `gfx942` a target of ROCm.
        memory: Bytes of its own memory.
        parts: Whether it is cut into parts (MIG), each with less of it; then `memory` is not what a program gets.
    """

    vendor: str
    name: str
    architecture: str | None
    memory: int | None
    parts: bool | None


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: a path on it, its bytes, and those that this user can still write."""

    path: str
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Now:
    """What moves: limits, and what is left of them. What is None could not be found out.

    Attributes:
        memory: Bytes that may be used at most: the least of RAM and the limits of all control groups of this process.
        available: Bytes that may be used without swapping, now.
        swap: Bytes of swap.
        locked: Bytes that may be locked into memory; -1 for no limit.
        cpus: Processors that may be used: the least of affinity and control group quota, rounded up.
        gpus: Free bytes of each GPU, in their order.
        disks: File systems that a site may use, by path.
    """

    memory: int
    available: int | None
    swap: int | None
    locked: int | None
    cpus: int
    gpus: tuple[int | None, ...]
    disks: tuple[Disk, ...]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One machine, as the process that asks sees it. What is None could not be found out.

    Attributes:
        os: Operating system by its OCI name, such as `linux`.
        architecture: By its OCI name, such as `amd64`; the kernel's own name where OCI has none.
        kernel: Release of the kernel.
        distribution: Such as `debian 12`; empty where it does not say.
        python: Version of this interpreter's language, such as `3.11`.
        implementation: Interpreter, such as `cpython`.
        python_tags: Wheel tags that this interpreter takes, best first (PEP 425).
        libc: Such as `glibc 2.36`; empty when it does not say.
        libraries: The C and C++ libraries that programs get, by name.
        sonames: Names of all libraries that the loader finds, sorted.
        isa: Instruction set.
        gpus: Accelerators.
        drivers: Versions: `nvidia` and `amdgpu` of the kernel's driver, `cuda` that the driver takes at most.
        containers: What hints at a container or virtual kernel, sorted: `docker`, `kubernetes`, `gvisor`, `wsl`.
        now: What moves.
        unknown: Why facts are None.
    """

    os: str
    architecture: str
    kernel: str
    distribution: str
    python: str
    implementation: str
    python_tags: tuple[str, ...]
    libc: str
    libraries: Mapping[str, Library] | None
    sonames: tuple[str, ...] | None
    isa: Isa | None
    gpus: tuple[Gpu, ...] | None
    drivers: Mapping[str, str]
    containers: tuple[str, ...]
    now: Now
    unknown: tuple[Unknown, ...] = field(default=())

    @property
    def memory(self) -> int:
        """Bytes that may be used at most."""
        return self.now.memory

    @property
    def cpus(self) -> int:
        """Processors that may be used."""
        return self.now.cpus

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON values."""
        now = self.now
        return {
            "schema": SCHEMA,
            "os": self.os,
            "architecture": self.architecture,
            "kernel": self.kernel,
            "distribution": self.distribution,
            "python": self.python,
            "implementation": self.implementation,
            "python_tags": list(self.python_tags),
            "libc": self.libc,
            "libraries": None
            if self.libraries is None
            else {name: {"path": each.path, "versions": list(each.versions)} for name, each in self.libraries.items()},
            "sonames": None if self.sonames is None else list(self.sonames),
            "isa": None
            if self.isa is None
            else {"processor": self.isa.processor, "level": self.isa.level, "features": list(self.isa.features)},
            "gpus": None if self.gpus is None else [_emit_gpu(gpu) for gpu in self.gpus],
            "drivers": dict(self.drivers),
            "containers": list(self.containers),
            "now": {
                "memory": now.memory,
                "available": now.available,
                "swap": now.swap,
                "locked": now.locked,
                "cpus": now.cpus,
                "gpus": list(now.gpus),
                "disks": [{"path": disk.path, "total": disk.total, "free": disk.free} for disk in now.disks],
            },
            "unknown": [{"fact": each.fact, "reason": each.reason} for each in self.unknown],
        }

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return emit(self.to_dict())

    def digest(self) -> Digest:
        """Return the identity of this kind of host, over canonical JSON.

        Left out is what moves by itself, and each activation judges anew: `now`; the names of all libraries, which
        change with every package that is installed; the kernel's release; and the words of `unknown`.
        """
        facts = self.to_dict()
        for name in ("now", "sonames", "kernel", "unknown"):
            del facts[name]
        return Digest.of(emit(facts))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the facts of a host, whose bytes were checked.

        Args:
            data: At most `Limits.DOCUMENT` bytes.

        Raises:
            IntegrityError: Not canonical, another schema, unknown fields, or values out of their bounds.
        """
        fields = Fields(parse_canonical(data, what="host facts"), what="host facts")
        fields.schema(SCHEMA)
        facts = cls(
            os=fields.text("os"),
            architecture=fields.text("architecture"),
            kernel=fields.text("kernel"),
            distribution=fields.text("distribution"),
            python=fields.text("python"),
            implementation=fields.text("implementation"),
            python_tags=tuple(fields.texts("python_tags", most=_TAGS)),
            libc=fields.text("libc"),
            libraries=_read_libraries(fields),
            sonames=None if fields.is_null("sonames") else tuple(fields.texts("sonames", most=_SONAMES)),
            isa=None if fields.is_null("isa") else _read_isa(fields.table("isa")),
            gpus=None if fields.is_null("gpus") else tuple(_read_gpu(gpu) for gpu in fields.tables("gpus", most=_GPUS)),
            drivers=_read_drivers(fields),
            containers=tuple(fields.texts("containers", most=_HINTS)),
            now=_read_now(fields.table("now")),
            unknown=tuple(_read_unknown(each) for each in fields.tables("unknown", most=_UNKNOWN)),
        )
        fields.done()
        if len(facts.now.gpus) != len(facts.gpus or ()):
            raise fields.fail("'now' speaks of other GPUs than 'gpus'")
        return facts


def _emit_gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "vendor": gpu.vendor,
        "name": gpu.name,
        "architecture": gpu.architecture,
        "memory": gpu.memory,
        "parts": gpu.parts,
    }


def _read_libraries(fields: Fields) -> Mapping[str, Library] | None:
    if fields.is_null("libraries"):
        return None
    table = fields.mapping("libraries")
    if len(table) > _LIBRARIES:
        raise fields.fail(f"'libraries' has {len(table)} items; at most {_LIBRARIES} are read")
    found = {}
    for name, value in table.items():
        each = Fields(value, what=f"{fields.what} libraries {name[:60]}")
        found[name] = Library(each.text("path"), tuple(each.texts("versions", most=_VERSIONS)))
        each.done()
    return found


def _read_isa(fields: Fields) -> Isa:
    isa = Isa(
        processor=fields.text("processor"),
        level=fields.text("level", choices=("", *LEVELS)),
        features=tuple(fields.texts("features", most=_FEATURES)),
    )
    fields.done()
    return isa


def _read_gpu(fields: Fields) -> Gpu:
    gpu = Gpu(
        vendor=fields.text("vendor", choices=VENDORS),
        name=fields.text("name"),
        architecture=None if fields.is_null("architecture") else fields.text("architecture"),
        memory=None if fields.is_null("memory") else fields.integer("memory"),
        parts=None if fields.is_null("parts") else fields.flag("parts"),
    )
    if gpu.architecture is not None and not _ARCHITECTURE.match(gpu.architecture):
        raise fields.fail(f"'architecture' is neither like 9.0 nor like gfx942: {gpu.architecture[:60]!r}")
    fields.done()
    return gpu


def _read_drivers(fields: Fields) -> Mapping[str, str]:
    table = fields.table("drivers")
    found = {name: table.text(name) for name in ("amdgpu", "cuda", "nvidia") if name in table}
    table.done()
    return found


def _read_now(fields: Fields) -> Now:
    gpus = fields.items("gpus", most=_GPUS)
    if not all(each is None or (type(each) is int and each >= 0) for each in gpus):
        raise fields.fail("'gpus' must hold whole numbers or null only")
    now = Now(
        memory=fields.integer("memory"),
        available=None if fields.is_null("available") else fields.integer("available"),
        swap=None if fields.is_null("swap") else fields.integer("swap"),
        locked=None if fields.is_null("locked") else fields.integer("locked", low=-1),
        cpus=fields.integer("cpus", low=1),
        gpus=tuple(gpus),
        disks=tuple(_read_disk(disk) for disk in fields.tables("disks", most=_DISKS)),
    )
    fields.done()
    return now


def _read_disk(fields: Fields) -> Disk:
    disk = Disk(fields.text("path"), fields.integer("total"), fields.integer("free"))
    fields.done()
    return disk


def _read_unknown(fields: Fields) -> Unknown:
    unknown = Unknown(fields.text("fact"), fields.text("reason"))
    fields.done()
    return unknown
