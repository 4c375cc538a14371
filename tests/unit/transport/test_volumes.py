"""Which file serves as which volume, and what is asked for where a place is not as it was signed."""

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import IntegrityError, StorageError
from airpack.formats.package import PackageManifest, ParityGroup, ParityInfo, parity_size
from airpack.formats.volume import HEADER, Chunk, Codec, Entry, parse_table
from airpack.transport.damage import SPOKEN, Damage, Finding, Kind
from airpack.transport.files import OpenFiles
from airpack.transport.volumes import Media
from airpack.types import Digest

Package = tuple[PackageManifest, Digest, Path]
BLOCKS = (b"aaaa", b"bbbb", b"cccc", b"dddd")


@pytest.fixture
def package(forge: Callable[..., Package], chunk: Callable[..., tuple[Entry, bytes]]) -> Package:
    """Two volumes of two chunks of four bytes each."""
    chunks = [chunk(block, 4 * number, 4, Codec.RAW) for number, block in enumerate(BLOCKS)]
    return forge([b"".join(BLOCKS)], [chunks[:2], chunks[2:]])


def media_of(package: Package, *folders: Path) -> Media:
    manifest, payload, folder = package
    media = Media(manifest, payload, folders or [folder])
    media.survey()
    return media


def chunks_of(media: Media, position: int) -> list[Chunk]:
    info = media.manifest.volumes[position]
    table = media.table(position)
    assert table is not None
    frames = parse_table(table, entries=info.entries, stored=info.data, what="it").frames()
    return [chunk for frame in frames for chunk in frame.chunks]


def path_of(package: Package, position: int) -> Path:
    return package[2] / package[0].volumes[position].name


def moved(package: Package, position: int, folder: Path, name: str = "") -> Path:
    """Move a volume into another folder, and return it there."""
    folder.mkdir(exist_ok=True)
    path = path_of(package, position)
    return path.rename(folder / (name or path.name))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


