"""The journal's bytes: what is written is read again, up to the first record that does not hold."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.formats.journal import HEADER, RECORD, Kind, Record, emit_header, parse_records, seed_of
from airpack.types import Digest

PACKAGE = Digest.of(b"package manifest")
SEED = seed_of(emit_header(PACKAGE))
SPEC = Path(__file__).parents[3] / "docs/spec/journal.md"

frames = st.tuples(
    st.just(Kind.FRAME),
    st.integers(0, 255),
    st.integers(0, 9999),
    st.integers(0, 1 << 20),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
).map(lambda values: Record(*values))
starts = st.binary(min_size=16, max_size=16).map(lambda boot: Record(Kind.START, boot=boot))
marks = st.integers(0, 2**64 - 1).map(lambda count: Record(Kind.SYNCED, offset=count))
SOME = [
    Record(Kind.START, boot=bytes(range(16))),
    Record(Kind.FRAME, parts=2, volume=1, chunk=7, offset=1 << 40, size=4096),
    Record(Kind.SYNCED, offset=2),
]


def emitted(records: list[Record]) -> bytes:
    return b"".join(record.emit(SEED) for record in records)


@given(st.lists(frames | starts | marks, max_size=20), st.integers(1, 7))
def test_what_is_written_is_read_again_in_whatever_blocks(records: list[Record], size: int) -> None:
    data = emitted(records)
    blocks = [data[at : at + size * RECORD] for at in range(0, len(data), size * RECORD)]
    assert list(parse_records(blocks, SEED)) == records
    assert all(len(record.emit(SEED)) == RECORD for record in records)


def test_the_first_record_that_does_not_hold_ends_the_journal() -> None:
    data = emitted(SOME)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= random.Random(at).randrange(1, 256)
        assert list(parse_records([bytes(broken)], SEED)) == SOME[: at // RECORD]
    for length in range(len(data)):
        assert list(parse_records([data[:length]], SEED)) == SOME[: length // RECORD]
    assert list(parse_records([data + bytes(RECORD)], SEED)) == SOME, "zeros, as a power cut leaves them, are no record"


def test_records_of_another_journal_do_not_hold() -> None:
    other = seed_of(emit_header(Digest.of(b"another package")))
    assert list(parse_records([emitted(SOME)], other)) == []


def test_a_kind_that_nobody_knows_ends_the_journal() -> None:
    unknown = Record(4, offset=1).emit(SEED)  # type: ignore[arg-type]
    assert list(parse_records([emitted(SOME) + unknown + emitted(SOME)], SEED)) == SOME


@pytest.mark.parametrize("package", [PACKAGE, Digest.of(b"")])
def test_a_header_is_that_of_its_package(package: Digest) -> None:
    header = emit_header(package)
    assert (len(header), header[:8], header[8:40]) == (HEADER, b"airjnl\x00\x01", package.raw)


def test_the_example_of_the_specification_is_what_is_written() -> None:
    text = SPEC.read_text().partition("```\n0000")[2].partition("```")[0]
    lines = re.findall(r"^(?:[0-9a-f]{4})?  ((?:[0-9a-f]{2} ?)+)", "0000" + text, flags=re.MULTILINE)
    shown = bytes.fromhex("".join(lines))
    records = [
        Record(Kind.START, boot=bytes.fromhex("6f1c0b5e8f0e4b7ca6a0c8b1f2d3e4f5")),
        Record(Kind.FRAME, parts=1, volume=1, chunk=1, offset=0, size=12),
        Record(Kind.SYNCED, offset=2),
    ]
    package = Digest("sha256:2cfe9e8741a9a8f9f8138776aa5c96ed4274328f860cbb19c78e0cbcb37f9fd1")
    seed = seed_of(emit_header(package))
    assert shown == emit_header(package) + b"".join(record.emit(seed) for record in records)
