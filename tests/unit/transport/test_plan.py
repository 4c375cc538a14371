import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.formats.package import FileInfo
from airpack.transport.plan import (
    FRAME,
    SMALLEST_VOLUME,
    Stream,
    count_frames,
    count_slots,
    cuts,
    first_chunk,
    is_small,
)
from airpack.types import Digest, Limits

sizes = st.lists(st.one_of(st.integers(0, 10), st.integers(0, 3 * FRAME), st.just(FRAME)), max_size=12)


def files(lengths: list[int]) -> tuple[FileInfo, ...]:
    return tuple(FileInfo(Digest.of(str(number).encode()), length) for number, length in enumerate(lengths))


@pytest.mark.parametrize(
    ("lengths", "frames"),
    [
        ([], 0),
        ([0], 0),
        ([0, 1, 0], 1),
        ([FRAME - 1, 1], 1),
        ([FRAME - 1, 2], 2),
        ([FRAME], 1),
        ([FRAME + 1], 2),
        ([1, FRAME, 1], 3),
        ([1, 1, 1], 1),
        ([FRAME - 1, 0, 1], 1),
    ],
)
def test_small_files_share_frames_and_large_ones_are_cut(lengths: list[int], frames: int) -> None:
    assert count_frames(lengths) == frames


@given(sizes, st.data())
def test_leaving_files_out_never_needs_more_frames(lengths: list[int], data: st.DataObject) -> None:
    kept = [length for length in lengths if data.draw(st.booleans())]

    assert count_frames(kept) <= count_frames(lengths)


@given(st.integers(FRAME, 50 * FRAME))
def test_cuts_cover_a_large_file_in_frames(size: int) -> None:
    lengths = list(cuts(size))

    assert sum(lengths) == size
    assert all(length == FRAME for length in lengths[:-1])
    assert 0 < lengths[-1] <= FRAME
    assert len(lengths) == count_frames([size])
    assert not is_small(size)


@given(st.integers(1, 10**9), st.integers(SMALLEST_VOLUME, Limits.VOLUME))
def test_a_new_volume_has_room_for_a_chunk_and_no_more_slots_than_needed(left: int, volume_size: int) -> None:
    slots = count_slots(left, volume_size)

    assert 1 <= slots <= min(left, Limits.TABLE_ENTRIES)
    assert first_chunk(slots) + Limits.CHUNK <= volume_size


def test_incompressible_frames_run_out_of_bytes_before_slots() -> None:
    for volume_size in (SMALLEST_VOLUME, 2 << 30, 256 << 30):
        assert count_slots(10**9, volume_size) >= volume_size // FRAME


@given(sizes, st.data())
def test_pieces_are_the_wanted_bytes_of_a_frame(lengths: list[int], data: st.DataObject) -> None:
    infos = files(lengths)
    total = sum(lengths)
    wanted = {info.digest for info in infos if data.draw(st.booleans())}
    start = data.draw(st.integers(0, max(total - 1, 0)))
    size = data.draw(st.integers(min(total, 1), total - start)) if total else 0
    stream = Stream(infos, wanted)

    expected, begin = [], 0
    for number, info in enumerate(infos):
        low, high = max(begin, start), min(begin + info.size, start + size)
        if info.digest in wanted and low < high:
            expected.append((number, low - start, high - start))
        begin += info.size

    assert stream.total == total
    assert [(piece.file, piece.start, piece.stop) for piece in stream.pieces(start, size)] == expected


def test_wanted_files_are_known_by_position() -> None:
    infos = files([1, 0, 2])

    assert Stream(infos, {infos[1].digest, infos[2].digest}).wanted == [1, 2]
