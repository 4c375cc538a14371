"""Reads ELF files as their loader does: by program headers and the dynamic table, never by sections alone.

    read_elf(reader)             ->  ElfFacts(architecture="amd64", needed=(Named("libc.so.6", at=3544), ...), ...)
    Symbols(Elf(reader))         ->  which symbols it asks for, and whether it defines one

System V gABI chapters 4 and 5 (www.sco.com/developers/gabi), its processor supplements, and the Linux Standard Base
Core, "Symbol Versioning". Section headers may be stripped, and may say what they like: they are read only where nothing
else leads to what is wanted (CUDA's code).

A file that contradicts itself is a `MalformedError`: whoever asked cannot know what a loader would make of it.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

from airpack.facts.reader import MalformedError, Reader
from airpack.formats.runtimefacts import ElfFacts, Named, SymbolNeed

MAGIC: Final = b"\x7fELF"
_CLASSES: Final = {1: 32, 2: 64}
_ORDERS: Final = {1: "<", 2: ">"}
_KINDS: Final = {1: "relocatable", 2: "executable", 3: "shared", 4: "core"}
_MACHINES: Final[Mapping[tuple[int, int, str], str]] = MappingProxyType(
    {  # (e_machine, bits, order) to the names of OCI image-spec v1.1, image-index.md "platform"
        (3, 32, "<"): "386",
        (62, 64, "<"): "amd64",
        (40, 32, "<"): "arm",
        (183, 64, "<"): "arm64",
        (21, 64, "<"): "ppc64le",
        (21, 64, ">"): "ppc64",
        (22, 64, ">"): "s390x",
        (243, 64, "<"): "riscv64",
        (258, 64, "<"): "loong64",
        (8, 32, "<"): "mipsle",
        (8, 64, "<"): "mips64le",
    }
)
READ: Final = 1 << 30  # bytes read of one native file: symbols and data of large libraries

_SEGMENTS: Final = 1024  # program headers
_ALIGN: Final = 1 << 40  # bytes
_SECTIONS: Final = 1 << 16
_DYNAMIC: Final = 4096  # entries of the dynamic table
_NEEDED: Final = 1024  # libraries of one file
_VERSIONS: Final = 1 << 14  # symbol versions needed or defined by one file

_NOTES: Final = 64 << 10  # bytes of one segment of notes
_PATHS: Final = 256  # folders in a search path

_LOAD, _DYN, _INTERP, _NOTE, _PROPERTY = 1, 2, 3, 4, 0x6474E553
_EXECUTABLE, _WRITABLE = 1, 2  # PF_X, PF_W
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SONAME, DT_RPATH = 1, 4, 5, 6, 10, 14, 15
DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_RUNPATH, DT_RELRSZ, DT_RELR = 7, 8, 17, 18, 29, 35, 36
DT_GNU_HASH, DT_VERSYM, DT_FLAGS_1 = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFB
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_PIE: Final = 0x08000000  # DF_1_PIE
_BASE: Final = 1  # VER_FLG_BASE
_WEAK: Final = 2  # VER_FLG_WEAK
STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 1, 2, 10
VERSION: Final = 0x7FFF  # a version's number; the bit above hides the symbol
_BUILD_ID, _PROPERTIES = 3, 5  # note types of GNU
_ISA_NEEDED: Final = 0xC0008002  # GNU_PROPERTY_X86_ISA_1_NEEDED; glibc refuses the file where the processor has less
_LEVELS: Final = ((8, "x86-64-v4"), (4, "x86-64-v3"), (2, "x86-64-v2"), (1, "x86-64-v1"))


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header; offsets and sizes in bytes."""

    kind: int
    flags: int
    offset: int
    address: int
    size: int
    memory: int
    align: int

    @property
    def executable(self) -> bool:
        """Whether its bytes may be run."""
        return bool(self.flags & _EXECUTABLE)

    @property
    def writable(self) -> bool:
        """Whether its bytes may be written."""
        return bool(self.flags & _WRITABLE)


@dataclass(frozen=True, slots=True)
class Section:
    """One section header; offset and size in bytes."""

    name: str
    kind: int
    offset: int
    size: int


class _Forms:
    """The structures of one class and byte order."""

    def __init__(self, bits: int, order: str) -> None:
        wide = bits == 64  # noqa: PLR2004 - ELFCLASS64
        self.header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
        self.segment = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
        self.section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
        self.dynamic = struct.Struct(order + ("qQ" if wide else "iI"))
        self.symbol = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
        self.word = struct.Struct(order + ("Q" if wide else "I"))
        self.half = struct.Struct(order + "H")
        self.int = struct.Struct(order + "I")
        self.verneed = struct.Struct(order + "HHIII")
        self.vernaux = struct.Struct(order + "IHHII")
        self.verdef = struct.Struct(order + "HHHHIII")
        self.verdaux = struct.Struct(order + "II")
        self.note = struct.Struct(order + "III")
        self.gnu_hash = struct.Struct(order + "IIII")


