import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from airpack.errors import AirpackError, IntegrityError, PartialError, StorageError
from airpack.formats.package import PackageManifest
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry
from airpack.transport import codec
from airpack.transport.outcome import Outcome
from airpack.transport.planes import Buffer
from airpack.transport.progress import Progress
from airpack.transport.reader import NullSink, open_media, unpack, unpack_all
from airpack.transport.writer import PackWriter
from airpack.types import Digest

MIB = 1 << 20
NOISE = random.Random(7).randbytes(5 * MIB)
FILES = (b"one", b"two" * 100, NOISE[: MIB + 7], b"", b"three", NOISE[-2 * MIB :])
Package = tuple[PackageManifest, Digest, Path]
Make = Callable[..., Package]
MakeChunk = Callable[..., tuple[Entry, bytes]]


def everything(manifest: PackageManifest) -> set[Digest]:
    return {file.digest for file in manifest.files}


def verify(package: Package) -> None:
    """Read all of `package` into nothing."""
    manifest, payload, folder = package
    unpack_all(manifest, payload, [folder], wanted=everything(manifest), sink=NullSink())


def read(package: Package, sink: Any = None, **options: Any) -> Outcome:
    """Read what there is of `package`, and return what that came to."""
    manifest, payload, folder = package
    with open_media(manifest, payload, [folder]) as media:
        return unpack(media, **{"wanted": everything(manifest), "sink": sink or NullSink(), **options})


def path_of(package: Package, position: int = 0) -> Path:
    manifest, _, folder = package
    return folder / manifest.volumes[position].name


