"""The journal of a quarantine: which records count after a kill, a power cut, and a loss."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.formats.journal import HEADER, RECORD
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.volume import Chunk, Codec, Frame
from airpack.ops import journal as module
from airpack.ops.journal import NAME, Journal, merge, read_progress, this_boot, touches
from airpack.types import Digest

MANIFEST = PackageManifest(
    Digest.of(b"release"),
    "tool",
    "1.0.0",
    "0.1.0",
    (FileInfo(Digest.of(b"file"), 1000),),
    tuple(VolumeInfo(f"v{number}.airvol", 1000, 50, 50, Digest.of(b"")) for number in range(2)),
)
PACKAGE = Digest.of(MANIFEST.emit())


def frame(number: int, *, parts: int = 1, size: int = 10) -> Frame:
    """Return the frame whose first chunk has `number`, of ten bytes of the stream for each chunk."""
    chunks = tuple(Chunk(number + part, b"", 0, 1) for part in range(parts))
    return Frame((number - 1) * 10, size * parts, Codec.RAW, chunks)


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def start(number: int) -> None:
        monkeypatch.setattr(module, "this_boot", lambda: number.to_bytes(16, "little"))

    start(1)
    return start


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], Journal]:
    return lambda: Journal(tmp_path, MANIFEST, PACKAGE)


def kept(folder: Path, position: int = 0) -> list[int]:
    """Return which of the first chunks of a volume are in the journal."""
    progress = read_progress(folder, MANIFEST, PACKAGE)
    return [number for number in range(1, 51) if progress.has(position, number)]


def test_where_there_is_none_nothing_was_verified(tmp_path: Path) -> None:
    assert kept(tmp_path) == []
    assert not (tmp_path / NAME).exists()


def test_frames_stay_over_runs(tmp_path: Path, opened: Callable[[], Journal]) -> None:
    one = opened()
    one.add(0, frame(1))
    one.add(1, frame(3, parts=2))
    one.close()
    two = opened()
    two.add(0, frame(7))
    assert (two.progress.count(0), two.progress.count(1)) == (1, 2), "what the run began with"
    assert list(two.progress.spans()) == [(0, 10), (20, 40)]
    two.close()
    assert (kept(tmp_path), kept(tmp_path, 1)) == ([1, 7], [3, 4])


def test_a_torn_record_is_overwritten(tmp_path: Path, opened: Callable[[], Journal]) -> None:
    one = opened()
    for number in (1, 2):
        one.add(0, frame(number))
    one.close()
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-5])
    two = opened()
    two.add(0, frame(3))
    two.close()
    assert kept(tmp_path) == [1, 3]
    assert path.stat().st_size == HEADER + 4 * RECORD


def test_after_another_start_only_what_was_synced_counts(
    tmp_path: Path, boots: Callable[[int], None], opened: Callable[[], Journal]
) -> None:
    one = opened()
    one.add(0, frame(1))
    one.add(0, frame(2))
    covered = one.count
    one.add(0, frame(3))
    one.mark(covered)
    one.add(0, frame(4))
    one.close()
    assert kept(tmp_path) == [1, 2, 3, 4]
    boots(2)
    assert kept(tmp_path) == [1, 2]
    two = opened()
    two.add(0, frame(5))
    two.mark(two.count)
    two.add(0, frame(6))
    two.close()
    boots(3)
    assert kept(tmp_path) == [1, 2, 5], "what was lost before does not come back by a later mark"
    boots(2)
    assert kept(tmp_path) == [1, 2, 5, 6]


def test_a_mark_covers_no_more_than_there_is(
    tmp_path: Path, boots: Callable[[int], None], opened: Callable[[], Journal]
) -> None:
    one = opened()
    one.add(0, frame(1))
    one.mark(1 << 60)
    one.add(0, frame(2))
    one.close()
    boots(2)
    assert kept(tmp_path) == [1]


@pytest.mark.parametrize("later", [1, 2])
def test_what_is_forgotten_is_gone_and_the_rest_keeps_its_standing(
    tmp_path: Path, boots: Callable[[int], None], opened: Callable[[], Journal], later: int
) -> None:
    one = opened()
    for number in (1, 2, 3):
        one.add(0, frame(number))
    one.mark(one.count)
    for number in (4, 5):
        one.add(0, frame(number))
    one.forget([(10, 11), (45, 50)])
    assert one.progress.count(0) == 3
    one.add(0, frame(2))
    one.close()
    boots(later)
    assert kept(tmp_path) == ([1, 2, 3, 4] if later == 1 else [1, 3])


@pytest.mark.parametrize(
    "impossible",
    [
        (2, frame(1)),
        (0, frame(50, parts=2)),
        (0, frame(1, size=1001)),
        (0, Frame(991, 10, Codec.RAW, (Chunk(1, b"", 0, 1),))),
        (0, Frame(0, 0, Codec.RAW, (Chunk(1, b"", 0, 1),))),
        (0, Frame(0, 10, Codec.RAW, (Chunk(0, b"", 0, 1),))),
    ],
)
def test_a_frame_that_the_package_cannot_have_ends_the_journal(
    tmp_path: Path, opened: Callable[[], Journal], impossible: tuple[int, Frame]
) -> None:
    one = opened()
    one.add(0, frame(1))
    one.add(*impossible)
    one.add(0, frame(2))
    one.close()
    assert kept(tmp_path) == [1]


def test_the_journal_of_another_package_is_none(tmp_path: Path, opened: Callable[[], Journal]) -> None:
    one = opened()
    one.add(0, frame(1))
    one.close()
    other = Journal(tmp_path, MANIFEST, Digest.of(b"another"))
    assert other.progress.count(0) == 0
    other.close()
    assert kept(tmp_path) == []


def test_where_nothing_tells_one_start_from_another_each_run_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert this_boot() == this_boot()
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    assert this_boot() != this_boot()
    (tmp_path / "none").write_text("what?\n")
    assert this_boot() != this_boot()


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@given(spans, st.integers(0, 45), st.integers(0, 6))
def test_ranges_touch_where_they_have_a_byte_in_common(
    ranges: Sequence[tuple[int, int]], start: int, length: int
) -> None:
    bytes_of = {at for first, last in ranges for at in range(first, last)}
    merged = merge(ranges)
    assert {at for first, last in merged for at in range(first, last)} == bytes_of
    assert all(one[1] < two[0] for one, two in itertools.pairwise(merged))
    assert touches(merged, start, start + length) == bool(bytes_of & set(range(start, start + length)))
