import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts.identify import HEAD, identify
from airpack.formats.compat import INERT, OPAQUE, UNSAFE


class Danger:
    """Calls something when it is unpickled; nothing here unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("never",)


def name_of(data: bytes) -> str:
    return identify("any.name", data[:HEAD], len(data)).name


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


NODE = field(1, field(4, b"Identity"))
ONNX = field(1, 8) + field(2, b"pytorch") + field(7, NODE + field(2, b"graph")) + field(8, field(2, 17))
COREML = field(1, 4) + field(2, field(1, b"x")) + field(500, b"layers")


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


TENSOR = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def zipped(*names: str, content: bytes = b"x", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(save: Callable[..., None], *arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


OBJECTS = np.array([{"a": 1}], dtype=object)
RECORDS = np.zeros(1, dtype=[("a", "<f4"), ("b", "O")])

SAFE = {
    "empty": b"",
    "text": "Größe\n".encode(),
    "json": b' {"a": [1, 2]}\n',
    "data": bytes(range(256)) * 4,
    "onnx": ONNX,
    "coreml": COREML,
    "safetensors": safetensors(TENSOR, b"\0" * 4),
    "gguf": b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"\0" * 64,
    "pte": struct.pack("<I", 60) + b"ET12eh00" + b"\0" * 50,
    "tflite": struct.pack("<I", 24) + b"TFL3" + b"\0" * 50,
    "tensorrt": b"ftrt" + b"\0" * 20 + bytes([10, 3, 0, 26]) + b"\0" * 10,
    "npy": saved(np.save, np.zeros(3)),
    "npz": saved(np.savez, np.zeros(3)),
}


@pytest.mark.parametrize(("name", "data"), SAFE.items(), ids=SAFE.keys())
def test_formats_that_run_no_code_are_known_by_their_bytes(name: str, data: bytes) -> None:
    fact = identify("model.pkl", data, len(data))
    assert (fact.name, fact.unsafe, fact.reason) == (name, False, "")
    assert fact.name in INERT


def test_every_inert_format_has_a_case_here() -> None:
    assert SAFE.keys() == INERT


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (ONNX, "IR 8"),
        (COREML, "specification 4"),
        (SAFE["gguf"], "version 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + b"\0" * 64, "version 3, big-endian"),
        (SAFE["safetensors"], "1 tensors"),
        (safetensors(b'{"__metadata__":{"a":"b"}}'), "0 tensors"),
        (SAFE["pte"], "ET12"),
        (SAFE["tensorrt"], "version 10.3.0.26"),
        (pickle.dumps(1, 4), "protocol 4"),
    ],
)
def test_the_detail_tells_the_version(data: bytes, detail: str) -> None:
    assert identify("x", data, len(data)).detail == detail


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Danger(), OrderedDict(a=1), [Danger()], {"a": Danger()}])
def test_a_pickle_that_calls_something_is_found_in_every_protocol(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    fact = identify("weights.safetensors", data, len(data))
    assert (fact.name, fact.unsafe) == ("pickle", True)
    assert fact.reason


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"a": 1}, [1, "x"]])
def test_a_pickled_container_is_found_in_every_protocol(value: Any, protocol: int) -> None:
    assert name_of(pickle.dumps(value, protocol)) == "pickle"


@pytest.mark.parametrize(
    "data",
    {
        "call by INST": b"(S'never'\nibuiltins\nprint\n.",
        "call by OBJ": b"(cbuiltins\nprint\nS'never'\no.",
        "harmless opcodes first": b"N0" * 1000 + b"cos\nsystem\n(S'true'\ntR.",
        "garbage after the call": b"cos\nsystem\n(S'true'\ntR" + b"\xff" * 100,
        "a magic number as a float": b"GGUF" + b"\0" * 5 + b"cos\nsystem\n(S'x'\ntR.",
        "header of a newer pickle": b"\x80\x05\x95" + b"\0" * 8,
        "garbage after the header": b"\x80\x02cos\nsystem\n\xff\xff",
        "two bytes": b"\x80\x02",
    }.items(),
    ids=lambda case: case[0],
)
def test_a_hand_made_pickle_is_found(data: tuple[str, bytes]) -> None:
    assert name_of(data[1]) == "pickle"


@pytest.mark.parametrize("size", [HEAD + 1, 10 * HEAD])
def test_a_headless_pickle_that_fills_the_head_is_found(size: int) -> None:
    data = b"cos\nsystem\n" + b"X" + struct.pack("<I", size) + b"a" * size + b"\x85R."
    assert name_of(data) == "pickle"
    assert name_of(b"cos\nsystem\n" + b"N0" * size) == "pickle"


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nVan\nRed\n",
        "cat\ndog\nbob\n",
        "Never\ngonna\n",
        "I am text.\n",
        "(a list)\n",
        "]",
        "}",
        ".",
        "import os\nos.system('true')\n",
        "version: 1\n",
    ],
)
def test_text_that_begins_like_a_pickle_stays_text(text: str) -> None:
    assert name_of(text.encode()) == "text"


UNSAFE_CASES = {
    "torch": ("torch-zip", zipped("archive/data.pkl", "archive/version")),
    "torchscript": ("torch-zip", zipped("tiny/data/0", "tiny/code/__torch__.py")),
    "any zip with a pickle": ("torch-zip", zipped("readme", "deep/er/model.pkl")),
    "keras": ("keras-zip", zipped("metadata.json", "config.json", "model.weights.h5")),
    "hdf5": ("hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100),
    "hdf5 behind a user block": ("hdf5", b"\0" * 512 + b"\x89HDF\r\n\x1a\n" + b"\0" * 100),
    "object array": ("npy-object", saved(lambda file, array: np.save(file, array, allow_pickle=True), OBJECTS)),
    "record with an object": (
        "npy-object",
        saved(lambda file, array: np.save(file, array, allow_pickle=True), RECORDS),
    ),
    "object arrays": ("npz-object", saved(np.savez, OBJECTS)),
    "compressed object arrays": ("npz-object", saved(np.savez_compressed, OBJECTS)),
    "second array of objects": ("npz-object", saved(np.savez, np.zeros(2), OBJECTS)),
    "elf": ("elf", b"\x7fELF\x02\x01\x01" + b"\0" * 100),
    "windows": ("pe", b"MZ" + b"\0" * 58 + struct.pack("<I", 64) + b"PE\0\0"),
    "mac": ("mach-o", b"\xcf\xfa\xed\xfe" + b"\0" * 100),
}


@pytest.mark.parametrize(("name", "data"), UNSAFE_CASES.values(), ids=UNSAFE_CASES.keys())
def test_formats_that_may_run_code_are_unsafe_whatever_their_name(name: str, data: bytes) -> None:
    fact = identify("model.safetensors", data, len(data))
    assert (fact.name, fact.unsafe, fact.reason) == (name, True, UNSAFE[name])


def test_every_unsafe_format_has_a_case_here() -> None:
    assert {name for name, _ in UNSAFE_CASES.values()} | {"pickle"} == UNSAFE.keys()


PICKLED = pickle.dumps(Danger())
OPAQUE_CASES = {
    "gzip": gzip.compress(PICKLED),
    "bzip2": bz2.compress(PICKLED),
    "xz": lzma.compress(PICKLED),
    "lzma": lzma.compress(PICKLED, format=lzma.FORMAT_ALONE),
    "zstd": zstandard.compress(PICKLED),
    "zlib": zlib.compress(PICKLED),
    "lz4": b"\x04\x22\x4d\x18" + b"\0" * 20,
    "joblib": b"ZF0x10              " + zlib.compress(PICKLED),
    "zip": zipped("a", "b"),
    "tar": tarred(),
    "7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 20,
    "rar": b"Rar!\x1a\x07\x01\0" + b"\0" * 20,
    "safetensors-odd": safetensors(b'{"w":1,"w":2}'),
}


@pytest.mark.parametrize(("name", "data"), OPAQUE_CASES.items(), ids=OPAQUE_CASES.keys())
def test_containers_that_hide_their_content_are_not_plain_data(name: str, data: bytes) -> None:
    fact = identify("weights.bin", data, len(data))
    assert (fact.name, fact.unsafe, fact.reason) == (name, False, OPAQUE[name])


def test_every_opaque_format_has_a_case_here() -> None:
    assert OPAQUE_CASES.keys() == OPAQUE.keys()


@pytest.mark.parametrize(
    "data",
    {
        "safetensors longer than the file": struct.pack("<Q", 1 << 20) + b'{"a":1}' + b"\0" * 50,
        "safetensors over the limit": struct.pack("<Q", (16 << 20) + 1) + b'{"a":1}' + b"\0" * 50,
        "gguf of an unknown version": b"GGUF" + struct.pack("<IQQ", 9, 1, 1) + b"\0" * 64,
        "gguf with more tensors than bytes": b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 1) + b"\0" * 64,
        "gguf cut off": b"GGUF\3\0\0\0\0",
        "onnx without a graph": ONNX[:11],
        "onnx with a foreign field": ONNX + field(77, b"x"),
        "onnx cut off": ONNX[:-1],
        "onnx with trailing data": ONNX + b"\xff",
        "onnx with two graphs": ONNX + field(7, NODE),
        "onnx without a version": ONNX[2:],
        "coreml without a model": COREML[:8],
        "tensorrt of another layout": b"ftrt\1\0\0\0" + b"\0" * 30,
        "text with a control character": b"a\1b",
        "text cut within a character": "é".encode()[:1],
    }.items(),
    ids=lambda case: case[0],
)
def test_what_only_resembles_a_format_is_plain_data(data: tuple[str, bytes]) -> None:
    assert name_of(data[1]) == "data"


def test_a_format_is_known_from_the_head_of_a_large_file() -> None:
    graph = field(7, NODE + field(5, b"\0" * (1 << 20)))
    assert name_of(field(1, 10) + graph) == "onnx"
    header = json.dumps({f"w{number}": {"dtype": "F32"} for number in range(5000)}).encode()
    assert name_of(safetensors(header, b"\0" * 100)) == "safetensors"
    assert name_of(b'{"a": "' + b"x" * HEAD + b'"}') == "json"
    assert name_of("é".encode() * HEAD) == "text"


def test_only_the_head_is_looked_at() -> None:
    fact = identify("x", b"a" * HEAD + b"\0", HEAD + 1)
    assert fact.name == "text"


heads = st.binary(max_size=300) | st.tuples(
    st.sampled_from([*SAFE.values(), *OPAQUE_CASES.values(), *(data for _, data in UNSAFE_CASES.values()), PICKLED]),
    st.binary(max_size=40),
    st.integers(0, 400),
).map(lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] + len(parts[1]) :])


@given(heads, st.integers(0, 1 << 45))
def test_any_bytes_get_one_of_the_known_names(head: bytes, more: int) -> None:
    for size in (len(head), len(head) + more):
        fact = identify("x", head, size)
        assert fact.name in INERT | UNSAFE.keys() | OPAQUE.keys()
        assert fact.unsafe == (fact.name in UNSAFE)


@pytest.mark.parametrize(
    "pattern", [b"(", b"N", b"\x08\x00", b"PK\x03\x04", b"2", b"(0", b"[", b"{", b"\x80", b"0" * 80 + b"\n", b"N2"]
)
def test_the_longest_heads_of_one_pattern_get_a_name(pattern: bytes) -> None:
    assert name_of((pattern * HEAD)[: HEAD + 1]) in INERT | UNSAFE.keys() | OPAQUE.keys()
    assert name_of(b"N" + (pattern * HEAD)[:HEAD]) in INERT | UNSAFE.keys() | OPAQUE.keys()
