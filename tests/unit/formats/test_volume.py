import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.volume import (
    ENTRY,
    HEADER,
    MAGIC,
    PARITY_MAGIC,
    REPAIR_MAGIC,
    Chunk,
    Codec,
    Entry,
    Frame,
    Header,
    emit_table,
    parse_table,
)
from airpack.types import Digest, Limits

SMALL = Header(Digest.of(b"manifest"), index=2, count=3, entries=4, slots=5, data=6)
KEY = b"k" * 32

digests = st.binary(min_size=32, max_size=32)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    count = draw(st.integers(1, Limits.VOLUMES))
    slots = draw(st.integers(1, Limits.TABLE_ENTRIES))
    entries = draw(st.integers(1, slots))
    data = draw(st.integers(0, entries * Limits.CHUNK))
    magic = draw(st.sampled_from([MAGIC, PARITY_MAGIC, REPAIR_MAGIC]))
    return Header(Digest.from_raw(draw(digests)), draw(st.integers(1, count)), count, entries, slots, data, magic)


BASES = (1 << 20, 1 << 40)  # bytes of each base file


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    codec = draw(st.sampled_from(Codec))
    parts = 1 if codec is Codec.BASE else draw(st.integers(1, 255))
    most = (1 << 20 if codec.has_base else Limits.FRAME) // codec.width
    frame = codec.width * draw(st.integers(1, most))
    base = draw(st.integers(1, 2)) if codec.has_base else 0
    return Entry(
        digest=draw(digests),
        raw_offset=draw(st.integers(0, 2**53)),
        stored=0 if codec is Codec.BASE else draw(st.integers(1, Limits.CHUNK)),
        frame=frame,
        codec=codec,
        part=draw(st.integers(0, parts - 1)),
        parts=parts,
        base=base,
        base_offset=draw(st.integers(0, BASES[base - 1] - frame)) if base else 0,
    )


@st.composite
def frames(draw: st.DrawFn) -> tuple[list[Entry], int]:
    """Draw the entries of a well-formed table, and where its stream begins."""
    start = offset = draw(st.integers(0, 2**40))
    found = []
    for _ in range(draw(st.integers(1, 5))):
        stored = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=4))
        codec = draw(st.sampled_from([Codec.RAW, Codec.ZSTD]))
        size = sum(stored) if codec == Codec.RAW else draw(st.integers(1, Limits.FRAME))
        for part, length in enumerate(stored):
            found.append(Entry(draw(digests), offset, length, size, codec, part, len(stored)))
        offset += size
    return found, start


def table(*found: Entry, slots: int = 0) -> bytes:
    return emit_table(b"".join(entry.emit() for entry in found), slots or len(found))


@given(headers())
def test_a_header_is_read_back(header: Header) -> None:
    assert len(header.emit()) == HEADER
    assert Header.parse(header.emit(), what="volume") == header


def test_the_bytes_of_a_header_are_those_of_the_specification() -> None:
    assert SMALL.emit() == (
        b"airvol\x00\x01" + Digest.of(b"manifest").raw + struct.pack("<IIIIQ", 2, 3, 4, 5, 6) + bytes(64)
    )


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_changed_byte_of_a_header_leaves_it_equal(flip: int) -> None:
    data = SMALL.emit()
    for at in range(HEADER):
        changed = bytearray(data)
        changed[at] ^= flip
        with suppress(IntegrityError):
            assert Header.parse(bytes(changed), what="volume") != SMALL


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes, expected 128"),
        (SMALL.emit()[:-1], "has 127 bytes"),
        (SMALL.emit() + b"\x00", "has 129 bytes"),
        (b"PK\x03\x04".ljust(128, b"\x00"), "not an airpack volume"),
        (SMALL.emit().replace(MAGIC, b"airvol\x00\x02"), "not an airpack volume of version 1"),
        (SMALL.emit()[:-1] + b"\x01", "padding is not zero"),
        (replace(SMALL, index=0).emit(), "index must be from 1 to 3"),
        (replace(SMALL, index=4).emit(), "index must be from 1 to 3"),
        (replace(SMALL, count=Limits.VOLUMES + 1).emit(), "count must be"),
        (replace(SMALL, entries=0).emit(), "entries must be"),
        (replace(SMALL, entries=6).emit(), "entries must be from 1 to 5"),
        (replace(SMALL, slots=Limits.TABLE_ENTRIES + 1).emit(), "slots must be"),
        (replace(SMALL, data=4 * Limits.CHUNK + 1).emit(), "data must be from 0"),
    ],
)
def test_a_header_out_of_bounds_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        Header.parse(data, what="volume")