def change(path: Path, at: int, flip: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= flip
    path.write_bytes(data)


class Reads:
    """Notes every read of a volume, and may fail one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.fail_at = -1
        self.fail_times = 1 << 30
        self.most = 1 << 30
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int) -> int:
        self.ranges.append((offset, len(buffers[0])))
        if offset == self.fail_at and self.fail_times > 0:
            self.fail_times -= 1
            raise OSError(5, "Input/output error")
        return self._preadv(descriptor, [buffers[0][: self.most]], offset)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_wanted_files_come_whole_and_in_stream_order(pack: Make, collector: Any) -> None:
    manifest, payload, folder = pack(*FILES)
    wanted = {Digest.of(data) for data in (FILES[5], FILES[1], FILES[2])}
    sink = collector()

    unpack_all(manifest, payload, [folder], wanted=wanted, sink=sink)

    assert sink.files == {Digest.of(data): data for data in (FILES[1], FILES[2], FILES[5])}
    assert sink.order == [Digest.of(data) for data in (FILES[1], FILES[2], FILES[5])]
    assert sink.parts == {}


def test_an_empty_file_is_delivered(pack: Make, collector: Any) -> None:
    for files in (FILES, (b"",)):
        manifest, payload, folder = pack(*files, name=f"pack{len(files)}")
        sink = collector()
        unpack_all(manifest, payload, [folder], wanted={Digest.of(b"")}, sink=sink)
        assert sink.files == {Digest.of(b""): b""}


def test_damage_in_a_frame_that_nobody_wants_is_refused_too(pack: Make, collector: Any) -> None:
    package = manifest, payload, folder = pack(b"small", NOISE[: 3 * MIB], b"late", volume_size=8 * MIB)
    unpack_all(manifest, payload, [folder], wanted={Digest.of(b"late")}, sink=collector())

    change(path_of(package), HEADER + manifest.volumes[0].slots * ENTRY + 5, 1)

    with pytest.raises(IntegrityError, match="does not have its signed digest"):
        unpack_all(manifest, payload, [folder], wanted={Digest.of(b"late")}, sink=collector())


def test_a_frame_that_nobody_wants_is_hashed_but_not_decoded(
    forge: Make, chunk: MakeChunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, payload, folder = forge(
        [b"aaaa", b"bb"], [[chunk(b"aaaa", 0, 4, Codec.RAW), chunk(b"bb", 4, 2, Codec.RAW)]]
    )
    decoded: list[int] = []
    plain = codec.decode

    def watched(name: Codec, data: bytes, size: int, base: bytes | None) -> Buffer:
        decoded.append(size)
        return plain(name, data, size, base)

    monkeypatch.setattr(codec, "decode", watched)

    unpack_all(manifest, payload, [folder], wanted={Digest.of(b"bb")}, sink=NullSink())

    assert decoded == [2]


def test_each_byte_of_the_medium_is_read_once(pack: Make, reads: Reads) -> None:
    package = pack(*FILES, volume_size=8 * MIB)

    verify(package)

    ends = [offset + length for offset, length in reads.ranges]
    assert [offset for offset, _ in reads.ranges] == [0, *ends[:-1]]
    assert ends[-1] == package[0].volumes[0].size


def test_short_reads_are_continued(pack: Make, reads: Reads) -> None:
    package = pack(*FILES)
    reads.most = 4097

    verify(package)


def test_with_nothing_wanted_all_that_is_there_is_read_and_nothing_is_missed(pack: Make, reads: Reads) -> None:
    package = manifest, payload, folder = pack(*FILES)
    unpack_all(manifest, payload, [folder], wanted=(), sink=NullSink())
    assert sum(length for _, length in reads.ranges) == manifest.stored

    path_of(package).unlink()
    assert read(package, wanted=()).is_whole
    with pytest.raises(PartialError):
        unpack_all(manifest, payload, [folder], wanted=(), sink=NullSink())


def test_any_changed_byte_of_a_volume_is_refused(forge: Make, chunk: MakeChunk) -> None:
    packed = zstandard.compress(b"b" * 100)
    package = forge([b"aaaa", b"b" * 100], [[chunk(b"aaaa", 0, 4, Codec.RAW), chunk(packed, 4, 100, Codec.ZSTD)]])
    path = path_of(package)
    data = path.read_bytes()
    verify(package)

    for at in range(len(data)):
        change(path, at, random.Random(at).randrange(1, 256))
        with pytest.raises(IntegrityError) as caught:
            verify(package)
        context = caught.value.context
        assert context["volume"] == path.name
        assert context["offset"] <= at < context["offset"] + context["length"]
        path.write_bytes(data)


def test_a_volume_cut_or_extended_anywhere_is_refused(forge: Make, chunk: MakeChunk) -> None:
    package = forge([b"aaaa"], [[chunk(b"aaaa", 0, 4, Codec.RAW)]], slots=1)
    path = path_of(package)
    data = path.read_bytes()

    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(IntegrityError, match=f"has {length} bytes, expected {len(data)}: it was cut short"):
            verify(package)
    path.write_bytes(data + b"\x00")
    with pytest.raises(IntegrityError, match="has trailing data"):
        verify(package)


def test_damage_is_named_with_volume_chunk_and_bytes(pack: Make) -> None:
    package = pack(NOISE, volume_size=3 * MIB)
    path = path_of(package, 1)
    first = HEADER + package[0].volumes[1].slots * ENTRY
    change(path, first + MIB + 3)

    with pytest.raises(IntegrityError, match=r"pack\.0002\.airvol: chunk 2 of 2, bytes .* signed digest") as caught:
        verify(package)

    assert caught.value.context == {
        "path": str(path),
        "volume": path.name,
        "chunk": 2,
        "offset": first + MIB,
        "length": MIB,
        "missing": [],
        "damaged": [{"volume": path.name, "ranges": [[first + MIB, MIB]]}],
    }
    assert "copy this volume again" in caught.value.hint


def test_no_decoder_sees_a_chunk_whose_digest_is_wrong(pack: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pack(b"text " * 5000)
    change(path_of(package), -1)
    monkeypatch.setattr("airpack.transport.codec.decode", lambda *_: pytest.fail("decoded"))

    with pytest.raises(IntegrityError, match="signed digest"):
        verify(package)


@pytest.mark.parametrize("size", [2 * MIB, 3 * MIB])
def test_volumes_under_each_others_names_serve_as_what_they_are(pack: Make, collector: Any, size: int) -> None:
    package = pack(NOISE[: 4 * MIB], volume_size=size)
    one, two = path_of(package, 0), path_of(package, 1)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    sink = collector()

    assert read(package, sink).is_whole
    assert list(sink.files.values()) == [NOISE[: 4 * MIB]]


def test_a_volume_of_another_package_is_named_as_such(forge: Make, chunk: MakeChunk) -> None:
    forge([b"bb"], [[chunk(b"bb", 0, 2, Codec.RAW)]])
    foreign = forge([b"bb"], [[chunk(b"bb", 0, 2, Codec.RAW)]])[2] / "forged.0001.airvol"
    data = foreign.read_bytes()
    package = forge([b"aa"], [[chunk(b"aa", 0, 2, Codec.RAW)]])
    path_of(package).write_bytes(data)

    with pytest.raises(IntegrityError, match="belongs to another package") as caught:
        verify(package)
    assert "made with this head" in caught.value.hint


@pytest.mark.parametrize("position", [0, 1])
def test_missing_volumes_are_all_named_before_anything_is_read(pack: Make, reads: Reads, position: int) -> None:
    package = manifest, _, folder = pack(NOISE, volume_size=2 * MIB)
    kept = manifest.volumes[position].name
    for volume in manifest.volumes:
        if volume.name != kept:
            (folder / volume.name).unlink()
    missing = [volume.name for volume in manifest.volumes if volume.name != kept]

    with pytest.raises(PartialError, match="4 of 5 volumes are missing") as caught:
        verify(package)
    assert caught.value.context["missing"] == missing
    assert reads.ranges == [(0, HEADER)]
    assert read(package).missing == tuple(missing), "of those who take what there is"


def test_many_missing_volumes_are_not_all_in_the_message(forge: Make, chunk: MakeChunk) -> None:
    package = forge([bytes(30)], [[chunk(b"\x00", at, 1, Codec.RAW)] for at in range(30)])
    for position in range(30):
        path_of(package, position).unlink()

    with pytest.raises(PartialError, match=r"forged\.0020\.airvol and 10 more$") as caught:
        verify(package)
    assert len(caught.value.context["missing"]) == 30


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_opened(pack: Make, kind: str) -> None:
    package = pack(b"abc")
    path = path_of(package)
    moved = path.rename(path.with_suffix(".moved"))
    if kind == "link":
        path.symlink_to(moved)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()

    with pytest.raises(IntegrityError, match="not a regular file"):
        verify(package)


def test_an_error_of_the_medium_is_a_storage_error_with_its_place(pack: Make, collector: Any, reads: Reads) -> None:
    package = manifest, _, _ = pack(NOISE, b"behind", volume_size=8 * MIB)
    reads.fail_at = HEADER + manifest.volumes[0].slots * ENTRY + 2 * MIB
    sink = collector()

    outcome = read(package, sink)

    assert outcome.damaged == {manifest.volumes[0].name: [(reads.fail_at, MIB)]}
    assert list(sink.files.values()) == [b"behind"], "what comes behind is read all the same"
    assert [offset for offset, _ in reads.ranges].count(reads.fail_at) == 3
    with pytest.raises(StorageError, match=r"chunk 3 of 6, bytes .* Input/output error") as caught:
        verify(package)
    assert caught.value.context == {
        "path": str(path_of(package)),
        "volume": manifest.volumes[0].name,
        "chunk": 3,
        "offset": reads.fail_at,
        "length": MIB,
        "missing": [],
        "damaged": [{"volume": manifest.volumes[0].name, "ranges": [[reads.fail_at, MIB]]}],
    }


def test_an_error_of_the_medium_that_passes_is_none(pack: Make, collector: Any, reads: Reads) -> None:
    package = manifest, _, _ = pack(NOISE, volume_size=8 * MIB)
    reads.fail_at, reads.fail_times = HEADER + manifest.volumes[0].slots * ENTRY + 2 * MIB, 2
    sink = collector()

    assert read(package, sink).is_whole
    assert list(sink.files.values()) == [NOISE]


def test_all_damage_is_told_and_everything_else_delivered(pack: Make, collector: Any) -> None:
    """A scratch, a volume that is not there, and one that was cut: each is named, so that one way brings them all."""
    package = manifest, _, _ = pack(b"small", NOISE, volume_size=3 * MIB)
    one, two, three = manifest.volumes
    assert [volume.entries for volume in manifest.volumes] == [3, 2, 1]
    scratch = HEADER + one.slots * ENTRY + 7
    change(path_of(package, 0), scratch)
    path_of(package, 1).unlink()
    os.truncate(path_of(package, 2), three.size - 1)
    sink = collector()

    outcome = read(package, sink)

    assert outcome.missing == (two.name,)
    assert outcome.damaged.keys() == {one.name, three.name}
    assert [start <= scratch < start + length for start, length in outcome.damaged[one.name]] == [True]
    assert [start + length for start, length in outcome.damaged[three.name]] == [three.size]
    assert sink.settled == [(0, 1), (0, 3)]


def test_a_damaged_header_is_damage_though_it_hides_nothing(pack: Make, collector: Any) -> None:
    package = manifest, _, _ = pack(b"abc")
    change(path_of(package), 0)
    sink = collector()

    outcome = read(package, sink)

    assert outcome.damaged == {manifest.volumes[0].name: [(0, HEADER)]}
    assert list(sink.files.values()) == [b"abc"]


def test_a_volume_that_shrinks_while_it_is_read_is_a_storage_error(pack: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pack(b"abc")
    preadv = os.preadv

    def shrink(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset:
            os.truncate(path_of(package), offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", shrink)

    with pytest.raises(StorageError, match="became shorter"):
        verify(package)


def done(*frames: tuple[int, int, int, int, int]) -> Progress:
    progress = Progress()
    for frame in frames:
        progress.add(*frame)
    return progress


def test_frames_that_were_verified_before_are_not_read_again(
    forge: Make, chunk: MakeChunk, collector: Any, recorder: Any
) -> None:
    blocks = [b"aa", b"bb", b"cc", b"dd"]
    chunks = [chunk(block, 2 * number, 2, Codec.RAW) for number, block in enumerate(blocks)]
    package = forge([b"aabbcc", b"dd"], [chunks[:2], chunks[2:]])
    path_of(package, 0).unlink()
    sink = collector()
    sink.parts[Digest.of(b"aabbcc")] = bytearray(b"aabb\0\0")

    outcome = read(package, sink, progress=done((0, 1, 1, 0, 2), (0, 2, 1, 2, 2)), reporter=recorder)

    assert outcome.is_whole
    assert recorder.done == 8, "what is passed over is done"
    assert list(sink.files.values()) == [b"aabbcc", b"dd"]
    assert sink.settled == [(1, 1), (1, 2)]


def test_a_file_that_was_full_before_is_hashed_and_committed(forge: Make, chunk: MakeChunk, collector: Any) -> None:
    package = forge([b"aa", b"bb"], [[chunk(b"aa", 0, 2, Codec.RAW), chunk(b"bb", 2, 2, Codec.RAW)]])
    sink = collector()
    sink.parts[Digest.of(b"aa")] = bytearray(b"aa")

    assert read(package, sink, progress=done((0, 1, 1, 0, 2))).is_whole
    assert sink.order == [Digest.of(b"aa"), Digest.of(b"bb")]


@pytest.mark.parametrize("full", [False, True])
def test_a_file_of_which_an_earlier_run_lost_bytes_is_dropped_and_nobody_s_fault(
    forge: Make, chunk: MakeChunk, collector: Any, full: bool
) -> None:
    package = forge([b"aabb", b"cc"], [[chunk(b"aa", 0, 2, Codec.RAW), chunk(b"bbcc", 2, 4, Codec.RAW)]])
    sink = collector()
    sink.parts[Digest.of(b"aabb")] = bytearray(b"\0\0bb" if full else b"\0\0\0\0")
    before = [(0, 1, 1, 0, 2), (0, 2, 1, 2, 4)] if full else [(0, 1, 1, 0, 2)]
    wanted = {Digest.of(b"aabb")} | (set() if full else {Digest.of(b"cc")})

    outcome = read(package, sink, progress=done(*before), wanted=wanted)

    assert outcome.dropped == (Digest.of(b"aabb"),)
    assert not outcome.is_whole
    assert Digest.of(b"aabb") not in sink.files


def test_the_tables_of_a_package_must_continue_each_other_as_far_as_they_are_there(
    forge: Make, chunk: MakeChunk
) -> None:
    package = forge(
        [b"aabbcc"],
        [[chunk(b"aa", 0, 2, Codec.RAW)], [chunk(b"b", 2, 1, Codec.RAW)], [chunk(b"acc", 1, 3, Codec.RAW)]],
    )
    path_of(package, 1).unlink()
    with pytest.raises(IntegrityError, match="frames begin at byte 1 of the files, 2 must stand there"):
        read(package)


def test_a_frame_of_several_chunks_is_read(forge: Make, chunk: MakeChunk, collector: Any) -> None:
    text = bytes(random.Random(3).choices(b"abcdef", k=2 * MIB))
    packed = zstandard.compress(text)
    cut = len(packed) // 3
    parts = [packed[:cut], packed[cut : cut + 1], packed[cut + 1 :]]
    noise = NOISE[: MIB + 9]
    manifest, payload, folder = forge(
        [b"head", text, noise],
        [
            [
                chunk(b"head", 0, 4, Codec.RAW),
                *[chunk(part, 4, len(text), Codec.ZSTD, part=number, parts=3) for number, part in enumerate(parts)],
            ],
            [
                chunk(noise[:MIB], 4 + len(text), len(noise), Codec.RAW, part=0, parts=2),
                chunk(noise[MIB:], 4 + len(text), len(noise), Codec.RAW, part=1, parts=2),
            ],
        ],
    )
    sink = collector()

    unpack_all(manifest, payload, [folder], wanted=everything(manifest), sink=sink)

    assert list(sink.files.values()) == [b"head", text, noise]


def test_damage_in_a_frame_of_several_chunks_names_the_chunk(forge: Make, chunk: MakeChunk) -> None:
    package = forge(
        [b"aabb"], [[chunk(b"aa", 0, 4, Codec.RAW, part=0, parts=2), chunk(b"bb", 0, 4, Codec.RAW, part=1, parts=2)]]
    )
    change(path_of(package), -1)

    with pytest.raises(IntegrityError, match="chunk 2 of 2, bytes 386 to 388,"):
        verify(package)


def _bomb(size: int, produced: int) -> bytes:
    """Return a zstd frame that declares `size` bytes and holds `produced` (RFC 8878, a repeated-byte block)."""
    return b"\x28\xb5\x2f\xfd\x80\x50" + size.to_bytes(4, "little") + (produced << 3 | 3).to_bytes(3, "little") + b"a"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (_bomb(4, 100_000), "does not decode"),
        (_bomb(100_000, 100_000), "declares 100000 bytes of content, expected 4"),
        (_bomb(4, 3), "does not decode"),
        (b"\x28\xb5\x2f\xfd\x80\x88\x04\x00\x00\x00\x21\x00\x00aaaa", "window of 134217728"),
        (zstandard.compress(b"aaaa") + b"\x00", "does not decode"),
    ],
    ids=["produces-more", "declares-more", "produces-less", "large-window", "trailing-byte"],
)
def test_a_signed_frame_that_is_not_what_its_table_says_is_refused_with_its_place(
    forge: Make, chunk: MakeChunk, collector: Any, stored: bytes, message: str
) -> None:
    manifest, payload, folder = forge([b"aaaa"], [[chunk(stored, 0, 4, Codec.ZSTD)]])
    sink = collector()

    with pytest.raises(IntegrityError, match=f"chunk 1 of 1, bytes 384 to {384 + len(stored)}, .*{message}"):
        unpack_all(manifest, payload, [folder], wanted=everything(manifest), sink=sink)
    assert sink.files == {}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([[(b"aa", 0, 2)], [(b"bb", 3, 2)]], "begin at byte 3 of the files, 2 must stand there"),
        ([[(b"aa", 0, 2)], [(b"bb", 0, 2)]], "begin at byte 0 of the files, 2 must stand there"),
        ([[(b"aa", 0, 2)], [(b"bbb", 2, 3)]], "frames reach byte 5 of the files, which have 4"),
        ([[(b"aa", 0, 2)], [(b"b", 2, 1)]], "frames reach byte 3 of the files, which have 4"),
        ([[(b"aabb", 0, 4), (b"c", 4, 1)], [(b"c", 5, 1)]], "frames reach byte 5 of the files, which have 4"),
    ],
    ids=["gap", "overlap", "too-much", "too-little", "too-much-early"],
)
def test_signed_tables_that_do_not_cover_the_files_exactly_are_refused(
    forge: Make, chunk: MakeChunk, entries: list[list[tuple[bytes, int, int]]], message: str
) -> None:
    volumes = [[chunk(data, offset, size, Codec.RAW) for data, offset, size in volume] for volume in entries]

    with pytest.raises(IntegrityError, match=f"chunk table, bytes 128 to .* is signed but wrong: .*{message}"):
        verify(forge([b"aabb"], volumes))


def test_a_file_whose_chunks_are_as_signed_but_whose_digest_is_not_is_never_committed(
    forge: Make, chunk: MakeChunk, collector: Any
) -> None:
    manifest, payload, folder = forge([b"good", b"evil"], [[chunk(b"goodEVIL", 0, 8, Codec.RAW)]])
    sink = collector()

    with pytest.raises(IntegrityError, match=f"has digest {Digest.of(b'EVIL')}, expected {Digest.of(b'evil')}"):
        unpack_all(manifest, payload, [folder], wanted=everything(manifest), sink=sink)

    assert sink.files == {Digest.of(b"good"): b"good"}
    assert sink.settled == []


@pytest.mark.parametrize("step", ["write", "settle", "commit"])
def test_an_error_of_the_sink_comes_through(
    pack: Make, collector: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    sink = collector()

    def fail(*_: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(sink, step, fail)

    with pytest.raises(StorageError, match="disk full"):
        read(pack(*FILES), sink)


def test_progress_counts_stored_bytes(pack: Make, recorder: Any) -> None:
    manifest, payload, folder = pack(*FILES)
    wanted = {Digest.of(FILES[2]), Digest.of(FILES[5])}

    unpack_all(manifest, payload, [folder], wanted=wanted, sink=NullSink(), reporter=recorder, task="verify")

    stored = sum(info.data for info in manifest.volumes)
    assert recorder.tasks == [("verify", stored)]
    assert recorder.done == stored
    assert recorder.volume == manifest.volumes[-1].name
    assert recorder.item == str(Digest.of(FILES[5]))
    assert recorder.finished == 1


def test_every_refusal_is_an_error_of_airpack(forge: Make, chunk: MakeChunk) -> None:
    package = forge([b"aaaa"], [[chunk(b"aaaa", 0, 4, Codec.RAW)]])
    path = path_of(package)
    path.write_bytes(b"PK\x03\x04".ljust(path.stat().st_size, b"\x00"))

    with pytest.raises(AirpackError, match="header, bytes 0 to 128, is damaged: it is not an airpack volume"):
        verify(package)


MEASURE = """
import re, sys
from pathlib import Path
from airpack.formats.package import PackageManifest
from airpack.transport.reader import NullSink, unpack_all
from airpack.types import Digest

def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) >> 10

