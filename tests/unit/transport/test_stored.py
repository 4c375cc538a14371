import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import IntegrityError
from airpack.formats.package import Base, FileInfo, PackageManifest, ParityGroup, ParityInfo, VolumeInfo, parity_size
from airpack.formats.volume import ENTRY, HEADER, REPAIR_MAGIC, ROW, Codec, Entry, Header, emit_table
from airpack.transport import stored
from airpack.types import Digest

Package = tuple[PackageManifest, Digest, Path]
DATA = random.Random(7).randbytes(5_000_000)


def checked(layout: stored.Layout, data: bytes, *, block: int = 1 << 20) -> Digest:
    check = stored.Check(layout, "file")
    for start in range(0, len(data), block):
        check.feed(memoryview(data)[start : start + block])
    return check.done()


@pytest.fixture
def package(pack: Callable[..., Package]) -> Package:
    return pack(DATA, b"small")


def with_parity(package: Package, count: int = 2) -> tuple[PackageManifest, list[bytes]]:
    """Return the manifest with parity volumes over all volumes, and those volumes: any bytes with right digests."""
    manifest, _, _ = package
    length = max(info.size for info in manifest.volumes) - HEADER
    bodies, infos = [], []
    for number in range(1, count + 1):
        parity = random.Random(number).randbytes(length)
        rows = [parity[start : start + ROW] for start in range(0, length, ROW)]
        digests = b"".join(hashlib.sha256(row).digest() for row in rows)
        bodies.append(digests + parity + digests)
        infos.append(ParityInfo(f"pack.p{number:02}.airvol", parity_size(length), Digest.of(digests)))
    made = replace(manifest, parity=(ParityGroup(0, len(manifest.volumes), length, tuple(infos)),))
    payload = Digest.of(made.emit())
    headers = [made.parity_header(payload, position).emit() for position in range(count)]
    return PackageManifest.parse(made.emit()), [header + body for header, body in zip(headers, bodies, strict=True)]


