import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.repair_volume import (
    bitmap_size,
    emit_bitmap,
    is_repair_name,
    parse_contents,
    parse_repair_header,
    repair_header,
    repair_name,
    repair_size,
    stems_of,
)
from airpack.formats.volume import ENTRY, HEADER, MAGIC, Codec, Entry, emit_table
from airpack.types import Digest

PAYLOAD = Digest.of(b"payload")


def table_of(sizes: list[int], slots: int) -> bytes:
    """Return a table with chunks of these lengths; of a chunk of 0 bytes nothing is stored."""
    entries, at = [], 0
    for size in sizes:
        digest = hashlib.sha256(bytes(size)).digest()
        entry = Entry(digest, at, size, size, Codec.RAW) if size else Entry(digest, at, 0, 7, Codec.BASE, base=1)
        entries.append(entry.emit())
        at += entry.frame
    return emit_table(b"".join(entries), slots)


def package(*volumes: tuple[list[int], int]) -> PackageManifest:
    """Return a package of volumes: the lengths of their chunks, and their slots."""
    infos = tuple(
        VolumeInfo(
            f"v{number}.airvol",
            HEADER + slots * ENTRY + sum(sizes),
            len(sizes),
            slots,
            Digest.of(table_of(sizes, slots)),
        )
        for number, (sizes, slots) in enumerate(volumes)
    )
    return PackageManifest(Digest.of(b"release"), "p", "1", "0.1.0", (FileInfo(PAYLOAD, 1),), infos)


MANIFEST = package(([10, 20, 0, 30], 4), ([5], 2))
TABLE = table_of([10, 20, 0, 30], 4)
WHOLE = MANIFEST.header(PAYLOAD, 0)


def test_names() -> None:
    assert repair_name("encoder-1.2.0.0003.airvol", 1) == "encoder-1.2.0.0003.01.airfix"
    assert stems_of(MANIFEST) == {"v0", "v1"}
    for name in ("v0.01.airfix", "v1.99.airfix", "v0.12345.airfix"):
        assert is_repair_name(name, stems_of(MANIFEST))
    for name in (
        "v0.airvol",
        "v2.01.airfix",
        "v0.airfix",
        "v0.1.airfix",
        "V0.01.airfix",
        "x/v0.01.airfix",
        "v0.01.airfix\n",
    ):
        assert not is_repair_name(name, stems_of(MANIFEST))


@given(st.data())
def test_what_is_marked_is_found_where_it_lies(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=40))
    slots = len(sizes) + data.draw(st.integers(0, 5))
    manifest = package((sizes, slots))
    stored = [number for number, size in enumerate(sizes, 1) if size]
    numbers = sorted(data.draw(st.sets(st.sampled_from(stored)))) if stored else []
    header = repair_header(manifest.header(PAYLOAD, 0), sum(sizes[number - 1] for number in numbers))

    assert parse_repair_header(header.emit(), manifest, PAYLOAD, what="it") == header
    contents = parse_contents(table_of(sizes, slots), emit_bitmap(numbers, len(sizes)), header, what="it")

    at = HEADER + slots * ENTRY + bitmap_size(len(sizes))
    for number, size in enumerate(sizes, 1):
        assert contents.find(number) == (at if number in numbers else None)
        at += size if number in numbers else 0
    assert at == repair_size(header)


def test_a_table_alone_is_a_repair_volume() -> None:
    header = repair_header(WHOLE, 0)
    assert parse_repair_header(header.emit(), MANIFEST, PAYLOAD, what="it") == header
    assert parse_contents(TABLE, b"\0", header, what="it").find(1) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"magic": MAGIC}, "is a volume, not a repair volume"),
        ({"package": Digest.of(b"other")}, "belongs to another package"),
        ({"index": 2}, "does not say of volume 2 what the manifest says"),
        ({"index": 3, "count": 3}, "says volume 3 of 3; there are 2"),
        ({"count": 3}, "does not say"),
        ({"entries": 3}, "does not say"),
        ({"slots": 5}, "does not say"),
        ({"data": 61}, "does not say"),
        ({"data": 1 << 40}, "data must be"),
    ],
)
def test_a_header_that_the_manifest_does_not_imply_is_refused(change: dict[str, object], reason: str) -> None:
    header = replace(repair_header(WHOLE, 10), **change)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=reason):
        parse_repair_header(header.emit(), MANIFEST, PAYLOAD, what="it")


def test_padding_and_length_of_a_header_count() -> None:
    data = repair_header(WHOLE, 10).emit()
    for wrong in (data[:-1], data + b"\0", data[:-1] + b"\1", b""):
        with pytest.raises(IntegrityError):
            parse_repair_header(wrong, MANIFEST, PAYLOAD, what="it")


@pytest.mark.parametrize(
    ("bitmap", "data", "reason"),
    [
        (b"\x10", 0, "marks more than the 4 chunks"),
        (b"\x80", 0, "marks more than the 4 chunks"),
        (b"\x01\x00", 10, "marks more than the 4 chunks"),
        (b"", 0, "marks more than the 4 chunks"),
        (b"\x04", 0, "marks chunk 3, of which nothing is stored"),
        (b"\x01", 9, "have 10 bytes; the header says 9"),
        (b"\x03", 10, "have 30 bytes; the header says 10"),
        (b"\x00", 10, "have 0 bytes; the header says 10"),
    ],
)
def test_a_bitmap_that_does_not_fit_is_refused(bitmap: bytes, data: int, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        parse_contents(TABLE, bitmap, repair_header(WHOLE, data), what="it")
