"""Which CUDA code a library carries: cubins (machine code) and PTX, by architecture.

    read_fatbins(Elf(reader))   ->  (CudaCode("cubin", "90a", "", 12, at=4096), CudaCode("ptx", "80", "9.0", 1, ...))

There is no public specification: the layout was read off fatbins that nvcc made, and agrees with what NVIDIA's own
cuobjdump lists. A fatbin is a header of 16 bytes, then entries, each a header of at least 64 bytes and its payload.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final

from airpack.facts.elf import Elf, Section
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.runtimefacts import CudaCode

_SECTIONS: Final = frozenset({".nv_fatbin", "__nv_relfatbin"})
_NOBITS: Final = 8  # SHT_NOBITS
_MAGIC: Final = b"\x50\xed\x55\xba"
_FATBIN: Final = struct.Struct("<4sHHQ")  # magic, version, bytes of this header, bytes of all entries
_ENTRY: Final = struct.Struct("<HHIQIIHHIIIQ")
# kind, flags, bytes of this header, bytes of the payload, of it when compressed, options, minor, major, architecture,
# name, its length, more flags
_LEAST: Final = 64  # bytes of an entry's header
_KINDS: Final = {1: "ptx", 2: "cubin"}
_EXACT: Final = 0x100000  # "a": this architecture alone
_FAMILY: Final = 0x200000  # "f": this architecture and later ones of its family
_MOST: Final = 1 << 16  # kinds of code in one file


def read_fatbins(elf: Elf) -> tuple[CudaCode, ...]:
    """Return the CUDA code in a file, sorted, equal code counted together; empty when there is none.

    Args:
        elf: The file; it is found by its sections, which is how nvcc names it.

    Raises:
        MalformedError: A fatbin contradicts itself, or the file asks for more work than any real one.
        StorageError: It cannot be read.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    places: dict[tuple[str, str, str], int] = {}
    for section in elf.sections:
        if section.name in _SECTIONS and section.kind != _NOBITS:
            for at, key in _walk(elf.reader, section):
                counts[key] += 1
                places.setdefault(key, at)
                if len(counts) > _MOST:
                    raise MalformedError("more kinds of CUDA code than any real file has", at)
    return tuple(CudaCode(*key, counts[key], places[key]) for key in sorted(counts))


def _walk(reader: Reader, section: Section) -> Iterator[tuple[int, tuple[str, str, str]]]:
    at, stop = section.offset, section.offset + section.size
    if stop > reader.size:
        raise MalformedError("a section of CUDA code ends beyond the file", at)
    while (found := _next(reader, at, stop)) is not None:
        _, _, header, size = reader.unpack(_FATBIN, found)
        end = found + header + size
        if header < _FATBIN.size or end > stop:
            raise MalformedError("a fatbin ends beyond its section", found)
        yield from _entries(reader, found + header, end)
        at = end


def _next(reader: Reader, at: int, stop: int) -> int | None:
    """Return where the next fatbin begins: here, or behind padding."""
    if at + _FATBIN.size > stop:
        return None
    if reader.exactly(at, len(_MAGIC)) == _MAGIC:
        return at
    for start, piece in reader.pieces(at, stop, overlap=len(_MAGIC)):
        here = piece.find(_MAGIC)
        if here >= 0:
            return start + here if start + here + _FATBIN.size <= stop else None
    return None


def _entries(reader: Reader, at: int, stop: int) -> Iterator[tuple[int, tuple[str, str, str]]]:
    while at + _LEAST <= stop:
        reader.step(at)
        kind, _, header, size, _, _, minor, major, arch, _, _, flags = reader.unpack(_ENTRY, at)
        if header < _LEAST or at + header + size > stop:
            raise MalformedError("an entry ends beyond its fatbin", at)
        suffix = "a" if flags & _EXACT else "f" if flags & _FAMILY else ""
        version = f"{major}.{minor}" if kind == 1 else ""
        yield at, (_KINDS.get(kind, f"kind-{kind}"), f"{arch}{suffix}", version)
        at += header + size
