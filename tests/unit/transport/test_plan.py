from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.formats.package import FileInfo
from airpack.formats.volume import ENTRY
from airpack.transport.codec import Kind
from airpack.transport.plan import (
    FRAME,
    PATCH,
    SMALLEST_VOLUME,
    SOLID,
    Place,
    Span,
    Stream,
    count_chunks,
    count_slots,
    cuts,
    first_chunk,
    solid_size,
    spans,
)
from airpack.types import Digest, Limits, Source, Tensor

KIB = 1 << 10
PLAIN, SOLID_, BF16, FP16, FP32 = Kind
sizes = st.lists(st.one_of(st.integers(0, 10), st.integers(0, 3 * FRAME), st.just(FRAME)), max_size=12)
lengths_of_spans = st.one_of(st.integers(1, 9), st.integers(1, 200 * KIB), st.integers(1, 3 * FRAME))
places = st.none() | st.builds(Place, st.integers(1, 2), st.integers(0, 1 << 40))
any_spans = st.lists(
    st.builds(Span, lengths_of_spans, st.sampled_from(Kind), places)
    | st.builds(Span, lengths_of_spans, st.just(PLAIN), st.builds(Place, st.just(1), st.just(0)), st.just(True)),
    max_size=20,
)


def files(lengths: list[int]) -> tuple[FileInfo, ...]:
    return tuple(FileInfo(Digest.of(str(number).encode()), length) for number, length in enumerate(lengths))


def source(size: int, *tensors: tuple[int, int, str], solid: bool = False) -> Source:
    def refuse() -> object:
        pytest.fail("was opened")

    named = tuple(Tensor(str(number), *tensor) for number, tensor in enumerate(tensors))
    return Source("model", size, refuse, tensors=named, solid=solid)  # type: ignore[arg-type]


def shapes(found: Iterable[Span]) -> list[tuple[int, Kind]]:
    return [(span.size, span.kind) for span in found]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (source(0), []),
        (source(10), [(10, PLAIN)]),
        (source(10, solid=True), [(10, SOLID_)]),
        (source(10, (2, 6, "bf16"), solid=True), [(10, SOLID_)]),
        (source(10, (0, 10, "fp32")), [(10, FP32)]),
        (source(10, (2, 6, "bf16"), (6, 8, "fp16")), [(2, PLAIN), (4, BF16), (2, FP16), (2, PLAIN)]),
        (source(10, (2, 6, "other"), (7, 9, "fp32")), [(2, PLAIN), (4, PLAIN), (1, PLAIN), (2, FP32), (1, PLAIN)]),
        (source(10, (3, 3, "bf16")), [(3, PLAIN), (7, PLAIN)]),
        (source(10, (2, 99, "bf16")), [(2, PLAIN), (8, BF16)]),
        (source(10, (2, 6, "bf16"), (4, 8, "fp16"), (1, 3, "fp32")), [(2, PLAIN), (4, BF16), (2, FP16), (2, PLAIN)]),
        (source(10, (50, 99, "bf16")), [(10, PLAIN)]),
    ],
    ids=[
        "empty",
        "unknown",
        "solid",
        "solid-first",
        "whole",
        "gaps",
        "others",
        "no-bytes",
        "too-long",
        "overlap",
        "out",
    ],
)
def test_a_file_falls_into_its_tensors_and_what_lies_between(file: Source, expected: list[tuple[int, Kind]]) -> None:
    assert shapes(spans(file)) == expected


@given(st.integers(0, 100), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120), st.just("fp16"))))
def test_spans_are_as_long_as_the_file_whatever_is_said_of_its_tensors(
    size: int, tensors: list[tuple[int, int, str]]
) -> None:
    found = list(spans(source(size, *tensors)))

    assert sum(span.size for span in found) == size
    assert all(span.size > 0 for span in found)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([Span(5, PLAIN)], [(5, PLAIN)]),
        ([Span(FRAME, BF16)], [(FRAME, BF16)]),
        ([Span(2 * FRAME + 6, BF16)], [(FRAME, BF16), (FRAME, BF16), (6, BF16)]),
        ([Span(FRAME + 5, FP32)], [(FRAME, PLAIN), (5, PLAIN)]),
        ([Span(40 * KIB, BF16)] * 3, [(120 * KIB, BF16)]),
        ([Span(63 * KIB, BF16)] * 17, [(16 * 63 * KIB, BF16), (63 * KIB, BF16)]),
        ([Span(64 * KIB, BF16)] * 2, [(64 * KIB, BF16)] * 2),
        ([Span(40 * KIB, BF16), Span(40 * KIB, FP16)], [(40 * KIB, BF16), (40 * KIB, FP16)]),
        ([Span(40 * KIB, PLAIN), Span(40 * KIB, FP16)], [(40 * KIB, PLAIN), (40 * KIB, FP16)]),
        ([Span(20, PLAIN), Span(4 * KIB, FP32), Span(24, PLAIN), Span(4 * KIB, FP32)], [(8 * KIB + 44, FP32)]),
        ([Span(21, PLAIN), Span(4 * KIB, FP32), Span(3, PLAIN)], [(4 * KIB + 24, PLAIN)]),
        ([Span(4 * KIB, FP32), Span(21, PLAIN)], [(4 * KIB + 21, PLAIN)]),
        ([Span(4, FP32), Span(2, BF16), Span(4, FP32)] * 100, [(1000, FP32)]),
        ([Span(5, PLAIN), Span(FRAME, BF16), Span(5, PLAIN)], [(5, PLAIN), (FRAME, BF16), (5, PLAIN)]),
        ([Span(SOLID, SOLID_), Span(1, SOLID_), Span(SOLID, SOLID_)], [(2 * SOLID + 1, SOLID_)]),
        ([Span(9, PLAIN), Span(9, SOLID_), Span(9, PLAIN)], [(9, PLAIN), (9, SOLID_), (9, PLAIN)]),
    ],
)
def test_spans_are_cut_or_share_a_frame(found: list[Span], expected: list[tuple[int, Kind]]) -> None:
    assert shapes(cuts(found)) == expected


