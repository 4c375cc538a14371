"""safetensors headers: both ways of reading them, the format's own library, and layouts that it forbids."""

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts import safetensors as ours
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.facts.safetensors import BITS, Entry, read, read_header
from airpack.formats.facts import Count, SafetensorsFacts


def stored(header: Any, data: int = 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def facts(data: bytes) -> tuple[SafetensorsFacts, list[str]]:
    notes = Notes()
    found = read(Reader(io.BytesIO(data), len(data)), notes)
    return found, [problem.reason for problem in notes.problems]


def deserialize(data: bytes) -> list[Any]:
    found: list[Any] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    return found


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


ARRAYS = {
    "layer.weight": np.arange(6, dtype="<f4").reshape(2, 3),
    "layer.half": np.arange(5, dtype="<f2"),
    "ids": np.arange(3, dtype="<i8"),
    "no elements": np.zeros((0, 4), "<f4"),
    "scalar": np.full((), 1, "<f4"),
    "flag": np.ones(1, "?"),
}


def test_what_its_own_library_writes_is_read() -> None:
    found, problems = facts(safetensors.numpy.save(ARRAYS, metadata={"format": "np", "long": "x" * 201}))
    assert problems == []
    assert found.dtypes == {"F32": Count(3, 28), "F16": Count(1, 10), "I64": Count(1, 24), "BOOL": Count(1, 1)}
    assert (found.tensors, found.parameters, found.metadata) == (6, 16, {"format": "np"})


@pytest.mark.parametrize("dtype", BITS)
def test_its_own_library_agrees_on_the_size_of_every_type(dtype: str) -> None:
    data = stored({"w": {"dtype": dtype, "shape": [16], "data_offsets": [0, 2 * BITS[dtype]]}}, 2 * BITS[dtype])
    assert facts(data)[1] == []
    assert [name for name, _ in deserialize(data)] == ["w"]
    with pytest.raises(safetensors.SafetensorError, match="nvalid"):
        deserialize(stored({"w": {"dtype": dtype, "shape": [17], "data_offsets": [0, 2 * BITS[dtype]]}}))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=0, max_size=12)
TENSORS = st.dictionaries(
    NAMES.filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from([*BITS, "NEW_TYPE"]), st.lists(st.integers(0, 10**18 - 1), max_size=5)),
    max_size=6,
)


@given(TENSORS, st.none() | st.dictionaries(NAMES, NAMES, max_size=3), st.booleans(), st.integers(0, 3))
def test_both_ways_to_read_a_header_find_the_same(
    tensors: dict[str, Any], metadata: dict[str, str] | None, ascii_only: bool, pad: int
) -> None:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for number, (name, (dtype, shape)) in enumerate(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [number, number + 1]}
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b" " * pad
    slow = ours._as_json(data)
    assert ours._as_written(data) in (None, slow)
    assert slow[0] == [
        Entry(name, *rest, number, number + 1)
        for number, (name, rest) in enumerate((name, (dtype, tuple(shape))) for name, (dtype, shape) in tensors.items())
    ]


def test_a_header_as_libraries_write_it_is_read_the_quick_way() -> None:
    data = safetensors.numpy.save(ARRAYS, metadata={"format": "np"})
    assert ours._as_written(data[8 : 8 + struct.unpack_from("<Q", data)[0]])


@pytest.mark.parametrize(
    "text",
    [
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"w":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}\0',
        b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'["w"]',
        b'{"__metadata__":{"a":"b","a":"c"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"a":1}}',
        b'{"__metadata__":[]}',
        b'{"w":{"dtype":"F32","shape":[1]}}',
        b'{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}',
        b'{"w":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":7,"shape":[1],"data_offsets":[0,4]}}',
        b'{"w":[]}',
    ],
)
def test_a_header_that_cannot_be_is_malformed_either_way(text: bytes) -> None:
    for padded in (text, text + b" "):
        with pytest.raises(MalformedError):
            facts(stored(padded))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"1234567", "it ends at byte 7"),
        (stored(one(), length=2**63), "at most"),
        (stored(one(), length=(16 << 20) + 1), "at most"),
        (stored(one(), length=500), "it ends at byte"),
    ],
)
def test_a_header_that_is_not_there_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        facts(data)


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (one(), 4, ""),
        (one(), 5, "ends at byte 66; the file has 67"),
        (one(), 3, "ends at byte 66; the file has 65"),
        (one(data_offsets=[4, 8]), 8, "expected from 0"),
        (one(data_offsets=[4, 0]), 4, "expected from 0"),
        ({**one(), "v": one(data_offsets=[2, 6])["w"]}, 6, "'v' lies at 2 to 6 of the data; expected from 4"),
        ({**one(), "v": one(data_offsets=[8, 12])["w"]}, 12, "expected from 4"),
        (one(shape=[2]), 4, "has 4 bytes; its shape needs 8"),
        (one(dtype="F4", shape=[3]), 4, "its shape needs 2"),
        (one(dtype="F4", shape=[8]), 4, ""),
        (one(dtype="NEW_TYPE"), 4, ""),
        ({}, 0, ""),
    ],
)
def test_a_layout_that_the_format_forbids_is_a_problem(header: Any, data: int, reason: str) -> None:
    _, problems = facts(stored(header, data))
    assert len(problems) == bool(reason)
    assert reason in "".join(problems)


def test_a_large_header_costs_no_more_than_its_entries() -> None:
    entry = b'"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    text = b"{" + b",".join(entry % (number, number, number + 1) for number in range(20_000)) + b"}"
    found, problems = facts(stored(text, 20_000))
    assert (found.tensors, found.parameters, problems) == (20_000, 20_000, [])


def test_more_tensors_than_any_file_has_are_malformed() -> None:
    entry = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = b"{" + b",".join(entry % number for number in range((1 << 17) + 1)) + b"}"
    with pytest.raises(MalformedError, match=r"values|lists|at most"):
        facts(stored(text, 0))


def test_the_header_is_all_that_is_read() -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    stream = Counting(safetensors.numpy.save({"w": np.zeros(1 << 20, "<f4")}))
    size = len(stream.getvalue())
    assert read_header(Reader(stream, size)).entries[0].name == "w"
    assert stream.count < 40_000
