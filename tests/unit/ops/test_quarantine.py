"""The quarantine: whatever comes in whatever order, over however many runs, ends as the same files, each read once."""

import errno
import hashlib
import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.crashes.strike import struck

from airpack.errors import IntegrityError, StorageError
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry, emit_table
from airpack.fsops.failpoints import striking
from airpack.ops.journal import read_progress
from airpack.ops.quarantine import Fetched, fetch, quarantine_of, size_of
from airpack.ops.site import Site
from airpack.transport.reader import open_media
from airpack.types import Digest, Silent

DATA = [b"first file", b"", b"the second one, longer", b"x", b"third"]
STREAM = b"".join(DATA)
CUTS = [0, 3, 12, 14, 20, 25, 30, 31, len(STREAM)]  # frames end where no file does, and one is of two files
LAYOUT = [(0, 3), (3, 4), (4, 6), (6, 8)]  # frames of each volume
SLOTS = 4


@dataclass
class World:
    """A package of four volumes, a site's folder, and whatever was read of the volumes."""

    manifest: PackageManifest
    payload: Digest
    medium: Path
    site: Site
    reads: list[tuple[str, int]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return quarantine_of(self.site, self.payload)

    @property
    def wanted(self) -> set[Digest]:
        return {Digest.of(data) for data in DATA}

    def volume(self, position: int) -> Path:
        return self.medium / self.manifest.volumes[position].name

    def fetch(self, *folders: Path, wanted: set[Digest] | None = None) -> Fetched:
        """Run one import's worth of reading from `folders`, or from the medium with all of the package."""
        with open_media(self.manifest, self.payload, folders or [self.medium]) as media:
            needed = self.wanted if wanted is None else wanted
            return fetch(self.site, media, self.payload, wanted=needed, reporter=Silent())

    def chunks_read(self) -> list[tuple[str, int]]:
        """Return volume and offset of each chunk that was read, and forget them."""
        found, self.reads = [read for read in self.reads if read[1] >= HEADER + SLOTS * ENTRY], []
        return found

    def journaled(self) -> set[tuple[str, int]]:
        """Return volume and offset of each chunk that the journal has, of a frame of one chunk each."""
        progress = read_progress(self.folder, self.manifest, self.payload)
        return {
            (self.manifest.volumes[position].name, HEADER + SLOTS * ENTRY + CUTS[number] - CUTS[first])
            for position, (first, last) in enumerate(LAYOUT)
            for number in range(first, last)
            if progress.has(position, number - first + 1)
        }

    def holds_all(self) -> None:
        """Hold the quarantine to be exactly the files, under their digests."""
        found = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.name != "journal"}
        assert found == {hashlib.sha256(data).hexdigest(): data for data in DATA}
        assert {path.stat().st_mode & 0o777 for path in self.folder.glob("?" * 64)} == {0o444}