@given(entries())
def test_an_entry_is_read_back(entry: Entry) -> None:
    assert len(entry.emit()) == ENTRY
    assert Entry.parse(entry.emit(), bases=BASES, what="chunk") == entry


def test_the_bytes_of_an_entry_are_those_of_the_specification() -> None:
    entry = Entry(KEY, raw_offset=1, stored=2, frame=3, codec=Codec.ZSTD, part=4, parts=5)

    assert entry.emit() == KEY + struct.pack("<QQIII4B", 1, 0, 2, 3, 0, 2, 4, 5, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, 0, 0, 1, 0, 1, 0, 1, 0), "stored size must be from 1"),
        ((0, 0, Limits.CHUNK + 1, 1, 0, 1, 0, 1, 0), "stored size must be"),
        ((0, 0, 1, 0, 0, 1, 0, 1, 0), "frame size must be from 1"),
        ((0, 0, 1, Limits.FRAME + 1, 0, 1, 0, 1, 0), "frame size must be"),
        ((0, 0, 1, 1, 0, 1, 0, 0, 0), "parts must be from 1"),
        ((0, 0, 1, 1, 0, 1, 1, 1, 0), "part must be from 0 to 0"),
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), "codec is 0"),
        ((0, 0, 1, 1, 0, 12, 0, 1, 0), "codec is 12"),
        ((0, 0, 1, 3, 0, 3, 0, 1, 0), "no multiple of 2"),
        ((0, 0, 1, 3, 0, 4, 0, 1, 0), "no multiple of 2"),
        ((0, 0, 1, 6, 0, 5, 0, 1, 0), "no multiple of 4"),
        ((0, 0, 1, 3, 1, 8, 0, 1, 0), "no multiple of 2"),
        ((0, 0, 1, 3, 1, 9, 0, 1, 0), "no multiple of 2"),
        ((0, 0, 1, 6, 1, 10, 0, 1, 0), "no multiple of 4"),
        ((0, 0, 1, 2, 1, 3, 0, 1, 0), "must be zero"),
        ((0, 0, 1, 1, 1, 6, 0, 1, 0), "stored size must be from 0 to 0"),
        ((0, 0, 0, 1, 1, 6, 0, 2, 0), "parts must be from 1 to 1"),
        ((0, 0, 0, 1, 0, 6, 0, 1, 0), "base must be from 1 to 2"),
        ((0, 0, 0, 1, 3, 6, 0, 1, 0), "base must be from 1 to 2"),
        ((0, 0, 1, 1, 0, 7, 0, 1, 0), "base must be from 1 to 2"),
        ((0, 1 << 20, 0, 1, 1, 6, 0, 1, 0), "base offset must be from 0 to 1048575"),
        ((0, (1 << 20) - 1, 0, 2, 1, 6, 0, 1, 0), "base offset must be from 0 to 1048574"),
        ((0, 1, 1, 1 << 20, 1, 7, 0, 1, 0), "base offset must be from 0 to 0"),
        ((0, 0, 1, (1 << 20) + 1, 1, 7, 0, 1, 0), "base offset must be from 0 to -1"),
        ((0, 1 << 20, 1, 1, 1, 11, 0, 1, 0), "base offset must be from 0 to 1048575"),
        ((0, (1 << 64) - 1, 0, 1, 1, 6, 0, 1, 0), "base offset must be"),
        ((0, 1, 1, 1, 0, 1, 0, 1, 0), "must be zero"),
        ((0, 0, 1, 1, 1, 1, 0, 1, 0), "must be zero"),
        ((0, 0, 1, 1, 0, 1, 0, 1, 1), "must be zero"),
    ],
)
def test_an_entry_out_of_bounds_is_refused(fields: tuple[int, ...], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        Entry.parse(KEY + struct.pack("<QQIII4B", *fields), bases=BASES, what="chunk")


def test_a_package_that_stands_alone_has_no_frame_that_builds_on_a_base() -> None:
    with pytest.raises(IntegrityError, match="base must be from 1 to 0"):
        Entry.parse(Entry(KEY, 0, 0, 1, Codec.BASE, base=1).emit(), what="chunk")


def test_a_patch_may_refer_to_less_of_its_base_than_it_makes() -> None:
    entry = Entry(KEY, 0, 1, Limits.FRAME, Codec.PATCH, base=1, base_offset=(1 << 20) - 1)

    assert Entry.parse(entry.emit(), bases=BASES, what="chunk") == entry


@given(frames(), st.integers(0, 3))
def test_a_table_gives_back_its_frames_and_their_places(drawn: tuple[list[Entry], int], spare: int) -> None:
    found, start = drawn
    data = table(*found, slots=len(found) + spare)
    stored = sum(entry.stored for entry in found)

    parsed = parse_table(data, entries=len(found), stored=stored, what="volume")

    walked = list(parsed.frames())
    chunks = [chunk for frame in walked for chunk in frame.chunks]
    assert [(chunk.digest, chunk.stored) for chunk in chunks] == [(entry.digest, entry.stored) for entry in found]
    assert [chunk.number for chunk in chunks] == list(range(1, len(found) + 1))
    assert chunks[0].offset == HEADER + len(data)
    assert chunks[-1].offset + chunks[-1].stored == HEADER + len(data) + stored
    assert walked[0].offset == start
    assert [frame.offset + frame.size for frame in walked] == [*(frame.offset for frame in walked[1:]), parsed.end]


def test_a_frame_knows_its_chunks() -> None:
    data = table(Entry(KEY, 7, 3, 5, Codec.ZSTD, 0, 2), Entry(b"l" * 32, 7, 4, 5, Codec.ZSTD, 1, 2))

    (frame,) = parse_table(data, entries=2, stored=7, what="volume").frames()

    assert frame == Frame(7, 5, Codec.ZSTD, (Chunk(1, KEY, 256, 3), Chunk(2, b"l" * 32, 259, 4)))
    assert frame.stored == 7


ONE = Entry(KEY, 0, 5, 5, Codec.RAW)
TWO = Entry(KEY, 5, 5, 5, Codec.RAW)


@pytest.mark.parametrize(
    ("found", "stored", "message"),
    [
        ([ONE, replace(TWO, raw_offset=6)], 10, "chunk 2: part 0 of the frame at byte 6"),
        ([ONE, replace(TWO, raw_offset=4)], 10, "stands where part 0 of the frame at byte 5"),
        ([TWO, ONE], 10, "chunk 2: part 0 of the frame at byte 0 of the stream stands where .* at byte 10"),
        (
            [replace(ONE, parts=2, frame=10), replace(ONE, part=1, parts=2, frame=10, raw_offset=5)],
            10,
            "chunk 2: part 1",
        ),
        (
            [replace(ONE, codec=Codec.XOR, base=1, parts=2), replace(ONE, codec=Codec.XOR, base=2, part=1, parts=2)],
            10,
            "base",
        ),
        ([ONE, TWO], 11, "lists 10 bytes of chunks; the signed size leaves 11"),
        ([replace(ONE, frame=6)], 5, "raw frame of 6 bytes is stored in 5"),
        ([replace(ONE, parts=2)], 5, "ends inside a frame"),
        (
            [
                replace(ONE, codec=Codec.ZSTD, stored=stored, part=part, parts=2)
                for part, stored in enumerate((6, Limits.CHUNK))
            ],
            Limits.CHUNK + 6,
            "far more than it needs",
        ),
        ([replace(ONE, parts=2, frame=10), replace(ONE, frame=10)], 10, "chunk 2: part 0 .* where part 1"),
        ([replace(ONE, parts=2), replace(ONE, part=1, parts=3)], 10, "parts of one frame disagree"),
        ([replace(ONE, parts=2, codec=Codec.ZSTD), replace(ONE, part=1, parts=2)], 10, "parts of one frame disagree"),
        ([replace(ONE, parts=2), replace(ONE, part=1, parts=2, frame=9)], 10, "parts of one frame disagree"),
    ],
)
def test_a_table_with_a_gap_an_overlap_or_a_contradiction_is_refused(
    found: list[Entry], stored: int, message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        parse_table(table(*found), entries=len(found), stored=stored, bases=(9, 9), what="volume")


def test_unused_slots_must_be_zero() -> None:
    data = table(ONE, slots=3)

    assert parse_table(data, entries=1, stored=5, what="volume").end == 5
    for at in range(ENTRY, len(data)):
        changed = bytearray(data)
        changed[at] = 1
        with pytest.raises(IntegrityError, match="unused slots are not zero"):
            parse_table(bytes(changed), entries=1, stored=5, what="volume")


@pytest.mark.parametrize(("data", "used"), [(table(ONE), 2), (table(ONE)[:-1], 1), (b"", 1)])
def test_a_table_too_short_for_its_entries_is_refused(data: bytes, used: int) -> None:
    with pytest.raises(IntegrityError, match=f"does not hold {used} entries"):
        parse_table(data, entries=used, stored=5, what="volume")