def test_a_range_of_a_base_is_cut_with_its_span() -> None:
    large, small = Place(3, 100), Place(1, 7)
    found = list(cuts([Span(2 * FRAME + 8, BF16, large), Span(10, PLAIN, small), Span(4, PLAIN, Place(1, 17))]))

    assert [span.base for span in found] == [
        large,
        Place(3, 100 + FRAME),
        Place(3, 100 + 2 * FRAME),
        small,
    ]
    assert found[-1].size == 14, "what is side by side in the base too shares a frame"
    for other in (None, Place(2, 17), Place(1, 16)):
        assert len(list(cuts([Span(10, PLAIN, small), Span(4, PLAIN, other)]))) == 2


def test_all_frames_of_a_patch_have_the_same_prefix() -> None:
    prefix = Place(2, 5)
    span = Span(2 * PATCH + 1, SOLID_, prefix, is_patch=True)

    assert list(cuts([span])) == [
        Span(PATCH, SOLID_, prefix, is_patch=True),
        Span(PATCH, SOLID_, prefix, is_patch=True),
        Span(1, SOLID_, prefix, is_patch=True),
    ]
    assert [found.size for found in cuts([span], FRAME)][:2] == [FRAME, FRAME]
    assert len(list(cuts([span, span]))) == 6


@given(any_spans)
def test_frames_cover_the_spans_in_whole_elements_and_within_their_bounds(found: list[Span]) -> None:
    frames = list(cuts(found))

    assert sum(frame.size for frame in frames) == sum(span.size for span in found)
    for frame in frames:
        assert frame.size % frame.kind.width == 0
        assert frame.size <= (PATCH if frame.is_patch else FRAME) or (frame.kind is SOLID_ and frame.base is None)
    assert len(frames) <= len(found) + sum(span.size // FRAME + span.size // PATCH for span in found)


@given(any_spans)
def test_many_short_spans_never_make_many_frames(found: list[Span]) -> None:
    short = [Span(1 + span.size % 1000, span.kind) for span in found if span.kind is not SOLID_] * 20

    assert len(list(cuts(short))) <= 2 + sum(span.size for span in short) // KIB


@pytest.mark.parametrize(("size", "chunks"), [(1, 1), (FRAME, 1), (FRAME + 1, 2), (SOLID, 64), (10 * SOLID + 1, 641)])
def test_a_frame_has_a_chunk_for_each_mib(size: int, chunks: int) -> None:
    assert count_chunks(Span(size, SOLID_)) == chunks


@given(st.integers(SMALLEST_VOLUME, Limits.VOLUME))
def test_the_largest_frame_fits_into_a_volume_with_any_table(volume_size: int) -> None:
    size = solid_size(volume_size)
    slots = count_slots(10**9, 10**9, volume_size)

    assert size % FRAME == 0
    assert FRAME <= size <= SOLID
    assert count_chunks(Span(size, SOLID_)) <= slots
    assert first_chunk(slots) + size <= volume_size
    assert size == SOLID or size >= volume_size // 4 - FRAME


@given(st.integers(1, 10**9), st.integers(1, 10**15), st.integers(SMALLEST_VOLUME, Limits.VOLUME))
def test_a_new_volume_has_room_for_a_chunk_and_no_more_slots_than_needed(
    left: int, size: int, volume_size: int
) -> None:
    slots = count_slots(left, size, volume_size)

    assert 1 <= slots <= min(left, Limits.TABLE_ENTRIES)
    assert first_chunk(slots) + Limits.CHUNK <= volume_size
    assert slots * ENTRY <= volume_size // 4


@pytest.mark.parametrize("frame", [FRAME, 100 * KIB, 20 * KIB])
def test_incompressible_frames_run_out_of_bytes_before_slots(frame: int) -> None:
    for volume_size in (SMALLEST_VOLUME, 2 << 30, 256 << 30):
        wanted = min(volume_size // frame, 1 << 18)
        assert count_slots(10**9, 10**9 * frame, volume_size) >= wanted


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