class Elf:
    """The headers of one ELF file, read once.

    Raises:
        MalformedError: It is no ELF file, or contradicts itself.
        StorageError: It cannot be read.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        ident = reader.exactly(0, 16)
        if ident[:4] != MAGIC:
            raise MalformedError("not an ELF file", 0)
        if ident[4] not in _CLASSES or ident[5] not in _ORDERS or ident[6] != 1:
            raise MalformedError("an ELF file of unknown class, byte order or version", 4)
        self.bits, self.order = _CLASSES[ident[4]], _ORDERS[ident[5]]
        self.wide = self.bits == 64  # noqa: PLR2004 - ELFCLASS64
        self.forms = _Forms(self.bits, self.order)
        (
            kind,
            self.machine,
            _,
            _,
            table,
            self._sections_at,
            self.flags,
            _,
            entry,
            count,
            self._section_entry,
            *rest,
        ) = reader.unpack(self.forms.header, 16)
        self._section_count, self._names_index = rest
        self.kind = _KINDS.get(kind, f"type-{kind}")
        self.segments = self._segments(table, entry, count)
        self.loads = [segment for segment in self.segments if segment.kind == _LOAD]
        self._check_loads()

    @property
    def architecture(self) -> str:
        """Name of its machine in OCI's words; `em-NUMBER` where OCI has none."""
        return _MACHINES.get((self.machine, self.bits, self.order), f"em-{self.machine}")

    def offset(self, address: int, size: int = 1) -> int:
        """Return where in the file the `size` bytes lie that a loader puts at `address`."""
        for load in self.loads:
            start = address - load.address
            if 0 <= start <= load.size - size:
                return load.offset + start
        raise MalformedError(f"address {address:#x} lies in no segment", 0)

    @cached_property
    def interpreter(self) -> str:
        """The loader that a program asks for; empty for libraries."""
        for segment in self.segments:
            if segment.kind == _INTERP:
                return self.reader.text(segment.offset, segment.offset + segment.size)
        return ""

    @cached_property
    def dynamic(self) -> Mapping[int, int]:
        """Values of the dynamic table by tag, the last of each as a loader has it; empty without one."""
        return {tag: value for tag, value, _ in self.entries}

    @cached_property
    def entries(self) -> tuple[tuple[int, int, int], ...]:
        """Tag, value and place of each entry of the dynamic table, up to its end."""
        tables = [segment for segment in self.segments if segment.kind == _DYN]
        if not tables:
            return ()
        if len(tables) > 1:
            raise MalformedError("more than one dynamic table", 0)
        form = self.forms.dynamic
        found: list[tuple[int, int, int]] = []
        start = self.offset(tables[0].address, form.size)
        for number in range(min(tables[0].memory // form.size, _DYNAMIC)):
            at = start + number * form.size
            tag, value = self.reader.unpack(form, at)
            if tag == 0:
                return tuple(found)
            found.append((tag, value, at))
        raise MalformedError("the dynamic table has no end", start)

    @cached_property
    def strings(self) -> tuple[int, int]:
        """Start and end of the dynamic strings in the file."""
        size = self.dynamic.get(DT_STRSZ, 0)
        start = self.offset(self.dynamic.get(DT_STRTAB, 0), max(size, 1))
        return start, start + size

    def string(self, index: int) -> str:
        """Return the dynamic string at `index`."""
        start, stop = self.strings
        return self.reader.text(start + index, stop)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The sections by their headers, for what no segment names; empty where they were stripped."""
        count = self._section_count
        if not self._sections_at or not count:
            return ()
        form = self.forms.section
        if self._section_entry != form.size or count > _SECTIONS or self._names_index >= count:
            raise MalformedError("section headers of unknown form", self._sections_at)
        rows = [self.reader.unpack(form, self._sections_at + number * form.size) for number in range(count)]
        names, stop = rows[self._names_index][4], sum(rows[self._names_index][4:6])
        return tuple(
            Section(self.reader.text(names + row[0], stop), row[1], row[4], row[5]) for row in rows if row[1] != 0
        )

    def notes(self) -> Iterator[tuple[int, bytes]]:
        """Yield type and content of each note whose owner is GNU."""
        for segment in self.segments:
            if segment.kind in {_NOTE, _PROPERTY}:
                yield from self._notes(segment)

    def _notes(self, segment: Segment) -> Iterator[tuple[int, bytes]]:
        align = 8 if segment.align == 8 else 4  # noqa: PLR2004 - bytes
        at, stop = segment.offset, segment.offset + segment.size
        while at + self.forms.note.size <= min(stop, segment.offset + _NOTES):
            owner, size, kind = self.reader.unpack(self.forms.note, at)
            start = at + self.forms.note.size
            content = start + owner + -owner % 4
            end = content + size
            if end > stop:
                raise MalformedError("a note ends beyond its segment", at)
            if owner == 4 and size <= _NOTES and self.reader.exactly(start, owner) == b"GNU\0":  # noqa: PLR2004 - its length
                yield kind, self.reader.exactly(content, size)
            at = end + -(end - segment.offset) % align

    def _segments(self, table: int, entry: int, count: int) -> tuple[Segment, ...]:
        form = self.forms.segment
        if count and (entry != form.size or count > _SEGMENTS):
            raise MalformedError("program headers of unknown form", table)
        found = []
        for number in range(count):
            row = self.reader.unpack(form, table + number * form.size)
            if self.wide:
                kind, flags, offset, address, _, size, memory, align = row
            else:
                kind, offset, address, _, size, memory, flags, align = row
            found.append(Segment(kind, flags, offset, address, size, memory, align))
        return tuple(found)

    def _check_loads(self) -> None:
        """Hold segments that are loaded to what makes an address mean one byte: in order, apart, inside the file."""
        end = 0
        for load in self.loads:
            if load.address < end or load.size > load.memory or load.offset + load.size > self.reader.size:
                raise MalformedError("segments overlap, or lie outside the file", load.offset)
            if load.align & load.align - 1 or load.align > _ALIGN:
                raise MalformedError(f"a segment aligned to {load.align:#x}", load.offset)
            end = load.address + load.memory


def read_elf(reader: Reader) -> ElfFacts:
    """Return what an ELF file says of itself.

    Args:
        reader: The file.

    Raises:
        MalformedError: It is no ELF file, contradicts itself, or asks for more work than any real one.
        StorageError: It cannot be read.
    """
    return facts_of(Elf(reader))


def facts_of(elf: Elf) -> ElfFacts:
    """Return the facts of an ELF file whose headers were read; raises as `read_elf`."""
    notes = dict(reversed(list(elf.notes())))
    paths = {tag: elf.string(value) for tag, value, _ in elf.entries if tag in {DT_RPATH, DT_RUNPATH}}
    sonames = [elf.string(value) for tag, value, _ in elf.entries if tag == DT_SONAME]
    return ElfFacts(
        path=elf.reader.what,
        size=elf.reader.size,
        architecture=elf.architecture,
        bits=elf.bits,
        order="little" if elf.order == "<" else "big",
        kind=_kind(elf),
        interpreter=elf.interpreter,
        soname=sonames[-1] if sonames else "",
        needed=_needed(elf),
        rpath=_folders(paths.get(DT_RPATH, "")),
        runpath=_folders(paths.get(DT_RUNPATH, "")),
        versions=tuple(need for _, need in version_needs(elf)),
        provides=tuple(name for _, name, base in version_definitions(elf) if not base),
        page=min((load.align for load in elf.loads if load.size), default=0),
        isa=_isa(elf, notes.get(_PROPERTIES, b"")),
        build_id=notes.get(_BUILD_ID, b"")[:64].hex(),
    )


def _kind(elf: Elf) -> str:
    """Return the file's kind; position-independent programs are "shared" by their type alone."""
    if elf.kind == "shared" and (elf.dynamic.get(DT_FLAGS_1, 0) & _PIE or elf.interpreter):
        return "executable" if elf.dynamic.get(DT_SONAME) is None else "shared"
    return elf.kind


def _needed(elf: Elf) -> tuple[Named, ...]:
    found = [(value, at) for tag, value, at in elf.entries if tag == DT_NEEDED]
    if len(found) > _NEEDED:
        raise MalformedError(f"needs {len(found)} libraries; at most {_NEEDED} are read", found[0][1])
    return tuple(Named(elf.string(value), at) for value, at in found)


def _folders(path: str) -> tuple[str, ...]:
    folders = tuple(path.split(":")) if path else ()
    if len(folders) > _PATHS:
        raise MalformedError(f"a search path of {len(folders)} folders; at most {_PATHS} are read", 0)
    return folders


def _isa(elf: Elf, note: bytes) -> str:
    """Return the level of x86-64 that the loader demands, from a note of properties; empty for none."""
    at = 0
    while elf.architecture in {"amd64", "386"} and at + 8 <= len(note):
        kind, size = struct.unpack_from("<II", note, at)
        if kind == _ISA_NEEDED and size == 4 and at + 12 <= len(note):  # noqa: PLR2004 - bytes of the bit mask
            mask = int.from_bytes(note[at + 8 : at + 12], "little")
            return next((name for bit, name in _LEVELS if mask & bit), "")
        at += 8 + size + -size % (8 if elf.wide else 4)
    return ""


def version_needs(elf: Elf) -> list[tuple[int, SymbolNeed]]:
    """Return the symbol versions that the file needs, each with the number its symbols name it by."""
    at, count = elf.dynamic.get(DT_VERNEED), elf.dynamic.get(DT_VERNEEDNUM, 0)
    found: list[tuple[int, SymbolNeed]] = []
    if at is None or not count:
        return found
    at = elf.offset(at)
    while True:
        version, parts, library, first, step = elf.reader.unpack(elf.forms.verneed, at)
        if version != 1:
            raise MalformedError(f"version needs of revision {version}", at)
        name, aux = elf.string(library), at + first
        for number in range(parts):
            _, flags, index, text, skip = elf.reader.unpack(elf.forms.vernaux, aux)
            found.append((index & VERSION, SymbolNeed(name, elf.string(text), bool(flags & _WEAK), aux)))
            if len(found) > _VERSIONS or bool(skip) != (number + 1 < parts):
                raise MalformedError("version needs that contradict their count", aux)
            aux += skip
        count -= 1
        if bool(step) != bool(count):
            raise MalformedError("version needs that contradict their count", at)
        if not step:
            return found
        at += step


def version_definitions(elf: Elf) -> list[tuple[int, str, bool]]:
    """Return the symbol versions that the file defines: number, name, and whether it is the file's own base version."""
    at, count = elf.dynamic.get(DT_VERDEF), elf.dynamic.get(DT_VERDEFNUM, 0)
    found: list[tuple[int, str, bool]] = []
    if at is None or not count:
        return found
    at = elf.offset(at)
    while True:
        version, flags, index, _, _, first, step = elf.reader.unpack(elf.forms.verdef, at)
        if version != 1:
            raise MalformedError(f"version definitions of revision {version}", at)
        name, _ = elf.reader.unpack(elf.forms.verdaux, at + first)
        found.append((index & VERSION, elf.string(name), bool(flags & _BASE)))
        if bool(step) != (len(found) < count) or len(found) > _VERSIONS:
            raise MalformedError("version definitions that contradict their count", at)
        if not step:
            return found
        at += step


_RELATIVE: Final = {"amd64": 8, "arm64": 1027, "riscv64": 3, "386": 8, "arm": 23, "s390x": 12, "ppc64le": 22}
_RELOCATIONS: Final = 1 << 20  # of one file


def relative_pointers(elf: Elf) -> Mapping[int, int]:
    """Return where pointers into the file itself stand, and where they lead: addresses when loaded.

    Only relocations relative to where the file is loaded: those of strings and tables of its own.

    Raises:
        MalformedError: The tables lie outside the file, or are longer than any real ones.
        StorageError: They cannot be read.
    """
    kind = _RELATIVE.get(elf.architecture)
    if kind is None:
        return {}
    mask = 0xFFFFFFFF if elf.wide else 0xFF
    rela = struct.Struct(elf.order + ("QQq" if elf.wide else "IIi"))
    rel = struct.Struct(elf.order + ("QQ" if elf.wide else "II"))
    found = {
        place: target for place, info, target in _relocations(elf, rela, DT_RELA, DT_RELASZ) if info & mask == kind
    }
    found |= {
        place: _pointer(elf, place) for place, info in _relocations(elf, rel, DT_REL, DT_RELSZ) if info & mask == kind
    }
    return found | {place: _pointer(elf, place) for place in _packed(elf)}


def _relocations(elf: Elf, form: struct.Struct, table: int, length: int) -> Iterator[tuple[int, ...]]:
    start, size = elf.dynamic.get(table), elf.dynamic.get(length, 0)
    if start is None or not size:
        return
    at = elf.offset(start, size)
    if size % form.size or size // form.size > _RELOCATIONS:
        raise MalformedError(f"{size} bytes of relocations", at)
    whole = (1 << 15) * form.size
    for begin in range(at, at + size, whole):
        yield from form.iter_unpack(elf.reader.exactly(begin, min(whole, at + size - begin)))


def _packed(elf: Elf) -> Iterator[int]:
    """Yield the places in the table of packed relative relocations (gABI, "Relative Relocation Table")."""
    bits = elf.bits - 1
    size = elf.forms.word.size
    place = 0
    for number, (word,) in enumerate(_relocations(elf, elf.forms.word, DT_RELR, DT_RELRSZ)):
        if number >= _RELOCATIONS // bits:
            raise MalformedError("more packed relocations than any real file has", 0)
        if not word & 1:
            yield word
            place = word + size
            continue
        yield from (place + bit * size for bit in range(bits) if word >> bit + 1 & 1)
        place += bits * size


def _pointer(elf: Elf, place: int) -> int:
    found: int = elf.reader.unpack(elf.forms.word, elf.offset(place, elf.forms.word.size))[0]
    return found
