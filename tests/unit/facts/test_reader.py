"""Reading at any offset within bounds, and protobuf on top of it."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import StorageError
from airpack.facts import protobuf
from airpack.facts import reader as module
from airpack.facts.reader import MalformedError, Reader

DATA = bytes(number * 7 % 251 for number in range(200_000))


class Dribble(io.BytesIO):
    """A stream that gives a few bytes at a time, as a raw file may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 700))


@pytest.mark.parametrize("stream", [io.BytesIO(DATA), Dribble(DATA)], ids=["whole", "a few at a time"])
def test_bytes_are_those_of_the_file_wherever_they_lie(stream: Any) -> None:
    reader = Reader(stream, len(DATA))
    for at in (0, 1, 16_383, 16_384, 100_000, 199_990, 5, 199_999, 200_000, 300_000):
        for count in (0, 1, 10, 20_000):
            assert reader.most(at, count) == DATA[at : at + count]


@given(st.integers(0, 200_010), st.integers(0, 64))
def test_a_window_holds_what_follows_or_ends_with_the_file(at: int, least: int) -> None:
    block, base = Reader(io.BytesIO(DATA), len(DATA)).window(at, least)
    assert block == DATA[base : base + len(block)]
    if at < len(DATA):
        assert base <= at
        assert len(block) - (at - base) >= min(least, len(DATA) - at)


def test_what_is_not_in_the_file_is_malformed() -> None:
    reader = Reader(io.BytesIO(DATA), len(DATA))
    with pytest.raises(MalformedError, match="it ends at byte 200000") as refused:
        reader.exactly(199_999, 2)
    assert refused.value.at == 199_999
    with pytest.raises(MalformedError):
        reader.unpack(struct.Struct("<Q"), 199_995)
    with pytest.raises(MalformedError, match="a thing ends at byte 200001; the file has 200000"):
        reader.within(5, 200_001, "a thing")
    with pytest.raises(MalformedError):
        reader.within(5, 4, "a thing")
    assert reader.within(5, 200_000, "a thing") == 200_000


def test_a_file_that_became_shorter_is_malformed() -> None:
    with pytest.raises(MalformedError):
        Reader(io.BytesIO(DATA), len(DATA) + 100).exactly(199_999, 50)


def test_so_much_is_read_of_no_file() -> None:
    reader = Reader(io.BytesIO(DATA), len(DATA), read=100_000)
    for _ in range(10):
        reader.exactly(0, 100)  # of one block, which is remembered
    for at in range(20_000, 120_000, 20_000):
        reader.exactly(at, 100)
    with pytest.raises(MalformedError, match="more than 100000 bytes"):
        reader.exactly(150_000, 100)


def test_so_many_things_are_in_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS", 10)
    reader = Reader(io.BytesIO(DATA), len(DATA))
    reader.step(0, 9)
    reader.step(0)
    with pytest.raises(MalformedError, match="more than 10 things") as refused:
        reader.step(77)
    assert refused.value.at == 77


def test_only_so_many_blocks_are_remembered() -> None:
    reader = Reader(io.BytesIO(bytes(4 << 20)), 4 << 20)
    for at in range(0, 4 << 20, 16 << 10):
        reader.most(at, 1)
    assert len(reader._blocks) == module._BLOCKS


def test_a_disk_that_fails_is_no_fault_of_the_file() -> None:
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match=r"cannot read w.onnx: Input/output"):
        Reader(Broken(DATA), len(DATA), what="w.onnx").most(0, 1)


@pytest.mark.parametrize(("at", "count"), [(-1, 1), (-20_000, 5), (0, -1), (1 << 70, 1), (0, 1 << 70)])
def test_an_offset_that_no_file_has_is_malformed(at: int, count: int) -> None:
    with pytest.raises(MalformedError) as refused:
        Reader(io.BytesIO(DATA), len(DATA)).exactly(at, count)
    assert 0 <= refused.value.at < 1 << 53  # a number of JSON, whatever the file says


def test_a_name_ends_with_its_nul_wherever_blocks_end() -> None:
    data = bytes(16_380) + b"a name over two blocks\0" + b"\xff\0" + b"x" * 5000
    reader = Reader(io.BytesIO(data), len(data))
    assert reader.text(16_380, len(data)) == "a name over two blocks"
    with pytest.raises(MalformedError, match="not UTF-8"):
        reader.text(16_403, len(data))
    assert reader.name(16_403, len(data)) == b"\xff"
    with pytest.raises(MalformedError, match="does not end within 10 bytes"):
        reader.name(16_380, 16_390)
    with pytest.raises(MalformedError, match="does not end within 4096 bytes"):
        reader.name(16_405, len(data))


def test_pieces_of_a_long_range_overlap() -> None:
    data = bytes(range(256)) * (10 << 10)
    found = list(Reader(io.BytesIO(data), len(data)).pieces(7, len(data), overlap=3))
    assert [at for at, _ in found] == [7, 7 + (1 << 20), 7 + (2 << 20)]
    for at, piece in found:
        assert piece == data[at : at + (1 << 20) + 3]


# --- protobuf ---------------------------------------------------------------------------------------------------------


def outcome(data: bytes, *, large: bool) -> Any:
    reader = Reader(io.BytesIO(b"xx" + data), len(data) + 2)
    try:
        if large:
            return list(protobuf._large(reader, 2, 2 + len(data)))
        return protobuf._small(data, 2)
    except MalformedError:
        return "malformed"


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(b"\x08\x0a\x12\x05\x01\x00\x7f\x80\xff\x2d\x31"), max_size=40).map(bytes)
)
def test_small_and_large_messages_are_read_alike(data: bytes) -> None:
    assert outcome(data, large=False) == outcome(data, large=True)


def test_a_large_message_is_read_without_what_is_in_its_fields() -> None:
    body = b"\x0a\x80\x80\x40" + bytes(1 << 20) + b"\x10\x07" + b"\x1d" + bytes(4) + b"\x21" + bytes(8)
    reader = Reader(io.BytesIO(body), len(body))
    end = 4 + (1 << 20)
    assert list(protobuf.fields(reader, 0, len(body))) == [
        (1, 2, 0, 4, end),
        (2, 0, 7, end + 1, end + 2),
        (3, 5, 0, end + 3, end + 7),
        (4, 1, 0, end + 8, end + 16),
    ]
    assert len(reader._blocks) == 2


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20))
def test_packed_numbers_are_read(values: list[int]) -> None:
    data = b"".join(varint(value) for value in values)
    assert list(protobuf.numbers(Reader(io.BytesIO(data), len(data)), 0, len(data))) == values


def test_a_packed_number_that_is_cut_off_is_malformed() -> None:
    for data, end in ((b"\x80", 1), (b"\xff" * 11, 11), (b"\x80\x01", 1)):
        with pytest.raises(MalformedError):
            list(protobuf.numbers(Reader(io.BytesIO(data), len(data)), 0, end))


@pytest.mark.parametrize(("value", "number"), [(0, 0), (5, 5), ((1 << 64) - 1, -1), (1 << 63, -(1 << 63))])
def test_negative_numbers_are_read_from_their_varints(value: int, number: int) -> None:
    assert protobuf.signed(value) == number