class Shim:
    """Stands between airpack and the medium: counts reads, and may fail or forge them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Path, int, int], bytes | None]) -> None:
        self.reads: list[tuple[Path, int]] = []
        self._answer, self._preadv = answer, os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115, what the descriptor is now
        self.reads.append((path, offset))
        data = self._answer(path, offset, sum(read == (path, offset) for read in self.reads))
        if data is None:
            return self._preadv(descriptor, buffers, offset)
        buffers[0][: len(data)] = data
        return len(data)


class Shelf:
    """A rescue that has what it was given."""

    def __init__(self, *, header: bool = False, table: bytes | None = None, chunk: bytes | None = None) -> None:
        self._header, self._table, self._chunk = header, table, chunk
        self.asked: list[int] = []

    def covers(self, position: int) -> bool:
        del position
        return self._table is not None

    def header(self, position: int) -> bool:
        del position
        return self._header

    def table(self, position: int) -> bytes | None:
        del position
        return self._table

    def chunk(self, position: int, chunk: Chunk) -> bytes | None:
        self.asked.append(chunk.number)
        del position
        return self._chunk


# -- which file serves as which volume --------------------------------------------------------------------------------


def test_volumes_are_found_wherever_they_lie(package: Package, tmp_path: Path) -> None:
    moved(package, 1, tmp_path / "two")
    media = media_of(package, package[2], tmp_path / "two")
    assert media.missing == []
    assert [media.chunk(position, chunk) for position in (0, 1) for chunk in chunks_of(media, position)] == list(BLOCKS)
    assert (bool(media.damage), media.recovered) == (False, 0)


def test_a_volume_that_is_nowhere_is_missing_and_not_damaged(package: Package, tmp_path: Path) -> None:
    path_of(package, 0).unlink()
    media = media_of(package, package[2], tmp_path / "nowhere")
    assert media.missing == [0]
    assert media.table(0) is None
    media.check_header(0)
    media.check_presence(0)
    assert not media.damage


def test_what_a_file_is_its_header_says_and_not_its_name(package: Package) -> None:
    one, two = path_of(package, 0), path_of(package, 1)
    one.rename(one.with_name("third"))
    two.rename(one)
    one.with_name("third").rename(two)
    media = media_of(package)
    assert [volume.copies[0].path for volume in media.volumes] == [two, one]
    assert [media.chunk(0, chunk) for chunk in chunks_of(media, 0)] == list(BLOCKS[:2])
    media.check_header(0)
    assert not media.damage


def test_parity_volumes_are_looked_for_beside_the_others(package: Package, tmp_path: Path) -> None:
    manifest, payload, folder = package
    rows = ParityInfo("forged.p01.airvol", parity_size(264), Digest.of(b"rows"))
    manifest = replace(manifest, parity=(ParityGroup(0, 2, 264, (rows, replace(rows, name="forged.p02.airvol"))),))
    body = bytes(rows.size - HEADER)
    (folder / "forged.p02.airvol").write_bytes(manifest.parity_header(payload, 0).emit() + body)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "forged.p02.airvol").write_bytes(bytes(rows.size))
    media = Media(manifest, payload, [folder, tmp_path / "two"])
    media.survey()
    assert [[copy.path.parent for copy in volume.copies] for volume in media.parity] == [[folder], [tmp_path / "two"]]
    assert (media.missing, media.refused) == ([], {})
    assert list(media.readings(media.parity[0], HEADER, 4)) == [bytes(4)]


def test_a_file_whose_header_is_damaged_serves_under_its_name_and_the_header_is_damage(package: Package) -> None:
    flip(path_of(package, 1), 3)
    media = media_of(package)
    assert [media.chunk(1, chunk) for chunk in chunks_of(media, 1)] == list(BLOCKS[2:])
    media.check_header(1)
    assert media.damage.ranges == {1: [(0, HEADER)]}
    assert "header, bytes 0 to 128, is damaged: it is not an airpack volume" in media.damage.first[0].line


@pytest.mark.parametrize("help_from", ["copy", "rescue"])
def test_a_damaged_header_that_something_makes_up_for_is_no_damage(
    package: Package, tmp_path: Path, help_from: str
) -> None:
    good = path_of(package, 1).read_bytes()
    flip(path_of(package, 1), 3)
    if help_from == "copy":
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / path_of(package, 1).name).write_bytes(good)
    media = media_of(package, package[2], tmp_path / "two")
    if help_from == "rescue":
        media.rescues.append(Shelf(header=True))
    media.check_header(1)
    assert not media.damage


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data + b"\0", "has 393 bytes, expected 392: it has trailing data"),
        (lambda data: data[:127], "has 127 bytes, expected 392: it was cut short"),
        (lambda data: b"x" + data[1:-1], "has 391 bytes, expected 392: it was cut short"),
        (lambda data: data[:8] + bytes(32) + data[40:], "belongs to another package: it names manifest 000000000000"),
        (lambda data: data[:48] + b"\1" + data[49:], "says 1 chunks in 4 slots"),
    ],
    ids=["longer", "no header", "cut and damaged", "another package", "another table"],
)
def test_a_file_that_cannot_serve_is_not_read_and_counts_as_a_whole(
    package: Package, change: Callable[[bytes], bytes], says: str
) -> None:
    path = path_of(package, 0)
    path.write_bytes(change(path.read_bytes()))
    media = media_of(package)
    assert media.missing == [0]
    assert media.table(0) is None
    media.check_presence(0)
    assert media.damage.ranges == {0: [(0, 392)]}
    assert says in media.damage.first[0].line


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_regular_files_are_opened(package: Package, tmp_path: Path, kind: str) -> None:
    path = path_of(package, 0)
    real = moved(package, 0, tmp_path / "real")
    if kind == "link":
        path.symlink_to(real)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    media = media_of(package)
    media.check_presence(0)
    assert media.missing == [0]
    assert "not a regular file" in media.damage.first[0].line
    assert isinstance(media.damage.first[0].error(), IntegrityError)


def test_a_file_that_cannot_serve_is_no_damage_where_another_does(package: Package, tmp_path: Path) -> None:
    moved(package, 0, tmp_path / "two")
    path_of(package, 0).write_bytes(b"")
    media = media_of(package, package[2], tmp_path / "two")
    media.check_presence(0)
    assert media.missing == []
    assert not media.damage


# -- where a place is not as it was signed ----------------------------------------------------------------------------


def test_a_chunk_that_one_copy_lacks_comes_from_the_next(package: Package, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / path_of(package, 0).name).write_bytes(path_of(package, 0).read_bytes())
    flip(path_of(package, 0), 384)
    media = media_of(package, package[2], tmp_path / "two")
    first, second = chunks_of(media, 0)
    assert media.read(0, [first, second]) == b"`aaabbbb"
    assert media.chunk(0, first, was_read=True) == b"aaaa"
    assert (bool(media.damage), media.recovered) == (False, 4)
    assert media.mended.ranges == {0: [(384, 4)]}


def test_a_chunk_that_no_source_has_is_damage_with_its_place(package: Package) -> None:
    flip(path_of(package, 0), 384)
    flip(path_of(package, 0), 388)
    media = media_of(package)
    for chunk in chunks_of(media, 0):
        assert media.chunk(0, chunk) is None
    assert media.damage.ranges == {0: [(384, 8)]}
    first = media.damage.first[0]
    assert first.line.endswith("forged.0001.airvol: chunk 1 of 2, bytes 384 to 388, does not have its signed digest")
    error = first.error()
    assert isinstance(error, IntegrityError)
    assert error.context == {
        "path": str(path_of(package, 0)),
        "volume": "forged.0001.airvol",
        "chunk": 1,
        "offset": 384,
        "length": 4,
    }


def test_a_table_that_no_source_has_is_damage(package: Package) -> None:
    flip(path_of(package, 0), 130)
    media = media_of(package)
    assert media.table(0) is None
    assert media.damage.ranges == {0: [(HEADER, 256)]}
    assert "chunk table, bytes 128 to 384, does not have its signed digest" in media.damage.first[0].line


def test_what_a_rescue_has_is_used_only_with_the_signed_digest(package: Package) -> None:
    flip(path_of(package, 0), 384)
    media = media_of(package)
    first, _ = chunks_of(media, 0)
    liar, right = Shelf(chunk=b"evil"), Shelf(chunk=b"aaaa")
    media.rescues.append(liar)
    assert media.chunk(0, first) is None
    media.rescues.append(right)
    assert media.chunk(0, first) == b"aaaa"
    assert (liar.asked, right.asked) == ([1, 1], [1])
    assert media.mended.ranges == media.damage.ranges == {0: [(384, 4)]}


def test_what_is_as_signed_at_once_is_not_mended(package: Package) -> None:
    media = media_of(package)
    media.rescues.append(Shelf(header=True))
    for chunk in chunks_of(media, 0):
        assert media.chunk(0, chunk) is not None
    media.check_header(0)
    assert not media.mended


def test_a_header_that_a_rescue_makes_up_for_is_mended(package: Package) -> None:
    flip(path_of(package, 0), 100)
    media = media_of(package)
    media.rescues.append(Shelf(header=True))
    media.check_header(0)
    assert (media.mended.ranges, bool(media.damage)) == ({0: [(0, HEADER)]}, False)


def test_a_volume_is_hopeless_where_it_is_away_and_no_rescue_covers_it(package: Package) -> None:
    path_of(package, 0).write_bytes(b"something else")
    path_of(package, 1).unlink()
    media = media_of(package)
    assert (media.missing, media.hopeless) == ([0, 1], [1])  # the first is damaged
    media.rescues.append(Shelf(table=b""))
    assert media.hopeless == []


def test_a_rescue_may_stand_in_for_a_volume_that_is_not_there(package: Package) -> None:
    table = path_of(package, 1).read_bytes()[HEADER : HEADER + 256]
    path_of(package, 1).unlink()
    media = media_of(package)
    media.rescues.append(Shelf(table=table, chunk=b"dddd"))
    third, fourth = chunks_of(media, 1)
    assert (media.chunk(1, third), media.chunk(1, fourth)) == (None, b"dddd")
    assert media.missing == [1]
    assert (media.damage.ranges, media.damage.kinds) == ({1: [(384, 4)]}, {Kind.MISSING})


def test_what_a_rescue_needs_of_the_copies_leaves_no_finding(package: Package) -> None:
    flip(path_of(package, 0), 384)
    media = media_of(package)
    first, second = chunks_of(media, 0)
    assert (media.own(0, first), media.own(0, second)) == (None, b"bbbb")
    assert list(media.readings(media.volumes[0], first.offset, 8)) == [b"`aaabbbb"]
    assert list(media.readings(media.volumes[0], first.offset, 9)) == [], "beyond the end there is nothing"
    assert not media.damage


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_place_is_asked_for_three_times(package: Package, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    media = media_of(package)
    first, _ = chunks_of(media, 0)

    def answer(_path: Path, offset: int, count: int) -> bytes | None:
        if offset == first.offset and count <= times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return None

    shim = Shim(monkeypatch, answer)
    assert media.read(0, [first]) == bytes(4)
    assert media.chunk(0, first, was_read=True) == (b"aaaa" if times < 3 else None)
    assert len(shim.reads) == min(times + 1, 3)
    if times == 3:
        (finding,) = media.damage.first
        assert finding.kind is Kind.UNREADABLE
        assert finding.line.endswith("chunk 1 of 2, bytes 384 to 388, cannot be read: Input/output error")
        assert isinstance(finding.error(), StorageError)


def test_bytes_that_are_others_the_second_time_are_used_only_when_they_are_the_signed_ones(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = media_of(package)
    first, _ = chunks_of(media, 0)
    Shim(monkeypatch, lambda _path, offset, count: b"evil" if offset == first.offset and count == 1 else None)
    assert media.read(0, [first]) == b"evil"
    assert media.chunk(0, first, was_read=True) == b"aaaa"


def test_a_dying_medium_is_not_asked_again_for_ever(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    media = media_of(package)
    first, _ = chunks_of(media, 0)

    def answer(*_: object) -> bytes | None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    shim = Shim(monkeypatch, answer)
    for _ in range(100):
        assert media.chunk(0, first) is None
    assert len(shim.reads) == 100 + 64


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ESTALE, errno.ENOTCONN])
def test_a_medium_that_was_taken_away_is_not_asked_again(
    package: Package, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    media = media_of(package)
    first, second = chunks_of(media, 0)

    def answer(*_: object) -> bytes | None:
        raise OSError(code, os.strerror(code))

    shim = Shim(monkeypatch, answer)
    assert media.chunk(0, first) is None
    assert media.chunk(0, second) is None
    assert len(shim.reads) == 1
    assert media.missing == [0]
    assert media.damage.kinds == {Kind.GONE}


def test_a_volume_that_shrinks_while_it_is_read_is_no_proof_of_damage(package: Package) -> None:
    media = media_of(package)
    _, second = chunks_of(media, 0)
    os.truncate(path_of(package, 0), 390)
    assert media.chunk(0, second) is None
    assert media.damage.first[0].kind is Kind.UNREADABLE
    assert "became shorter" in media.damage.first[0].line


def test_a_volume_that_was_cut_short_serves_as_far_as_it_goes(package: Package) -> None:
    os.truncate(path_of(package, 0), 390)
    media = media_of(package)
    first, second = chunks_of(media, 0)
    assert (media.chunk(0, first), media.chunk(0, second)) == (b"aaaa", None)
    assert media.damage.ranges == {0: [(388, 4)]}
    assert "it was cut short" in media.damage.first[0].line


# -- the parts --------------------------------------------------------------------------------------------------------


def _finding(offset: int, length: int, position: int = 0) -> Finding:
    return Finding(position, offset, length, Kind.DAMAGED, f"at {offset}", Path("medium"), "v.airvol")


def test_damage_is_told_in_ranges_and_the_first_of_it_in_words() -> None:
    damage = Damage()
    assert not damage
    for offset in (30, 10, 20, 50, 0):
        damage.add(_finding(offset, 10))
    damage.add(_finding(5, 1, position=3))
    assert damage.ranges == {0: [(0, 40), (50, 10)], 3: [(5, 1)]}
    for offset in range(100):
        damage.add(_finding(1000 + 2 * offset, 1))
    assert (len(damage.first), damage.count) == (SPOKEN, 106)


def test_too_many_ranges_become_one_for_each_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airpack.transport.damage._RANGES", 10)
    damage = Damage()
    damage.add(_finding(7, 2, position=1))
    for offset in range(0, 40, 4):
        damage.add(_finding(offset, 1))
    assert damage.ranges == {0: [(0, 37)], 1: [(7, 2)]}


def test_a_bounded_number_of_files_stays_open(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(6)]
    for path in paths:
        path.write_bytes(path.name.encode())
    files = OpenFiles(most=2)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208, as names
    for path in (*paths, *paths):
        with files.use(path) as descriptor:
            assert os.pread(descriptor, 9, 0) == path.name.encode()
    assert len(set(os.listdir("/proc/self/fd")) - before) == 2  # noqa: PTH208, as names
    with files.use(paths[0]):
        files.close()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208, as names


def test_two_threads_never_share_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"")
    files = OpenFiles()
    with files.use(tmp_path / "one") as first, files.use(tmp_path / "one") as second:
        assert first != second
    files.close()


def test_the_digest_of_the_forged_chunks_is_the_one_that_media_compare(package: Package) -> None:
    """The control of the tests above: what is handed out is what was signed."""
    media: Any = media_of(package)
    for position in (0, 1):
        for chunk in chunks_of(media, position):
            assert hashlib.sha256(media.chunk(position, chunk)).digest() == chunk.digest