def _package(folder: Path, files: Sequence[bytes] = DATA) -> tuple[PackageManifest, Digest]:
    """Forge a package of `STREAM`, whose manifest lists `files`."""
    folder.mkdir()
    infos, bodies = [], []
    for number, (first, last) in enumerate(LAYOUT, 1):
        pieces = [(CUTS[place], STREAM[CUTS[place] : CUTS[place + 1]]) for place in range(first, last)]
        entries = [
            Entry(hashlib.sha256(data).digest(), at, len(data), len(data), Codec.RAW).emit() for at, data in pieces
        ]
        body = emit_table(b"".join(entries), SLOTS) + b"".join(data for _, data in pieces)
        table = Digest.of(body[: SLOTS * ENTRY])
        infos.append(VolumeInfo(f"v.{number:04d}.airvol", HEADER + len(body), last - first, SLOTS, table))
        bodies.append(body)
    listed = tuple(FileInfo(Digest.of(data), len(data)) for data in files)
    manifest = PackageManifest(Digest.of(b"release"), "tool", "1.0.0", "0.1.0", listed, tuple(infos))
    payload = Digest.of(manifest.emit())
    for position, (info, body) in enumerate(zip(infos, bodies, strict=True)):
        (folder / info.name).write_bytes(manifest.header(payload, position).emit() + body)
    return manifest, payload


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    manifest, payload = _package(tmp_path / "medium")
    (tmp_path / "site/ingest").mkdir(parents=True)
    site = cast("Site", SimpleNamespace(root=tmp_path / "site"))
    world = World(manifest, payload, tmp_path / "medium", site)
    preadv = os.preadv

    def counted(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        world.reads.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, offset))  # noqa: PTH115
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    return world


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what starts the machine anew: what was not synced may be lost, and here it is."""
    number = itertools.count(1)

    def start() -> None:
        here = next(number).to_bytes(16, "little")
        monkeypatch.setattr("airpack.ops.journal.this_boot", lambda: here)

    start()
    return start


def test_files_come_whole_hashed_and_read_only(world: World) -> None:
    fetched = world.fetch()
    assert (fetched.files, fetched.outcome.is_whole) == (frozenset(world.wanted), True)
    world.holds_all()
    assert len(world.chunks_read()) == len(CUTS) - 1


def test_a_second_run_reads_no_chunk(world: World) -> None:
    world.fetch()
    world.chunks_read()
    assert world.fetch().outcome.is_whole
    assert world.chunks_read() == []
    world.holds_all()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_volumes_in_any_order_over_three_sittings_from_two_places_with_duplicates(
    world: World, tmp_path: Path, order: tuple[int, ...]
) -> None:
    first, second, third, last = order
    sittings: list[list[tuple[int, ...]]] = [[(first,)], [(second, first), (third, second)], [(first, last)]]
    seen: set[int] = set()
    reads: list[tuple[str, int]] = []
    for number, sitting in enumerate(sittings):
        folders = []
        for place, positions in enumerate(sitting):
            folders.append(tmp_path / f"mount-{number}-{place}")
            folders[-1].mkdir()
            for position in positions:
                os.link(world.volume(position), folders[-1] / world.volume(position).name)
                seen.add(position)
        outcome = world.fetch(*folders).outcome
        assert set(outcome.missing) == {world.volume(position).name for position in range(4) if position not in seen}
        reads += world.chunks_read()
    assert outcome.is_whole
    world.holds_all()
    assert len(reads) == len(set(reads)) == len(CUTS) - 1, "each chunk is read once, whatever else is presented"


def test_a_kill_at_every_step_loses_nothing_that_the_journal_has(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sync after every few bytes, so that there are many steps, in several threads."""
    monkeypatch.setattr("airpack.ops.quarantine._CHECKPOINT", 7)
    kept = set()
    for at in itertools.count(1):
        root = tmp_path / f"site-{at}"
        (root / "ingest").mkdir(parents=True)
        world.site = cast("Site", SimpleNamespace(root=root))
        through = struck(at, world.fetch)
        done = world.journaled()
        kept.add(len(done))
        assert world.fetch().outcome.is_whole
        assert not set(world.chunks_read()) & done, f"step {at}"
        world.holds_all()
        if through:
            break
    assert at > 40
    assert kept == set(range(len(CUTS))), "killed with each number of frames done"


@pytest.mark.parametrize("seed", range(20))
def test_kills_at_random_steps_one_after_the_other(world: World, tmp_path: Path, seed: int) -> None:
    """However often it is killed: no chunk that the journal had is read again, over all runs together."""
    dice = random.Random(seed)
    log = tmp_path / "reads"
    preadv = os.preadv

    def noted(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        with log.open("a") as lines:
            name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name  # noqa: PTH115
            lines.write(f"{name} {offset}\n")
        return preadv(descriptor, buffers, offset)

    def run() -> None:
        os.preadv = noted  # type: ignore[assignment]
        world.fetch()

    for _ in range(100):
        done = world.journaled() if world.folder.exists() else set()
        log.write_text("")
        through = struck(dice.randrange(1, 30), run)
        reads = {(name, int(offset)) for name, offset in map(str.split, log.read_text().splitlines())}
        assert not reads & done
        assert world.journaled() >= done
        if through:
            break
    else:
        world.fetch()
    world.holds_all()


def test_after_a_new_start_of_the_machine_only_what_was_synced_counts(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: Callable[[], None]
) -> None:
    monkeypatch.setattr("airpack.ops.quarantine._CHECKPOINT", 14)
    found = set()
    for at in itertools.count(1, 3):
        root = tmp_path / f"site-{at}"
        (root / "ingest").mkdir(parents=True)
        world.site = cast("Site", SimpleNamespace(root=root))
        through = struck(at, world.fetch)
        before = world.journaled()
        boot()
        after = world.journaled()
        assert after <= before
        found.add((bool(after), after < before))
        assert world.fetch().outcome.is_whole
        assert not set(world.chunks_read()) & after
        world.holds_all()
        if through:
            break
    assert found >= {(False, True), (True, True), (True, False)}, "none, some and all of it was synced"


def test_a_sitting_that_ended_is_durable(world: World, tmp_path: Path, boot: Callable[[], None]) -> None:
    (tmp_path / "one").mkdir()
    os.link(world.volume(2), tmp_path / "one" / world.volume(2).name)
    world.fetch(tmp_path / "one")
    world.chunks_read()
    boot()
    assert world.fetch().outcome.is_whole
    assert world.volume(2).name not in {name for name, _ in world.chunks_read()}
    world.holds_all()


@pytest.mark.parametrize("present", [True, False])
def test_bytes_that_got_lost_are_read_again(world: World, tmp_path: Path, present: bool) -> None:
    """A disk that was pulled without a new start of the machine: the journal stands, and the bytes do not."""
    (tmp_path / "one").mkdir()
    os.link(world.volume(1), tmp_path / "one" / world.volume(1).name)
    world.fetch(tmp_path / "one")
    (part,) = world.folder.glob("*.part")
    part.write_bytes(bytes(part.stat().st_size))
    world.chunks_read()
    if present:
        assert world.fetch().outcome.is_whole
    else:
        lost = world.volume(1).rename(tmp_path / "lost")
        outcome = world.fetch().outcome
        assert outcome.missing == (world.manifest.volumes[1].name,)
        lost.rename(world.volume(1))
        assert world.fetch().outcome.is_whole
    assert world.volume(1).name in {name for name, _ in world.chunks_read()}
    world.holds_all()


@pytest.mark.parametrize("what", ["part", "whole", "journal"])
def test_what_somebody_removed_is_read_again(world: World, tmp_path: Path, what: str) -> None:
    (tmp_path / "one").mkdir()
    for position in (0, 1):
        os.link(world.volume(position), tmp_path / "one" / world.volume(position).name)
    world.fetch(tmp_path / "one")
    name = {"part": f"{Digest.of(DATA[2]).hex}.part", "whole": Digest.of(DATA[0]).hex, "journal": "journal"}[what]
    (world.folder / name).unlink()
    assert world.fetch().outcome.is_whole
    world.holds_all()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"!", lambda _data: b"evil"])
