"""Makes small ELF files whose every part is known, for tests and as inputs of fuzzing: the same bytes each time.

    elf(needed=["libc.so.6"], wants={"malloc": ("libc.so.6", "GLIBC_2.2.5")}, defines={"mine": ""})

All of it lies in one segment that is loaded at address 0, so that an address is an offset in the file.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

GLOBAL, WEAK = 1, 2
_DT: Final = {
    "needed": 1,
    "hash": 4,
    "strtab": 5,
    "symtab": 6,
    "rela": 7,
    "relasz": 8,
    "strsz": 10,
    "soname": 14,
    "rpath": 15,
    "rel": 17,
    "relsz": 18,
    "runpath": 29,
    "relrsz": 35,
    "relr": 36,
    "gnu_hash": 0x6FFFFEF5,
    "versym": 0x6FFFFFF0,
    "flags_1": 0x6FFFFFFB,
    "verdef": 0x6FFFFFFC,
    "verdefnum": 0x6FFFFFFD,
    "verneed": 0x6FFFFFFE,
    "verneednum": 0x6FFFFFFF,
}


@dataclass
class Strings:
    """A table of strings; each stands in it once."""

    data: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    known: dict[str, int] = field(default_factory=dict)

    def at(self, text: str) -> int:
        if text not in self.known:
            self.known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.known[text]


def gnu_hash(name: bytes) -> int:
    value = 5381
    for char in name:
        value = (value * 33 + char) % (1 << 32)
    return value


def old_hash(name: bytes) -> int:
    value = 0
    for char in name:
        value = (value << 4) + char
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


@dataclass
class Maker:
    """One file in the making."""

    wide: bool
    order: str
    out: bytearray = field(default_factory=bytearray)
    dynamic: list[tuple[int, int]] = field(default_factory=list)

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.order + form, *values)

    @property
    def word(self) -> str:
        return "Q" if self.wide else "I"

    def add(self, data: bytes, align: int = 8) -> int:
        self.out += bytes(-len(self.out) % align)
        at = len(self.out)
        self.out += data
        return at

    def tag(self, name: str, value: int) -> None:
        self.dynamic.append((_DT[name], value))


def elf(
    *,
    wide: bool = True,
    order: str = "<",
    machine: int = 62,
    kind: int = 3,
    interpreter: str = "",
    soname: str = "",
    needed: Sequence[str] = (),
    rpath: str = "",
    runpath: str = "",
    versions: Mapping[str, Sequence[str]] | None = None,
    weak_versions: Sequence[str] = (),
    provides: Sequence[str] = (),
    wants: Mapping[str, tuple[str, str]] | None = None,
    weak: Sequence[str] = (),
    defines: Mapping[str, str] | None = None,
    places: Mapping[str, tuple[int, int]] | None = None,
    older: bool = False,
    data: bytes = b"",
    pointers: Mapping[int, int] | None = None,
    packed: Sequence[int] = (),
    notes: Sequence[tuple[int, bytes]] = (),
    sections: Mapping[str, bytes] | None = None,
    align: int = 4096,
    dynamic: bool = True,
) -> bytes:
    """Return an ELF file.

    Args:
        wide: 64 bits, or 32.
        order: `<` or `>`.
        machine: `e_machine`.
        kind: `e_type`.
        interpreter: The loader that it asks for.
        soname: Its name.
        needed: Libraries that it needs.
        rpath: Its DT_RPATH.
        runpath: Its DT_RUNPATH.
        versions: Symbol versions that it needs, by library; those of `wants` are added.
        weak_versions: Which of those are weak.
        provides: Symbol versions that it defines; those of `defines` must be among them.
        wants: Undefined symbols: library and version, both empty for none.
        weak: Which of those are weak.
        defines: Symbols that it defines, with their version, empty for none.
        places: Address and size of some of those.
        older: With the older kind of hash table instead of GNU's.
        data: Bytes at the start of the file's data, at `DATA`.
        pointers: Relative relocations: where a pointer stands, where it leads.
        packed: Words of a table of packed relocations.
        notes: Type and content of notes of GNU.
        sections: Sections, which are not loaded, by name.
        align: Of its segment.
        dynamic: Whether it has a dynamic table.
    """
    wants, defines = dict(wants or {}), dict(defines or {})
    maker, strings = Maker(wide, order), Strings()
    maker.out += bytes(DATA)
    maker.add(data)
    loader = maker.add(interpreter.encode() + b"\0") if interpreter else 0
    note = maker.add(b"".join(_note(maker, *each) for each in notes)) if notes else 0
    note_end = len(maker.out)
    if dynamic:
        for library in needed:
            maker.tag("needed", strings.at(library))
        for name, text in (("soname", soname), ("rpath", rpath), ("runpath", runpath)):
            if text:
                maker.tag(name, strings.at(text))
        numbers = _versions(maker, strings, _needs(versions or {}, wants), weak_versions, provides)
        _symbols(maker, strings, wants, weak, defines, places=places or {}, numbers=numbers, older=older)
        _pointers(maker, pointers or {}, packed)
        table = _dynamic(maker, strings)
    end = len(maker.out)
    segments = [(1, 4, 0, 0, end, align)]
    if dynamic:
        segments.append((2, 6, table, table, end - table, 8))
    if interpreter:
        segments.append((3, 4, loader, loader, len(interpreter) + 1, 1))
    if notes:
        segments.append((4, 4, note, note, note_end - note, 8 if wide else 4))
    headers, count = _sections(maker, sections or {})
    head = _header(maker, machine=machine, kind=kind, segments=len(segments), headers=headers, count=count)
    head += b"".join(_segment(maker, each) for each in segments)
    maker.out[: len(head)] = head
    return bytes(maker.out)


def _needs(versions: Mapping[str, Sequence[str]], wants: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    needs = {library: list(each) for library, each in versions.items()}
    for library, version in wants.values():
        if version and version not in needs.setdefault(library, []):
            needs[library].append(version)
    return needs


def _dynamic(maker: Maker, strings: Strings) -> int:
    maker.tag("strtab", maker.add(bytes(strings.data)))
    maker.tag("strsz", len(strings.data))
    form = "QQ" if maker.wide else "II"
    return maker.add(b"".join(maker.pack(form, *row) for row in (*maker.dynamic, (0, 0))))


def _header(maker: Maker, *, machine: int, kind: int, segments: int, headers: int, count: int) -> bytes:
    ident = b"\x7fELF" + bytes([2 if maker.wide else 1, 1 if maker.order == "<" else 2, 1]) + bytes(9)
    size, entry, section = (64, 56, 64) if maker.wide else (52, 32, 40)
    word = maker.word
    return ident + maker.pack(
        f"HHI{word}{word}{word}IHHHHHH",
        *(kind, machine, 1, 0, size, headers, 0, size, entry, segments, section, count, max(count - 1, 0)),
    )


def _segment(maker: Maker, row: tuple[int, int, int, int, int, int]) -> bytes:
    kind, flags, offset, address, size, align = row
    if maker.wide:
        return maker.pack("IIQQQQQQ", kind, flags, offset, address, address, size, size, align)
    return maker.pack("IIIIIIII", kind, offset, address, address, size, size, flags, align)


def _sections(maker: Maker, sections: Mapping[str, bytes]) -> tuple[int, int]:
    if not sections:
        return 0, 0
    names = Strings()
    rows = [(0, 0, 0, 0)]
    for name, content in sections.items():
        rows.append((names.at(name), 1, maker.add(content), len(content)))
    rows.append((names.at(".shstrtab"), 3, 0, 0))
    table = maker.add(bytes(names.data))
    rows[-1] = (*rows[-1][:2], table, len(names.data))
    form = "IIQQQQIIQQ" if maker.wide else "IIIIIIIIII"
    return maker.add(b"".join(maker.pack(form, a, b, 0, 0, c, d, 0, 0, 1, 0) for a, b, c, d in rows)), len(rows)


def _note(maker: Maker, kind: int, content: bytes) -> bytes:
    align = 8 if maker.wide else 4
    return maker.pack("III", 4, len(content), kind) + b"GNU\0" + content + bytes(-len(content) % align)


def _versions(
    maker: Maker,
    strings: Strings,
    needs: Mapping[str, Sequence[str]],
    weak: Sequence[str],
    provides: Sequence[str],
) -> dict[tuple[str, str], int]:
    """Write version tables; return the number of each version by library, with an empty one for what is defined."""
    numbers: dict[tuple[str, str], int] = {}
    if provides:
        rows = []
        for number, name in enumerate(["BASE", *provides]):
            numbers["", name] = number + 1
            last = number == len(provides)
            rows.append(maker.pack("HHHHIII", 1, int(number == 0), number + 1, 1, 0, 20, 0 if last else 28))
            rows.append(maker.pack("II", strings.at(name), 0))
        maker.tag("verdef", maker.add(b"".join(rows)))
        maker.tag("verdefnum", len(provides) + 1)
    if needs:
        rows, number = [], len(provides) + 2
        for position, (library, versions) in enumerate(needs.items()):
            size = 16 * (1 + len(versions))
            step = 0 if position == len(needs) - 1 else size
            rows.append(maker.pack("HHIII", 1, len(versions), strings.at(library), 16 if versions else 0, step))
            for index, version in enumerate(versions):
                numbers[library, version] = number
                skip = 0 if index == len(versions) - 1 else 16
                flags = 2 if version in weak else 0
                rows.append(maker.pack("IHHII", 0, flags, number, strings.at(version), skip))
                number += 1
        maker.tag("verneed", maker.add(b"".join(rows)))
        maker.tag("verneednum", len(needs))
    return numbers


def _symbols(
    maker: Maker,
    strings: Strings,
    wants: Mapping[str, tuple[str, str]],
    weak: Sequence[str],
    defines: Mapping[str, str],
    *,
    places: Mapping[str, tuple[int, int]],
    numbers: Mapping[tuple[str, str], int],
    older: bool,
) -> None:
    rows, versions = [(0, 0, 0, 0, 0)], [0]
    for name, (library, version) in wants.items():
        rows.append((strings.at(name), (WEAK if name in weak else GLOBAL) << 4, 0, 0, 0))
        versions.append(numbers[library, version] if version else 1)
    first = len(rows)
    for name, version in defines.items():
        address, size = places.get(name, (64, 8))
        rows.append((strings.at(name), GLOBAL << 4 | 1, 1, address, size))
        versions.append(numbers["", version] if version else 1)
    table = b""
    for name_at, info, section, value, size in rows:
        fields = (name_at, info, 0, section, value, size) if maker.wide else (name_at, value, size, info, 0, section)
        table += maker.pack("IBBHQQ" if maker.wide else "IIIBBH", *fields)
    maker.tag("symtab", maker.add(table))
    if numbers:
        maker.tag("versym", maker.add(b"".join(maker.pack("H", version) for version in versions)))
    if older:
        maker.tag("hash", maker.add(_old_table(maker, [b"", *(each.encode() for each in (*wants, *defines))])))
    else:
        maker.tag("gnu_hash", maker.add(_gnu_table(maker, [name.encode() for name in defines], first)))


def _old_table(maker: Maker, names: Sequence[bytes]) -> bytes:
    buckets = [0, 0]
    chains = [0] * len(names)
    for number in range(1, len(names)):
        place = old_hash(names[number]) % 2
        chains[number], buckets[place] = buckets[place], number
    return maker.pack(f"II{2 + len(names)}I", 2, len(names), *buckets, *chains)


def _gnu_table(maker: Maker, names: Sequence[bytes], first: int) -> bytes:
    bits, word = (64, 0) if maker.wide else (32, 0)
    hashes = [gnu_hash(name) for name in names]
    for value in hashes:
        word |= 1 << value % bits | 1 << (value >> 6) % bits
    chain = [value & ~1 for value in hashes]
    if chain:
        chain[-1] |= 1
    head = maker.pack("IIII", 1, first, 1, 6) + maker.pack(maker.word, word)
    return head + maker.pack(f"{1 + len(chain)}I", first if chain else 0, *chain)


def _pointers(maker: Maker, pointers: Mapping[int, int], packed: Sequence[int]) -> None:
    if pointers:
        rows = [maker.pack("QQq" if maker.wide else "IIi", place, 8, target) for place, target in pointers.items()]
        maker.tag("rela", maker.add(b"".join(rows)))
        maker.tag("relasz", sum(map(len, rows)))
    if packed:
        rows = [maker.pack(maker.word, word) for word in packed]
        maker.tag("relr", maker.add(b"".join(rows)))
        maker.tag("relrsz", sum(map(len, rows)))


def fatbin(*entries: tuple[int, int, int, int, int], payload: int = 32) -> bytes:
    """Return a fatbin of entries: kind, architecture, flags, major and minor version of PTX."""
    body = b"".join(
        struct.pack("<HHIQIIHHIIIQQQ", kind, 0x101, 64, payload, 0, 64, minor, major, arch, 0, 0, flags, 0, 0)
        + bytes(payload)
        for kind, arch, flags, major, minor in entries
    )
    return struct.pack("<4sHHQ", b"\x50\xed\x55\xba", 1, 16, len(body)) + body


DATA: Final = 1024
"""Where `data` lies in the file, and its address."""
