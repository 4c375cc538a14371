import io
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from airpack.errors import IntegrityError, StorageError
from airpack.formats.volume import PREFIX
from airpack.transport import plan
from airpack.transport.codec import Kind
from airpack.transport.feed import SOLID_ROOM, Feed, File, Frame, distinct
from airpack.transport.plan import Place, Span
from airpack.types import Digest, Silent, Source, Tensor

MIB = 1 << 20
NOISE = random.Random(9).randbytes(3 * MIB)
Make = Callable[..., Source]


class Counted(io.RawIOBase):
    """Bytes that count how many of them were read, `step` at a time."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        super().__init__()
        self._stream, self._step = io.BytesIO(data), step
        self.count = 0
        self.readings: list[int] = []

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(memoryview(buffer)[: self._step])
        self.count += count
        return count

    def readable(self) -> bool:
        return True


def drain(feed: Feed) -> list[Frame]:
    return [feed.read(span) for span in feed.plans()]


def feed_of(sources: list[Source], offset: int = 0, largest: int = 64 * MIB, bases: Any = None) -> Feed:
    return Feed([File(source, source.digest) for source in sources], offset, largest, bases)


# --- which files are equal --------------------------------------------------------------------------------------------


def test_equal_files_are_found_and_each_source_has_its_place(source: Make, recorder: Any) -> None:
    contents = [NOISE[:2000], b"small", NOISE[2000:4000], b"small", NOISE[:2000], b"", b"other", b""]
    files, places = distinct([source(str(number), data) for number, data in enumerate(contents)], recorder)

    assert [file.source.path for file in files] == ["0", "1", "2", "5", "6"]
    assert places == [0, 1, 2, 1, 0, 3, 4, 3]
    assert recorder.tasks == [("compare", sum(map(len, contents)))]
    assert recorder.done == recorder.tasks[0][1]


def test_files_of_runtimes_come_last_and_keep_their_order() -> None:
    sources = [
        Source(path, 1, lambda: io.BytesIO(b"x"), digest=Digest.of(path.encode()), solid=path.isupper())
        for path in "AbCd"
    ]
    files, places = distinct(sources, Silent())

    assert "".join(file.source.path for file in files) == "bdAC"
    assert places == [2, 0, 3, 1]


def test_a_file_equal_to_one_of_a_runtime_stands_where_the_first_of_them_does(source: Make) -> None:
    one, same = source("one", b"same"), source("same", b"same", solid=True)

    assert [file.source.path for file in distinct([one, same], Silent())[0]] == ["one"]
    assert [file.source.path for file in distinct([same, one], Silent())[0]] == ["same"]


def test_only_large_files_that_begin_alike_are_read_whole(recorder: Any) -> None:
    contents = {
        "one": NOISE[: 2 * MIB],
        "like one to the last byte but one": NOISE[: 2 * MIB - 1] + b"x",
        "begins otherwise": b"x" + NOISE[1 : 2 * MIB],
        "of its own size": NOISE[: 2 * MIB + 1],
    }
    counters = {path: Counted(data) for path, data in contents.items()}
    read = dict.fromkeys(contents, 0)

    def opening(path: str) -> Callable[[], Any]:
        def begin() -> Any:
            counters[path] = Counted(contents[path])
            streams[path].append(counters[path])
            return counters[path]

        return begin

    streams: dict[str, list[Counted]] = {path: [] for path in contents}
    files, places = distinct([Source(path, len(data), opening(path)) for path, data in contents.items()], recorder)
    for path, opened in streams.items():
        read[path] = sum(stream.count for stream in opened)

    assert len(files) == 4
    assert places == [0, 1, 2, 3]
    assert read == dict(zip(contents, (3 * MIB, 3 * MIB, MIB, 0), strict=True))
    assert all(stream.closed for opened in streams.values() for stream in opened)
    assert recorder.tasks == [("compare", 4 * MIB)]


def test_a_file_as_large_as_one_of_known_digest_is_compared_with_it(source: Make) -> None:
    data = NOISE[: 2 * MIB]

    def refuse() -> io.BytesIO:
        pytest.fail("was read")

    known = Source("known", len(data), refuse, digest=Digest.of(data))
    files, places = distinct([known, source("unknown", data)], Silent())

    assert [(file.source.path, file.known) for file in files] == [("known", Digest.of(data))]
    assert places == [0, 0]


def test_files_of_known_digests_are_not_read_and_nothing_is_announced(recorder: Any) -> None:
    def refuse() -> io.BytesIO:
        pytest.fail("was read")

    digests = [Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"a")]
    files, places = distinct([Source("x", 5, refuse, digest=digest) for digest in digests], recorder)

    assert [file.known for file in files] == digests[:2]
    assert places == [0, 1, 0]
    assert recorder.tasks == []


def test_comparing_refuses_a_file_of_another_size(source: Make) -> None:
    with pytest.raises(IntegrityError, match=r"second is not .* expected 5 bytes, found more"):
        distinct([source("first", b"12345"), source("second", b"123456", size=5)], Silent())


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_are_the_bytes_of_the_files_in_order(source: Make) -> None:
    contents = [b"", b"head", NOISE[: 2 * MIB + 5], b"", b"tail", b""]
    feed = feed_of([source(str(number), data) for number, data in enumerate(contents)], offset=1000)
    frames = drain(feed)
    stream = b"".join(contents)

    assert b"".join(frame.data for frame in frames) == stream
    assert [frame.offset for frame in frames] == [1000, 1004, 1004 + MIB, 1004 + 2 * MIB, 1009 + 2 * MIB]
    assert [frame.span.size for frame in frames] == [4, MIB, MIB, 5, 4]
    assert [frame.path for frame in frames] == ["1", "2", "2", "2", "4"]
    assert [(info.digest, info.size) for info in feed.infos] == [(Digest.of(data), len(data)) for data in contents]
    assert feed.count_chunks() == 5
    assert feed.size == len(stream)


def test_weights_are_cut_at_their_tensors(source: Make) -> None:
    data = NOISE[: 2 * MIB]
    tensors = (Tensor("a", 100, 100 + MIB, "bf16"), Tensor("b", 100 + MIB, 100 + MIB + 400_000, "fp32"))
    made = source("weights", data)
    feed = feed_of([Source(made.path, made.size, made.open, tensors=tensors)])

    assert [(frame.span.size, frame.span.kind) for frame in drain(feed)] == [
        (100, Kind.PLAIN),
        (MIB, Kind.BF16),
        (400_000, Kind.FP32),
        (MIB - 400_100, Kind.PLAIN),
    ]


def test_a_source_that_gives_little_at_a_time_is_read_whole() -> None:
    data = NOISE[: 2 * MIB + 5]
    feed = feed_of([Source("drip", len(data), lambda: Counted(data, 70_001))])  # type: ignore[arg-type, return-value]

    assert b"".join(frame.data for frame in drain(feed)) == data
    assert feed.infos[0].digest == Digest.of(data)


def test_solid_files_are_cut_wherever_they_end(source: Make) -> None:
    contents = [bytes(MIB + 7), b"", b"text" * MIB, bytes(5)]
    feed = feed_of([source(str(number), data, solid=True) for number, data in enumerate(contents)], largest=2 * MIB)
    frames = drain(feed)

    assert [frame.span.size for frame in frames] == [2 * MIB, 2 * MIB, MIB + 12]
    assert all(frame.span.kind is Kind.SOLID for frame in frames)
    assert b"".join(frame.data for frame in frames) == b"".join(contents)
    assert feed.count_chunks() == 6


@pytest.mark.parametrize(
    ("data", "first"), [(bytes(8 * MIB), 6), (NOISE[:MIB] * 8, 3), ((bytes(MIB) + NOISE[:MIB]) * 4, 4)]
)
def test_a_solid_frame_ends_where_it_and_what_is_expected_of_it_fill_their_room(
    source: Make, monkeypatch: pytest.MonkeyPatch, data: bytes, first: int
) -> None:
    monkeypatch.setattr("airpack.transport.feed.SOLID_ROOM", 6 * MIB)
    feed = feed_of([source("a", data, solid=True)])
    frames = drain(feed)

    assert frames[0].span.size == first * MIB
    assert b"".join(frame.data for frame in frames) == data
    assert [frame.offset for frame in frames][:2] == [0, first * MIB]
    assert all(feed.cost(frame.span) <= 6 * MIB for frame in frames)


@pytest.mark.parametrize(
    ("length", "found"),
    [(0, 1), (5, 4), (5, 6), (5, 2 * MIB), (MIB, MIB - 1), (MIB, MIB + 1), (2 * MIB + 3, 0), (2 * MIB + 3, 2 * MIB)],
)
def test_a_file_shorter_or_longer_than_announced_is_refused_and_closed(length: int, found: int) -> None:
    opened: list[Counted] = []

    def begin() -> Any:
        opened.append(Counted(NOISE[:found]))
        return opened[-1]

    with pytest.raises(IntegrityError, match=r"weights is not .* changed while it was packed: expected"):
        drain(feed_of([Source("weights", length, begin)]))
    assert all(stream.closed for stream in opened)


def test_a_feed_that_is_left_closes_its_file() -> None:
    opened = Counted(NOISE)
    feed = feed_of([Source("weights", len(NOISE), lambda: opened)])  # type: ignore[arg-type, return-value]
    plans = feed.plans()
    feed.read(next(plans))
    plans.close()

    assert opened.closed


def test_a_file_of_another_digest_than_announced_is_refused(source: Make) -> None:
    with pytest.raises(IntegrityError, match=f"lib.so .* expected {Digest.of(b'wrong')}, found {Digest.of(b'right')}"):
        drain(feed_of([source("lib.so", b"right", digest=Digest.of(b"wrong"))]))


def test_a_file_that_fails_while_it_is_read_is_a_storage_error() -> None:
    class Broken(io.RawIOBase):
        def readinto(self, _: Any) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match="cannot read weights: Input/output error") as caught:
        drain(feed_of([Source("weights", 5, Broken)]))  # type: ignore[arg-type]
    assert caught.value.context == {"path": "weights"}


# --- bases ------------------------------------------------------------------------------------------------------------


class Held:
    """Bases of one file each."""

    def __init__(self, base: bytes, found: dict[str, list[Span]]) -> None:
        self._base, self._found = base, found

    def spans(self, source: Source) -> Iterable[Span]:
        return self._found.get(source.path) or plan.spans(source)

    def read(self, place: Place, size: int) -> bytes:
        assert place.file == 1
        return self._base[place.offset : place.offset + size]


def test_a_frame_comes_with_the_range_of_its_base(source: Make) -> None:
    spans = [
        Span(10, Kind.PLAIN),
        Span(MIB + 4, Kind.BF16, Place(1, 3)),
        Span(6, Kind.PLAIN, Place(1, 0), is_patch=True),
    ]
    data = NOISE[: MIB + 20]
    feed = feed_of([source("a", data), source("b", b"other")], bases=Held(NOISE, {"a": spans}))
    frames = drain(feed)

    assert [bytes(frame.base) for frame in frames] == [
        b"",
        NOISE[3 : MIB + 3],
        NOISE[MIB + 3 : MIB + 7],
        NOISE[:PREFIX],
        b"",
    ]
    assert b"".join(frame.data for frame in frames) == data + b"other"


def test_solid_files_with_a_base_are_cut_where_it_is_known_where_they_end(source: Make) -> None:
    data = bytes(3 * MIB)
    feed = feed_of([source("a", data, solid=True)], bases=Held(data, {"a": [Span(len(data), Kind.SOLID, Place(1, 0))]}))

    assert [(frame.span.size, frame.span.base) for frame in drain(feed)] == [
        (MIB, Place(1, at * MIB)) for at in range(3)
    ]


@pytest.mark.parametrize(("size", "message"), [(4, "a is longer than its spans"), (6, "longer than their files by 1")])
def test_spans_that_are_not_as_long_as_their_file_are_a_bug_of_their_maker(
    source: Make, size: int, message: str
) -> None:
    feed = feed_of([source("a", b"12345")], bases=Held(b"", {"a": [Span(size, Kind.PLAIN)]}))

    with pytest.raises(RuntimeError, match=message):
        drain(feed)


def test_what_a_frame_costs_grows_with_what_goes_with_it() -> None:
    feed = feed_of([])
    costs: Iterator[int] = map(
        feed.cost,
        (
            Span(MIB, Kind.PLAIN),
            Span(MIB, Kind.PLAIN, Place(1, 0)),
            Span(64 * MIB, Kind.SOLID),
            Span(MIB, Kind.PLAIN, Place(1, 0), is_patch=True),
        ),
    )

    assert [cost // MIB for cost in costs] == [2, 4, SOLID_ROOM // MIB, 98]