def repair(package: Package, position: int, numbers: set[int]) -> bytes:
    """Return a repair volume that brings the chunks `numbers` of the volume at `position`."""
    manifest, payload, folder = package
    info = manifest.volumes[position]
    volume = (folder / info.name).read_bytes()
    table = volume[HEADER : HEADER + info.slots * ENTRY]
    bitmap, chunks, place = bytearray(-(-info.entries // 8)), b"", HEADER + len(table)
    for number in range(1, info.entries + 1):
        size = Entry.parse(table[(number - 1) * ENTRY : number * ENTRY], what="").stored
        if number in numbers:
            bitmap[(number - 1) // 8] |= 1 << (number - 1) % 8
            chunks += volume[place : place + size]
        place += size
    header = Header(
        payload, position + 1, len(manifest.volumes), info.entries, info.slots, len(chunks), magic=REPAIR_MAGIC
    )
    return header.emit() + table + bytes(bitmap) + chunks


@pytest.mark.parametrize("block", [1, 1000, 1 << 20, 1 << 30])
def test_a_volume_as_it_was_written_passes_in_blocks_of_any_size(pack: Callable[..., Package], block: int) -> None:
    manifest, payload, folder = pack(DATA[:5000] if block == 1 else DATA)
    data = (folder / manifest.volumes[0].name).read_bytes()
    assert checked(stored.data_volume(manifest, payload, 0), data, block=block) == Digest.of(data)


def layouts(package: Package) -> Iterator[tuple[Callable[[], stored.Layout], bytes]]:
    """Every kind of file, with what makes its layout."""
    manifest, payload, folder = package
    data = (folder / manifest.volumes[1].name).read_bytes()
    yield lambda: stored.data_volume(manifest, payload, 1), data
    parity, volumes = with_parity(package)
    yield lambda: stored.parity_volume(parity, Digest.of(parity.emit()), 1), volumes[1]
    fix = repair(package, 1, {1})
    yield lambda: stored.repair_volume(manifest, payload, len(fix)), fix
    yield lambda: stored.known(b"a head", "head"), b"a head"


def test_a_bit_that_flips_anywhere_is_named(package: Package) -> None:
    chance = random.Random(3)
    for layout, data in layouts(package):
        assert checked(layout(), data) == Digest.of(data)
        for at in {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(12)), *range(100, 130, 7)}:
            if at >= len(data):
                continue
            flipped = bytearray(data)
            flipped[at] ^= 1 << chance.randrange(8)
            with pytest.raises(IntegrityError) as caught:
                checked(layout(), bytes(flipped))
            offset, length = caught.value.context["offset"], caught.value.context["length"]
            assert offset <= at < offset + length, at


def test_every_byte_less_or_more_is_named(package: Package) -> None:
    for layout, data in layouts(package):
        for size in {0, 1, len(data) // 2, len(data) - 1}:
            with pytest.raises(IntegrityError, match="ends at byte"):
                checked(layout(), data[:size])
        with pytest.raises(IntegrityError, match="goes on behind its end"):
            checked(layout(), data + b"\0")


def test_a_volume_is_not_taken_for_its_neighbour(package: Package) -> None:
    manifest, payload, folder = package
    first = (folder / manifest.volumes[0].name).read_bytes()
    with pytest.raises(IntegrityError, match="header"):
        checked(stored.data_volume(manifest, payload, 1), first)
    parity, volumes = with_parity(package)
    with pytest.raises(IntegrityError, match="header"):
        checked(stored.parity_volume(parity, Digest.of(parity.emit()), 0), volumes[1])


def test_a_repair_volume_of_another_package_is_none_of_this_one(package: Package) -> None:
    manifest, _, _ = package
    fix = repair(package, 0, {1})
    with pytest.raises(IntegrityError, match="belongs to another package"):
        checked(stored.repair_volume(manifest, Digest.of(b"other"), len(fix)), fix)
    data = (package[2] / manifest.volumes[0].name).read_bytes()
    with pytest.raises(IntegrityError, match="not a repair volume"):
        checked(stored.repair_volume(manifest, package[1], len(data)), data)


def test_a_repair_volume_must_bring_the_chunks_that_its_bitmap_says(package: Package) -> None:
    manifest, payload, _ = package
    fix = bytearray(repair(package, 0, {1}))
    info = manifest.volumes[0]
    fix[HEADER + info.slots * ENTRY] = 2  # chunk 2 instead
    with pytest.raises(IntegrityError):
        checked(stored.repair_volume(manifest, payload, len(fix)), bytes(fix))


def test_a_frame_that_a_base_file_holds_has_no_bytes_here() -> None:
    """Its digest is that of the frame, which is not on the medium."""
    held = FileInfo(Digest.of(b"held"), 4)
    entries = [
        Entry(hashlib.sha256(b"held").digest(), 0, 0, 4, Codec.BASE, base=1),
        Entry(hashlib.sha256(b"new").digest(), 4, 3, 3, Codec.RAW),
    ]
    table = emit_table(b"".join(entry.emit() for entry in entries), 4)
    info = VolumeInfo("delta.0001.airvol", HEADER + len(table) + 3, 2, 4, Digest.of(table))
    made = PackageManifest(
        Digest.of(b"release"),
        "tool",
        "2.0.0",
        "0.1.0",
        (FileInfo(Digest.of(b"heldnew"), 7),),
        (info,),
        bases=(Base(Digest.of(b"base"), "tool", "1.0.0", (held,)),),
    )
    payload = Digest.of(made.emit())
    data = made.header(payload, 0).emit() + table + b"new"
    assert checked(stored.data_volume(made, payload, 0), data) == Digest.of(data)


def test_a_table_that_is_as_listed_and_cannot_be_is_refused_before_its_chunks(
    forge: Callable[..., Package], chunk: Callable[..., Any]
) -> None:
    manifest, payload, folder = forge([b"abcdef"], [[chunk(b"abc", 0, 3, Codec.RAW), chunk(b"def", 4, 3, Codec.RAW)]])
    data = (folder / manifest.volumes[0].name).read_bytes()
    with pytest.raises(IntegrityError, match="as its package says, and wrong"):
        checked(stored.data_volume(manifest, payload, 0), data)
