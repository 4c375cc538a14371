"""Repair volumes: made from a whole package, taken by the reader of a damaged one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import IntegrityError, PartialError
from airpack.formats.package import PackageManifest
from airpack.formats.repair_volume import repair_name
from airpack.formats.volume import ENTRY, HEADER
from airpack.transport.copying import Copier
from airpack.transport.reader import NullSink, open_media, unpack_all
from airpack.types import Digest, Silent

MIB = 1 << 20
Package = tuple[PackageManifest, Digest, Path]
FILES = tuple(os.urandom(size) for size in (900_000, 900_001, 300_000, 800_000, 1_400_000))


class Bench:
    """A package, a damaged copy of it, and a folder for repairs."""

    def __init__(self, package: Package, tmp_path: Path, recorder: Any) -> None:
        self.manifest, self.payload, self.whole = package
        self.damaged, self.repairs = tmp_path / "damaged", tmp_path / "repairs"
        self.damaged.mkdir()
        self.repairs.mkdir()
        for path in self.whole.iterdir():
            (self.damaged / path.name).write_bytes(path.read_bytes())
        self.recorder = recorder

    def path(self, position: int = 0) -> Path:
        return self.damaged / self.manifest.volumes[position].name

    def first_chunk(self, position: int = 0) -> int:
        return HEADER + self.manifest.volumes[position].slots * ENTRY

    def flip(self, at: int, position: int = 0) -> None:
        data = bytearray(self.path(position).read_bytes())
        data[at] ^= 1
        self.path(position).write_bytes(data)

    def repair(self, *ranges: tuple[int, int], position: int = 0, number: int = 1) -> Path:
        """Make a repair volume of what `ranges` touch."""
        path = self.repairs / repair_name(self.manifest.volumes[position].name, number)
        with open_media(self.manifest, self.payload, [self.whole]) as media:
            copier = Copier(media, self.payload, Silent())
            wanted = copier.find(position, ranges)
            copier.copy_chunks(position, wanted, path)
            assert (path).stat().st_size == copier.repair_size(position, wanted)
        return path

    def read(self) -> None:
        """Read the damaged package, and what lies in the folder for repairs."""
        wanted = {file.digest for file in self.manifest.files}
        unpack_all(self.manifest, self.payload, [self.damaged, self.repairs], wanted=wanted, sink=NullSink())

    def refused(self) -> list[str]:
        """Return why repair volumes are not used, all of them having been asked."""
        with open_media(self.manifest, self.payload, [self.damaged, self.repairs]) as media:
            for rescue in media.rescues:
                for position in range(len(self.manifest.volumes)):
                    rescue.table(position)
            return media.notes


@pytest.fixture
def bench(pack: Callable[..., Package], tmp_path: Path, recorder: Any) -> Bench:
    bench = Bench(pack(*FILES), tmp_path, recorder)
    bench.read()
    assert len(bench.manifest.volumes) == 3
    return bench


def test_a_damaged_chunk_is_taken_from_a_repair_volume(bench: Bench) -> None:
    at = bench.first_chunk() + 5
    bench.flip(at)
    with pytest.raises(IntegrityError):
        bench.read()

    path = bench.repair((at, 1))

    bench.read()
    assert path.stat().st_size < bench.path().stat().st_size


def test_a_damaged_table_is_taken_from_a_repair_volume_without_chunks(bench: Bench) -> None:
    bench.flip(HEADER)
    path = bench.repair((HEADER, 1))
    bench.read()
    assert path.stat().st_size == bench.first_chunk() + 1


def test_a_damaged_header_is_made_up_for_by_a_repair_volume(bench: Bench) -> None:
    bench.flip(100)
    with pytest.raises(IntegrityError):
        bench.read()
    bench.repair((0, HEADER))
    bench.read()


def test_repair_volumes_together_make_up_for_a_lost_volume(bench: Bench) -> None:
    bench.path(1).unlink()
    with pytest.raises(PartialError):
        bench.read()
    size, middle = bench.manifest.volumes[1].size, bench.first_chunk(1) + 5
    assert bench.manifest.volumes[1].entries > 1
    bench.repair((0, middle), position=1)
    with pytest.raises(PartialError, match=r"chunk 2 of 2, .* is not at hand"):
        bench.read()
    bench.repair((middle, size - middle), position=1, number=2)
    bench.read()


def test_what_is_damaged_in_one_repair_volume_comes_from_the_next(bench: Bench) -> None:
    at = bench.first_chunk() + 5
    bench.flip(at)
    path = bench.repair((at, 1))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        bench.read()
    bench.repair((at, 1), number=2)
    bench.read()


def test_chunks_that_nothing_was_asked_of_are_not_copied(bench: Bench) -> None:
    with open_media(bench.manifest, bench.payload, [bench.whole]) as media:
        copier, first = Copier(media, bench.payload, Silent()), bench.first_chunk()
        entries = bench.manifest.volumes[0].entries
        assert entries > 1
        size = bench.manifest.volumes[0].size
        assert list(copier.find(0, [(0, first)]).numbers) == []
        assert list(copier.find(0, [(first, 1)]).numbers) == [1]
        assert list(copier.find(0, [(first - 1, 1), (size - 1, 1)]).numbers) == [entries]
        assert list(copier.find(0, [(0, size)]).numbers) == list(range(1, entries + 1))
        assert copier.find(0, [(0, size)]).stored == bench.manifest.volumes[0].data


# --- hostile repair volumes -------------------------------------------------------------------------------------------


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def attacks(bench: Bench) -> dict[str, tuple[bytes, str]]:
    good = bench.repair((bench.first_chunk() + 5, 1)).read_bytes()
    bitmap = bench.first_chunk()
    return {
        "trailing": (good + b"\0", "bytes, expected"),
        "short": (good[:-1], "bytes, expected"),
        "empty": (b"", "begins with|magic|is not an airpack volume"),
        "text": (b"hello" * 100, "is not an airpack volume"),
        "volume": (bench.path().read_bytes(), "is a volume, not a repair volume"),
        "package": (changed(good, 8, bytes(32)), "belongs to another package"),
        "index": (changed(good, 40, b"\2"), "does not say of volume 2"),
        "index zero": (changed(good, 40, b"\0"), "index must be"),
        "entries": (changed(good, 48, b"\1"), "does not say|entries"),
        "slots": (changed(good, 52, b"\xff"), "does not say"),
        "data": (changed(good, 56, b"\0"), "bytes, expected"),
        "padding": (changed(good, 100, b"\1"), "padding"),
        "table": (changed(good, HEADER + 1, b"\0\0\0\0"), "chunk table is not the one"),
        "bits beyond": (changed(good, bitmap, b"\x81"), "marks more than"),
        "other bit": (changed(good, bitmap, b"\2"), "the marked chunks have"),
        "no bit": (changed(good, bitmap, b"\0"), "the marked chunks have"),
    }


def test_hostile_repair_volumes_are_left_alone_and_it_is_said_why(bench: Bench) -> None:
    cases = attacks(bench)
    path = bench.repairs / "pack.0001.01.airfix"
    bench.flip(bench.first_chunk() + 5)
    for name, (data, reason) in cases.items():
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match="does not have its signed digest"):
            bench.read()
        refused = bench.refused()
        assert len(refused) == 1, name
        assert refused[0].startswith(f"repair volume {path} is not used: "), name
        assert any(part in refused[0] for part in reason.split("|")), (name, refused[0])


def test_a_repair_volume_with_other_bytes_in_a_chunk_changes_nothing(bench: Bench) -> None:
    path = bench.repair((bench.first_chunk() + 5, 1))
    bench.flip(bench.first_chunk() + 5)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes(9))
    with pytest.raises(IntegrityError, match="does not have its signed digest"):
        bench.read()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_regular_files_are_repair_volumes(kind: str, bench: Bench, tmp_path: Path) -> None:
    bench.flip(bench.first_chunk() + 5)
    path = bench.repair((bench.first_chunk() + 5, 1))
    if kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match="does not have its signed digest"):
        bench.read()
    (line,) = bench.refused()
    assert "not a regular file" in line


@pytest.mark.parametrize("name", ["pack.0001.01.bin", "other.0001.01.airfix", "pack.0001.airfix"])
def test_a_repair_volume_under_another_name_is_not_opened(name: str, bench: Bench) -> None:
    bench.flip(bench.first_chunk() + 5)
    path = bench.repair((bench.first_chunk() + 5, 1))
    path.rename(path.with_name(name))
    with pytest.raises(IntegrityError):
        bench.read()
    assert bench.refused() == []


# --- copying ----------------------------------------------------------------------------------------------------------


def test_a_whole_volume_is_copied_byte_for_byte(pack: Callable[..., Package], tmp_path: Path) -> None:
    manifest, payload, folder = pack(*FILES, parity=2)
    with open_media(manifest, payload, [folder]) as media:
        copier = Copier(media, payload, Silent())
        for position, info in enumerate(manifest.volumes):
            copier.copy_volume(position, tmp_path / info.name)
        for number, file in enumerate(media.parity):
            copier.copy_spare(number, tmp_path / file.name)
    for name in manifest.names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("at", [HEADER, -1])
def test_damage_where_it_was_built_is_not_copied(at: int, pack: Callable[..., Package], tmp_path: Path) -> None:
    manifest, payload, folder = pack(*FILES)
    path = folder / manifest.volumes[0].name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with open_media(manifest, payload, [folder]) as media:
        copier = Copier(media, payload, Silent())
        with pytest.raises(IntegrityError, match="does not have its signed digest"):
            copier.copy_volume(0, tmp_path / "copy")
        with pytest.raises(IntegrityError):
            copier.copy_chunks(0, copier.find(0, [(0, len(data))]), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damage_where_it_was_built_is_undone_by_its_parity(pack: Callable[..., Package], tmp_path: Path) -> None:
    manifest, payload, folder = pack(*FILES, parity=1)
    path = folder / manifest.volumes[0].name
    data = path.read_bytes()
    path.unlink()
    with open_media(manifest, payload, [folder]) as media:
        Copier(media, payload, Silent()).copy_volume(0, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_damaged_parity_is_not_copied(pack: Callable[..., Package], tmp_path: Path) -> None:
    manifest, payload, folder = pack(*FILES, parity=1)
    path = folder / manifest.names[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with open_media(manifest, payload, [folder]) as media, pytest.raises(IntegrityError, match="parity volume"):
        Copier(media, payload, Silent()).copy_spare(0, tmp_path / "copy")
    path.unlink()
    with open_media(manifest, payload, [folder]) as media, pytest.raises(PartialError):
        Copier(media, payload, Silent()).copy_spare(0, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