payload = Path(sys.argv[1]).read_bytes()
manifest = PackageManifest.parse(payload)
before = peak()
wanted = {file.digest for file in manifest.files}
unpack_all(manifest, Digest.of(payload), [Path(sys.argv[1]).parent], wanted=wanted, sink=NullSink())
print(peak() - before)
"""


@pytest.mark.parametrize(("solid", "most"), [(True, 192 - 80), (False, 128 - 80)])
def test_reading_takes_no_more_memory_than_is_promised(tmp_path: Path, source: Any, solid: bool, most: int) -> None:
    """128 MiB for weights, 192 MiB with runtimes, of which a program that imports takes 80 by itself."""
    half = b"".join(NOISE[: 32 << 10] + bytes(32 << 10) for _ in range(16))  # a MiB that compresses to a half
    data = b"".join(bytes([number]) + half for number in range(140))
    folder = tmp_path / "out"
    with PackWriter(folder, "x") as writer:
        writer.pack([replace(source("a", data), solid=solid)])
        payload = PackageManifest(Digest.of(b""), "xy", "1", "0.1.0", *writer.close()).emit()
        writer.seal(payload)
    (folder / "manifest").write_bytes(payload)
    words = [sys.executable, "-c", MEASURE, str(folder / "manifest")]
    taken = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    assert taken < most
    assert taken > 60 or not solid, "a frame of 64 MiB was in hand"
