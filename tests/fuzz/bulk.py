"""Makes inputs of a given size that are well formed, or nearly, and cost as much memory or time as such an input can.

A maker is `(size) -> inputs by name`, each of about `size` bytes or, where little unpacks to much, fewer.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import zstandard
from tests.elves import elf, fatbin
from tests.fuzz.mutate import PREFIX, record

from airpack.evidence.archive import MAX_ENTRIES, write_archive
from airpack.evidence.records import Record
from airpack.formats.volume import ENTRY, Codec, Entry
from airpack.types import Limits

Bulk = Callable[[int], Mapping[str, bytes]]

UNPACKED: Final = 32 << 20  # bytes that a small input may unpack to


def documents(size: int) -> dict[str, bytes]:
    """Return JSON documents of about `size` bytes that cost as much memory or time as such a document can."""

    def filled(item: bytes, begin: bytes = b"[", end: bytes = b"]") -> bytes:
        return begin + b",".join([item] * (size // (len(item) + 1))) + end

    depth = Limits.JSON_DEPTH - 2
    deep = b"[" * depth + b"]" * depth
    keys = b",".join(b'"%07x":0' % number for number in range(size // 12))
    # As many values as are read, each as long as there is room for.
    most = min(Limits.JSON_VALUES - 2, size // 20)
    room = size // most - 14
    distinct = b",".join(b'"%07x%b":0' % (number, b"a" * room) for number in range(most))
    wide = "\U0001f600".encode()
    return {
        "empty lists": filled(b"[]"),
        "empty tables": filled(b"{}"),
        "tables": filled(b'{"a":{}}'),
        "deep lists": filled(deep),
        "too deep": b"[" * size,
        "short strings": filled(b'"ab"'),
        "numbers": filled(b"0.1"),
        "whole numbers": filled(b"12345"),
        "one number": b"[" + b"9" * size + b"]",
        "one string": b'"' + b"a" * size + b'"',
        "escapes": b'"' + b"\\u00e9" * (size // 6) + b'"',
        "wide characters": b'"' + "\U0001f600".encode() * (size // 4) + b'"',
        "keys": b"{" + keys + b"}",
        "most keys": b"{" + distinct + b"}",
        "most strings": b"[" + distinct.replace(b":0", b"") + b"]",
        "most wide strings": b"[" + distinct.replace(b":0", b"").replace(b'a"', wide + b'"') + b"]",
        "wide string": b'"' + b"a" * (size - 8) + wide + b'"',
        "quotes": b'"' * size,
        "backslashes": b'"' + b"\\" * size,
    }


def paths(size: int) -> dict[str, bytes]:
    """Return lists of file names of about `size` bytes, as many or as deep as such names can be."""
    rows = size // (Limits.PATH + 1)
    return {
        "deep": b"\n".join(b"%04x/%bb" % (number, b"a/" * (Limits.PATH // 2 - 3)) for number in range(rows)),
        "short": b"\n".join(b"%x" % number for number in range(size // 6)),
        "nested": b"\n".join(b"a/" * (number % 500) + b"%x" % number for number in range(size // 510)),
    }


def tables(size: int) -> dict[str, bytes]:
    """Return chunk tables of as many entries as there is room for, one of them with frames of many parts."""
    rows = (size - PREFIX.size) // ENTRY

    def entries(parts: int) -> bytes:
        count = rows - rows % parts
        made = (
            Entry(bytes(32), number // parts * parts, 1, parts, Codec.RAW, number % parts, parts)
            for number in range(count)
        )
        return PREFIX.pack(count, 0, count) + b"".join(entry.emit() for entry in made)

    return {"chunks": entries(1), "parts": entries(255)}


def frames(size: int) -> dict[str, bytes]:
    """Return frames: one stored, and of each other codec one of zeros that unpacks to as much as is tried."""
    packed = {
        f"zeros {kind.name}": bytes([kind]) + struct.pack("<I", UNPACKED) + zstandard.compress(bytes(unpacked))
        for kind in set(Codec) - {Codec.RAW, Codec.BASE}
        for unpacked in (UNPACKED if kind is Codec.ZSTD else UNPACKED // 4,)
    }
    return {"raw": bytes([Codec.RAW]) + struct.pack("<I", size - 5) + bytes(size - 5), **packed}


def base(kind: Codec, size: int) -> bytes:
    """Return the base that frames of `size` bytes are decoded with, whatever they are."""
    return (b"the base of every frame " * (size // 24 + 1))[: 4096 if kind is Codec.PATCH else size]


def archives(size: int) -> dict[str, bytes]:
    """Return exports of one large file and of many empty ones."""
    many = min(MAX_ENTRIES, size // 100)
    return {"one": write_archive({"a": bytes(size - 200)}), "many": write_archive({f"{n:x}": b"" for n in range(many)})}


def logs(size: int, first: Record) -> dict[str, bytes]:
    """Return logs of as many records as `first` as there is room for."""
    line = len(first.emit()) + 5
    lines = (replace(first, seq=number).emit() for number in range(size // line))
    return {"records": b"\0" + b"\n".join([*lines, b""])}


def models(size: int) -> dict[str, bytes]:
    """Return model files of as many tensors, or tensors without a use, as there is room for."""
    entry = b'"%06x":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    entries = b",".join(entry % (number, number, number + 1) for number in range(size // 80))
    info = struct.Struct("<Q2sIIQ")
    infos = b"".join(info.pack(2, b"ab", 0, 24, number * 32) for number in range(size // 64))
    key = struct.pack("<QIIQ", 0, 9, 8, (size - 40) // 8)
    tensor = b"\x08\x01\x10\x02\x42\x02ab\x4a\x01x"
    initializers = (b"\x2a" + bytes([len(tensor) + 5]) + tensor + b"\x4a\x03xyz") * (size // (len(tensor) + 10))
    length = len(initializers)
    varint = bytes(length >> shift & 127 | 128 for shift in (0, 7, 14)) + bytes([length >> 21])
    safetensors = b"{" + entries + b"}"
    return {
        "safetensors": len(safetensors).to_bytes(8, "little") + safetensors + bytes(size // 80),
        "gguf": b"GGUF" + struct.pack("<IQQ", 3, size // 64, 0) + infos + bytes(size // 2),
        "words": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + bytes(size - 48),
        "onnx": b"\x08\x08\x3a" + varint + initializers,
        "fields": b"\x3a" + varint + b"\x2a\x00" * (length // 2),
    }


def flatbuffers(size: int) -> dict[str, bytes]:
    """Return flatbuffers whose vectors lead to very many tables, distinct or always the same."""
    vtable = struct.pack("<8H", 16, 28, *range(4, 28, 4))
    count = size // 24

    def root(identifier: bytes, tables: bytes, offsets: bytes) -> bytes:
        # The root's six fields all lead to the one vector behind it.
        start = 8 + len(vtable)
        table = struct.pack("<i6I", len(vtable), *(28 - 4 * number for number in range(1, 7)))
        vector = struct.pack("<I", len(offsets) // 4) + offsets
        return struct.pack("<I", start) + identifier + vtable + table + vector + tables

    row = struct.pack("<HHi", 4, 4, 4)  # an empty vtable, and a table of nothing
    distinct = b"".join(struct.pack("<I", 4 * (count - number) + 8 * number + 4) for number in range(count))
    same = b"".join(struct.pack("<I", 4 * (count - number) + 4) for number in range(count))
    return {
        f"{name} {identifier.decode()}": root(identifier, row * count, offsets)
        for name, offsets in (("distinct", distinct), ("same", same))
        for identifier in (b"ET12", b"TFL3")
    }


def pickles(size: int) -> dict[str, bytes]:
    """Return pickles that keep as much, name as much, or go on as long as there is room for."""
    names = b"".join(b"cm\nn%06x\n0" % number for number in range(size // 12))
    puts = b"".join(b"r" + struct.pack("<I", number) for number in range(size // 5))
    return {
        "lists": b"\x80\x02" + b"]" * (size - 3) + b".",
        "marks": b"\x80\x02" + b"(" * (size - 3) + b".",
        "texts": b"\x80\x04" + b"\x8c\x01a" * (size // 3 - 1),
        "remembered": b"\x80\x04" + b"]\x94" * (size // 2 - 1),
        "numbers": b"\x80\x02]" + puts[: size - 3],
        "names": b"\x80\x02" + names[: size - 3],
        "lines": b"I1\n" * (size // 3),
        "one line": b"I" + b"1" * (size - 1),
        "pickles": b"\x80\x02N." * (size // 4),
    }


def torches(size: int) -> dict[str, bytes]:
    """Return ZIP files of many empty files, and of pickles that unpack to much."""
    many = {f"m/{number:x}.pkl": b"N." for number in range(size // 130)}
    return {
        "many": _stored(many, zipfile.ZIP_STORED),
        "packed": _stored({"m/data.pkl": b"]" * (8 << 20)}, zipfile.ZIP_DEFLATED),
        "programs": _stored({"m/models/m.json": b'{"target":"a"}' * (1 << 20)}, zipfile.ZIP_DEFLATED),
        **{f"pickle of {name}": _stored({"m/data.pkl": data[: size - 200]}) for name, data in pickles(size).items()},
    }


def _stored(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def wheels(size: int) -> dict[str, bytes]:
    """Return wheels of many empty files, and of one that unpacks to much."""
    info = "demo-1.0.dist-info"
    least = {
        f"{info}/METADATA": b"Name: demo\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
        f"{info}/RECORD": b"",
    }
    many = {f"demo/{number:x}.py": b"" for number in range(size // 250)} | least
    return {"many": _packed(many), "zeros": _packed({"demo/zeros": bytes(UNPACKED)} | least)}


def arrays(_size: int) -> dict[str, bytes]:
    """Return golden arrays that unpack to much."""
    out = io.BytesIO()
    np.savez_compressed(out, **{"input/x": np.zeros(UNPACKED // 8), "expected/y": np.zeros(UNPACKED // 8)})  # type: ignore[arg-type]
    return {"zeros": out.getvalue()}


def elves(size: int) -> dict[str, bytes]:
    """Return ELF files of about `size` bytes: of as many of each thing as there is room for."""
    room = size - 16384
    names = [f"symbol_{number:07}" for number in range(room // 64)]
    return {
        "wanted": elf(wants=dict.fromkeys(names, ("", ""))),
        "defined": elf(defines=dict.fromkeys(names, "")),
        "defined in an older table": elf(defines=dict.fromkeys(names, ""), older=True),
        "needed": elf(needed=names[:900]),
        "versions": elf(versions={"libc.so.6": [f"V_{number}" for number in range(room // 40)]}),
        "provided": elf(provides=[f"V_{number}" for number in range(room // 60)]),
        "pointers": elf(pointers=dict.fromkeys(range(room // 24), 1024), defines={"ggml_type_name": ""}),
        "packed pointers": elf(data=bytes(room // 2), packed=[1024, *[(1 << 64) - 1] * (room // 1024)]),
        "code": elf(sections={".nv_fatbin": fatbin(*[(2, 90, 0, 0, 0)] * (room // 64), payload=0)}),
        "kinds of code": elf(
            sections={".nv_fatbin": fatbin(*((2, number, 0, 0, 0) for number in range(room // 64)), payload=0)}
        ),
        "fatbins": elf(sections={".nv_fatbin": fatbin() * (room // 16)}),
        "names": elf(data=b"\0" + b"a\0" * (room // 2)),
        "opsets": elf(data=b"RegisterOpSetSchemaINS_16OpSet_Onnx_ver21E\0" * (room // 50)),
    }


def registries(size: int) -> dict[str, bytes]:
    """Return source files of about `size` bytes whose tables cost as much as a table can."""
    room = min(size, (96 << 10) - 100)

    def table(item: bytes) -> bytes:
        return b"CONFIG_MAPPING_NAMES = {" + item * (room // len(item)) + b"}\n"

    most = b"CONFIG_MAPPING_NAMES = {" + b",".join(b"'%06x':'a'" % number for number in range(8000)) + b"}\n"
    return {
        "names": table(b"a,"),
        "texts": table(b"'':'',"),
        "lists": table(b"[],"),
        "signs": b"CONFIG_MAPPING_NAMES = " + b"-" * room + b"1",
        "calls": b"CONFIG_MAPPING_NAMES = a" + b"()" * (room // 2),
        "attributes": b"CONFIG_MAPPING_NAMES = a" + b".a" * (room // 2),
        "sums": b"CONFIG_MAPPING_NAMES = 1" + b"+1" * (room // 2),
        "brackets": b"CONFIG_MAPPING_NAMES = " + b"(" * room,
        "most": most * (size // len(most)),
        "many": b"CONFIG_MAPPING_NAMES={}\n" * (size // 24),
        "lines": b"\n" * size,
        "starred": b"MODEL_X_MAPPING_NAMES = [" + b"*MODEL_X_MAPPING_NAMES," * (room // 24) + b"]",
    }


def _packed(members: dict[str, bytes]) -> bytes:
    record(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()
