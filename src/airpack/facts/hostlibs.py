"""The libraries that a host's loader finds, and the symbol versions that its C and C++ libraries really define.

They are read from the files, not asked of a program: what `ldd` prints is the version of a package. Looked at are the
loader's cache (ldconfig(8); glibc, sysdeps/generic/dl-cache.h) and its own folders (ld.so(8)), never LD_LIBRARY_PATH:
a serving process has an environment of its own.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.facts.elf import READ, read_elf
from airpack.facts.machine import Machine
from airpack.facts.reader import MalformedError, open_reader
from airpack.formats.hostfacts import Library, Unknown

_LOOKED_AT: Final = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1")
_TRIPLETS: Final = {
    "amd64": "x86_64-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "386": "i386-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "ppc64le": "powerpc64le-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
    "loong64": "loongarch64-linux-gnu",
}
_FOLDERS: Final = ("lib64", "usr/lib64", "lib", "usr/lib")
_FLAGS: Final = {  # of the cache's entries for each architecture, dl-cache.h and its machines' own
    "amd64": 0x0303,
    "arm64": 0x0A03,
    "386": 0x0003,
    "arm": 0x0903,
    "ppc64le": 0x0503,
    "s390x": 0x0403,
    "riscv64": 0x1003,
    "loong64": 0x1203,
}
_OLDER, _NEWER = b"ld.so-1.7.0", b"glibc-ld.so.cache1.1"
_OLD_ENTRY, _ENTRY, _HEAD = 12, struct.Struct("=iIIIQ"), struct.Struct("=20sIIB3sIIII")
_ENTRIES: Final = 100_000
_TEXT: Final = 4096  # bytes of one name or path
_VERSIONS: Final = 1000


def read_libraries(machine: Machine, architecture: str) -> tuple[dict[str, Library], tuple[str, ...]] | Unknown:
    """Return the C and C++ libraries by name, and the names of all libraries; or why they are unknown.

    Args:
        machine: Whose files are read.
        architecture: By its OCI name; libraries of others are passed over.
    """
    paths = _paths(machine, architecture)
    if not paths:
        return Unknown("libraries", "neither /etc/ld.so.cache nor a folder of libraries can be read")
    found = {}
    for name in _LOOKED_AT:
        for path in paths.get(name, ()):
            library = _library(machine, path, architecture)
            if library is not None:
                found[name] = library
                break
    return found, tuple(sorted(paths))


def _paths(machine: Machine, architecture: str) -> dict[str, list[str]]:
    """Return where each library is, in the order in which the loader looks."""
    found: dict[str, list[str]] = {}
    for name, path in parse_cache(machine.data("etc/ld.so.cache") or b"", _FLAGS.get(architecture, -1)):
        found.setdefault(name, []).append(path)
    triplet = _TRIPLETS.get(architecture)
    for folder in (*((f"lib/{triplet}", f"usr/lib/{triplet}") if triplet else ()), *_FOLDERS):
        for name in machine.names(folder) or ():
            if name.endswith(".so") or ".so." in name:
                found.setdefault(name, []).append(f"/{folder}/{name}")
    return found


def _library(machine: Machine, path: str, architecture: str) -> Library | None:
    """Return the library at a path; None for one that a program of this architecture does not get."""
    real = Path(os.path.realpath(machine.root / path.lstrip("/")))
    try:
        with open_reader(real, what=path, read=READ) as reader:
            facts = read_elf(reader)
    except (MalformedError, NotFoundError, IntegrityError, StorageError):
        return None
    return Library(path, facts.provides[:_VERSIONS]) if facts.architecture == architecture else None


def parse_cache(data: bytes, flags: int) -> Iterator[tuple[str, str]]:
    """Yield name and path of the libraries in a loader's cache.

    Args:
        data: The file's bytes.
        flags: Of the entries that are wanted: kind of C library and architecture.

    Returns:
        Entries up to the first that makes no sense; none for another format than glibc's since 2.2.
    """
    start = 0
    if data.startswith(_OLDER) and len(data) >= 16:  # noqa: PLR2004 - bytes of the older header
        start = 16 + int.from_bytes(data[12:16], "little") * _OLD_ENTRY
        start += -start % 8
    if not data.startswith(_NEWER, start) or start + _HEAD.size > len(data):
        return
    count = _HEAD.unpack_from(data, start)[1]
    for number in range(min(count, _ENTRIES)):
        at = start + _HEAD.size + number * _ENTRY.size
        if at + _ENTRY.size > len(data):
            return
        kind, key, value, _, _ = _ENTRY.unpack_from(data, at)
        if kind == flags:
            name, path = _text(data, start + key), _text(data, start + value)
            if not name or not path.startswith("/"):
                return
            yield name, path


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + _TEXT)
    return data[at:end].decode("utf-8", "replace") if end > at else ""