def test_a_whole_file_that_was_changed_is_read_again(world: World, change: Callable[[bytes], bytes]) -> None:
    world.fetch()
    path = world.folder / Digest.of(DATA[2]).hex
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))
    assert world.fetch().outcome.is_whole
    world.holds_all()


def test_what_was_not_wanted_then_and_is_now_is_read_again(world: World) -> None:
    assert world.fetch(wanted={Digest.of(DATA[0])}).outcome.is_whole
    assert world.fetch().outcome.is_whole
    world.holds_all()


def test_whatever_else_lies_in_a_quarantine_goes(world: World) -> None:
    world.folder.mkdir(parents=True)
    for name in ("a" * 64, "b" * 64 + ".part", ".journal.123.part", "evil"):
        (world.folder / name).write_bytes(b"?")
    world.fetch()
    world.holds_all()


def test_a_journal_of_another_package_or_a_torn_one_is_none(world: World) -> None:
    world.folder.mkdir(parents=True)
    for text in (b"", b"airjnl\0\1" + bytes(56), b"airjnl\0\1" + bytes(300)):
        (world.folder / "journal").write_bytes(text)
        assert world.fetch().outcome.is_whole
        world.holds_all()


@pytest.mark.parametrize("name", ["_FINISHED", "_OPEN"])
def test_a_bounded_number_of_files_is_open(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(f"airpack.ops.quarantine.{name}", 1)
    assert world.fetch().outcome.is_whole
    world.holds_all()


@pytest.mark.parametrize("checkpoint", [7, 1 << 30])
def test_a_sync_that_fails_is_an_error_and_nothing_has_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, checkpoint: int
) -> None:
    monkeypatch.setattr("airpack.ops.quarantine._CHECKPOINT", checkpoint)

    def fail(step: str, path: Path, size: int) -> int:
        if step == "sync" and path.name.endswith(".part"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return size

    with striking(fail), pytest.raises(StorageError, match="Input/output error"):
        world.fetch()
    assert list(world.folder.glob("?" * 64)) == []
    assert world.fetch().outcome.is_whole
    world.holds_all()


def test_what_is_signed_but_wrong_is_refused_and_never_whole(world: World, tmp_path: Path) -> None:
    wrong = [*DATA[:2], DATA[2][::-1], *DATA[3:]]
    world.manifest, world.payload = _package(tmp_path / "wrong", wrong)
    world.medium = tmp_path / "wrong"
    with pytest.raises(IntegrityError, match="the package itself is wrong"):
        world.fetch(wanted={Digest.of(data) for data in wrong})
    assert not (world.folder / Digest.of(wrong[2]).hex).exists()
    with pytest.raises(IntegrityError, match="the package itself is wrong"):
        world.fetch(wanted={Digest.of(data) for data in wrong})


def test_the_size_of_a_quarantine_is_what_it_takes_on_disk(tmp_path: Path) -> None:
    assert size_of(tmp_path / "none") == 0
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    (tmp_path / "dense").write_bytes(bytes(10_000))
    assert 10_000 <= size_of(tmp_path) <= 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a power cut would show is simulated by `boot`."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
