import io
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airpack.errors import InputError, IntegrityError, StorageError
from airpack.formats.package import FileInfo, PackageManifest
from airpack.formats.volume import ENTRY, HEADER, Codec, Frame, Header, parse_table
from airpack.transport.codec import Kind, decode
from airpack.transport.plan import Place, Span
from airpack.transport.reader import unpack_all
from airpack.transport.writer import PackWriter, volume_name
from airpack.types import Digest, Source, Tensor

MIB = 1 << 20
NOISE = random.Random(7).randbytes(6 * MIB)
Make = Callable[..., Source]
Pack = Callable[..., tuple[PackageManifest, Digest, Path]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


content = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 3 * MIB).map(lambda size: NOISE[:size]),
    st.integers(0, 3 * MIB).map(bytes),
)
dtypes = st.sampled_from(["bf16", "fp16", "fp32", "other"])


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Return a file with tensors anywhere in it, or one of a runtime."""
    data = draw(content)
    bounds = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    tensors = tuple(
        Tensor(str(start), start, stop, draw(dtypes)) for start, stop in zip(bounds[::2], bounds[1::2], strict=False)
    )
    return Source("file", len(data), lambda: io.BytesIO(data), tensors=tensors, solid=draw(st.booleans()))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(sources(), max_size=8), st.integers(2 * MIB, 20 * MIB))
def test_what_is_packed_is_unpacked(
    tmp_path_factory: pytest.TempPathFactory, collector: Any, packed: list[Source], volume_size: int
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    files = [source.open().read() for source in packed]
    with PackWriter(folder, "x", volume_size=volume_size) as writer:
        digests = writer.pack(packed)
        infos, volumes = writer.close()
        payload = PackageManifest(Digest.of(b""), "xy", "1", "0.1.0", infos, volumes).emit()
        writer.seal(payload)
    manifest, sink = PackageManifest.parse(payload), collector()

    unpack_all(manifest, Digest.of(payload), [folder], wanted=set(digests), sink=sink)

    assert digests == [Digest.of(data) for data in files]
    assert sink.files == {Digest.of(data): data for data in files}
    assert all(path.stat().st_size <= volume_size for path in folder.iterdir())
    assert names(folder) == [volume.name for volume in volumes]


def test_the_same_files_give_the_same_volumes(tmp_path: Path, source: Make) -> None:
    def once(folder: Path, workers: int) -> list[bytes]:
        with PackWriter(folder, "x", volume_size=2 * MIB, workers=workers) as writer:
            writer.pack([source("a", NOISE), source("b", b"b" * 5000), source("c", bytes(3 * MIB))])
            paths = writer.seal(b"payload")
        return [path.read_bytes() for path in paths]

    assert once(tmp_path / "one", 1) == once(tmp_path / "two", 4)


def test_equal_files_are_stored_once_and_named_in_input_order(tmp_path: Path, source: Make) -> None:
    small, large, other = b"small", NOISE[: 2 * MIB], NOISE[-2 * MIB :]
    with PackWriter(tmp_path, "x") as writer:
        digests = writer.pack(
            [source(str(number), data) for number, data in enumerate([large, small, other, small, large, b"", b""])]
        )
        files, volumes = writer.close()
        writer.seal(b"")

    expected = [large, small, other, b""]
    assert digests == [Digest.of(data) for data in [large, small, other, small, large, b"", b""]]
    assert files == tuple(FileInfo(Digest.of(data), len(data)) for data in expected)
    assert volumes[0].data == 4 * MIB + len(small)


def test_a_large_file_of_known_digest_is_not_read_again_when_it_is_stored_already(tmp_path: Path, source: Make) -> None:
    data = NOISE[:MIB]

    def refuse() -> io.BytesIO:
        pytest.fail("was read")

    again = Source("again", len(data), refuse, digest=Digest.of(data))
    with PackWriter(tmp_path, "x") as writer:
        digests = writer.pack([source("first", data, digest=Digest.of(data)), again])

    assert digests == [Digest.of(data)] * 2


def test_files_of_their_own_size_are_read_once(tmp_path: Path) -> None:
    opened = []

    def reading(size: int) -> Source:
        def begin() -> io.BytesIO:
            opened.append(size)
            return io.BytesIO(NOISE[:size])

        return Source(str(size), size, begin)

    with PackWriter(tmp_path, "x") as writer:
        writer.pack([reading(MIB), reading(MIB + 1), reading(10)])

    assert sorted(opened) == [10, MIB, MIB + 1]


@pytest.mark.parametrize(
    ("length", "found"),
    [
        (0, 1),
        (5, 4),
        (5, 6),
        (5, 2 * MIB),
        (MIB - 1, MIB - 2),
        (MIB - 1, MIB),
        (MIB, MIB - 1),
        (MIB, MIB + 1),
        (2 * MIB + 3, 0),
        (2 * MIB + 3, 2 * MIB),
        (2 * MIB + 3, 2 * MIB + 4),
    ],
)
def test_a_file_shorter_or_longer_than_announced_is_refused_by_name(
    tmp_path: Path, source: Make, length: int, found: int
) -> None:
    with (
        PackWriter(tmp_path, "x") as writer,
        pytest.raises(IntegrityError, match=r"model/weights is not .* changed while it was packed: expected") as caught,
    ):
        writer.pack([source("before", b"x"), source("model/weights", NOISE[:found], size=length)])

    assert caught.value.context == {"path": "model/weights"}
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [0, 5, 2 * MIB])
def test_a_file_of_another_digest_than_announced_is_refused_by_name(tmp_path: Path, source: Make, length: int) -> None:
    wrong = Digest.of(b"wrong")
    with (
        PackWriter(tmp_path, "x") as writer,
        pytest.raises(IntegrityError, match=f"lib.so .* expected {wrong}, found {Digest.of(NOISE[:length])}"),
    ):
        writer.pack([source("lib.so", NOISE[:length], digest=wrong)])


def test_a_file_that_changes_between_comparing_and_packing_is_refused(tmp_path: Path, source: Make) -> None:
    reads = iter([bytes(MIB), b"x" + bytes(MIB - 1)])
    changing = Source("changing", MIB, lambda: io.BytesIO(next(reads)))

    with PackWriter(tmp_path, "x") as writer, pytest.raises(IntegrityError, match="changing is not"):
        writer.pack([changing, source("twin in size", NOISE[:MIB])])


def test_files_that_become_equal_after_they_were_compared_are_refused(tmp_path: Path, source: Make) -> None:
    data = bytes(2 * MIB)
    reads = iter([b"x" + data[1:], data])
    changing = Source("changing", len(data), lambda: io.BytesIO(next(reads)))

    with PackWriter(tmp_path, "x") as writer, pytest.raises(IntegrityError, match=r"changing is not .* same bytes now"):
        writer.pack([source("first", data), changing])
    assert names(tmp_path) == []


def test_a_source_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    gone = Source("gone", 5, (tmp_path / "gone").open)  # type: ignore[arg-type]

    with (
        PackWriter(tmp_path, "x") as writer,
        pytest.raises(StorageError, match="cannot read gone: No such file") as caught,
    ):
        writer.pack([gone])
    assert caught.value.context == {"path": "gone"}


def test_a_package_without_bytes_has_no_volumes(tmp_path: Path, source: Make) -> None:
    with PackWriter(tmp_path, "x") as writer:
        writer.pack([source("empty", b"")])
        files, volumes = writer.close()
        assert writer.seal(b"") == []

    assert (files, volumes) == ((FileInfo(Digest.of(b""), 0),), ())
    assert names(tmp_path) == []


def test_nothing_has_its_name_before_it_is_sealed_and_nothing_stays_without(tmp_path: Path, source: Make) -> None:
    with PackWriter(tmp_path, "x", volume_size=2 * MIB) as writer:
        writer.pack([source("a", NOISE)])
        assert len(names(tmp_path)) == 6
        assert all(name.endswith(".part") for name in names(tmp_path))

    assert names(tmp_path) == []


def test_a_volume_that_cannot_be_published_takes_the_others_back(
    tmp_path: Path, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def failing(old: Path, new: Path) -> None:
        if str(new).endswith(".0003.airvol"):
            raise OSError(28, "No space left on device")
        rename(old, new)

    with PackWriter(tmp_path, "x", volume_size=2 * MIB) as writer:
        writer.pack([source("a", NOISE)])
        monkeypatch.setattr(os, "rename", failing)
        with pytest.raises(StorageError, match="No space left"):
            writer.seal(b"payload")
        assert "x.0002.airvol" in names(tmp_path)

    assert names(tmp_path) == []


def test_waiting_volumes_hold_no_descriptors(tmp_path: Path, source: Make) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with PackWriter(tmp_path, "x", volume_size=2 * MIB) as writer:
        writer.pack([source("a", NOISE)])
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


@pytest.mark.parametrize("when", ["start", "seal"])
def test_existing_volumes_are_never_replaced(tmp_path: Path, source: Make, when: str) -> None:
    old = tmp_path / volume_name("x", 2)

    def run() -> None:
        with PackWriter(tmp_path, "x") as writer:
            writer.pack([source("a", b"a")])
            old.write_bytes(b"old")
            writer.seal(b"")

    if when == "start":
        old.write_bytes(b"old")
    with pytest.raises(InputError, match=r"x\.0002\.airvol exists already") as caught:
        run()

    assert caught.value.context["volumes"] == ["x.0002.airvol"]
    assert names(tmp_path) == ["x.0002.airvol"]
    assert old.read_bytes() == b"old"


def test_volumes_of_other_packages_are_no_obstacle(tmp_path: Path, source: Make) -> None:
    (tmp_path / "xx.0001.airvol").write_bytes(b"other")
    (tmp_path / "x.airpack").write_bytes(b"head")

    with PackWriter(tmp_path, "x") as writer:
        writer.pack([source("a", b"a")])
        writer.seal(b"")

    assert names(tmp_path) == ["x.0001.airvol", "x.airpack", "xx.0001.airvol"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("", {}, "package name"),
        ("A", {}, "package name"),
        ("../x", {}, "package name"),
        ("x\n", {}, "package name"),
        ("x" * 96, {}, "package name"),
        ("x", {"volume_size": 2 * MIB - 1}, "volume size must be from 2097152"),
        ("x", {"volume_size": (1 << 40) + 1}, "volume size must be"),
        ("x", {"workers": 0}, "workers must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PackWriter(tmp_path, name, **options)  # type: ignore[arg-type]


def test_a_file_larger_than_a_package_carries_is_refused(tmp_path: Path, source: Make) -> None:
    with PackWriter(tmp_path, "x") as writer, pytest.raises(InputError, match="huge has 17592186044417 bytes"):
        writer.pack([source("huge", b"", size=(1 << 44) + 1)])


def test_more_files_than_a_package_carries_are_refused(tmp_path: Path, source: Make) -> None:
    with PackWriter(tmp_path, "x") as writer, pytest.raises(InputError, match="at most 100000 files, found 100001"):
        writer.pack([source("same", b"")] * 100_001)


def test_more_volumes_than_a_package_may_have_are_refused(
    tmp_path: Path, source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airpack.types.Limits.VOLUMES", 3)

    with (
        PackWriter(tmp_path, "x", volume_size=2 * MIB) as writer,
        pytest.raises(InputError, match="more than 3 volumes") as caught,
    ):
        writer.pack([source("a", NOISE)])
    assert "--volume-size" in caught.value.hint


def test_calls_out_of_order_are_bugs_of_the_caller(tmp_path: Path) -> None:
    with PackWriter(tmp_path, "x") as writer:
        with pytest.raises(RuntimeError, match="after pack"):
            writer.seal(b"")
        writer.pack([])
        with pytest.raises(RuntimeError, match="called once"):
            writer.pack([])


def test_a_volume_is_closed_when_its_slots_are_used_up(pack: Pack) -> None:
    manifest, _, _ = pack(bytes(100 * MIB))

    assert [(volume.entries, volume.slots) for volume in manifest.volumes] == [(64, 64), (36, 36)]


def test_slots_that_compression_saved_stay_zero(pack: Pack) -> None:
    manifest, payload, folder = pack(bytes(3 * MIB), solid=True, volume_size=16 * MIB)
    (volume,) = manifest.volumes
    data = (folder / volume.name).read_bytes()

    assert (volume.entries, volume.slots) == (1, 3)
    assert data[:HEADER] == Header(payload, 1, 1, 1, 3, volume.data).emit()
    table = parse_table(data[HEADER : HEADER + 3 * ENTRY], entries=1, stored=volume.data, what="x")
    assert table.end == manifest.total == 3 * MIB


def test_progress_reaches_the_announced_total_though_equal_files_are_stored_once(
    tmp_path: Path, source: Make, recorder: Any
) -> None:
    with PackWriter(tmp_path, "x", reporter=recorder) as writer:
        writer.pack([source("a", NOISE), source("b", NOISE), source("c", b"c")])

    assert recorder.tasks == [("compare", 12 * MIB), ("pack", 12 * MIB + 1)]
    assert recorder.done == 12 * MIB + 1
    assert recorder.finished == 2


# --- how files become frames ------------------------------------------------------------------------------------------


def frames_of(manifest: PackageManifest, folder: Path, bases: Sequence[int] = ()) -> list[Frame]:
    found: list[Frame] = []
    for info in manifest.volumes:
        data = (folder / info.name).read_bytes()[HEADER : HEADER + info.slots * ENTRY]
        table = parse_table(data, entries=info.entries, stored=info.data, bases=bases, what="x")
        found += table.frames()
    return found


def pack_sources(
    folder: Path, sources: list[Source], bases: Any = None, volume_size: int = 64 * MIB
) -> PackageManifest:
    with PackWriter(folder, "x", volume_size=volume_size) as writer:
        writer.pack(sources, bases)
        manifest = PackageManifest(Digest.of(b""), "xy", "1", "0.1.0", *writer.close())
        writer.seal(manifest.emit())
    return manifest


def test_weights_are_coded_by_type_and_runtimes_end_to_end_behind_them(tmp_path: Path, source: Make) -> None:
    weights = np.random.default_rng(4).standard_normal(MIB // 2, dtype=np.float32)
    half = (weights.view(np.uint32) >> 16).astype("<u2").tobytes()
    data = b"head" + half + weights.tobytes() + weights.astype("<f2").tobytes() + NOISE[:MIB]
    bounds = (4, 4 + MIB, 4 + 3 * MIB, 4 + 4 * MIB, 4 + 5 * MIB)
    tensors = tuple(
        Tensor(dtype, *bound, dtype)
        for dtype, bound in zip(("bf16", "fp32", "fp16", "other"), pairwise(bounds), strict=True)
    )
    library = Source("lib.so", 4, lambda: io.BytesIO(b"elf\n"), solid=True)
    text = source("x.py", b"pass\n" * MIB, solid=True)
    manifest = pack_sources(
        tmp_path, [text, Source("w", len(data), lambda: io.BytesIO(data), tensors=tensors), library]
    )

    assert [(frame.size, frame.codec) for frame in frames_of(manifest, tmp_path)] == [
        (4, Codec.RAW),
        (MIB, Codec.BF16),
        (MIB, Codec.FP32),
        (MIB, Codec.FP32),
        (MIB, Codec.FP16),
        (MIB, Codec.RAW),
        (5 * MIB + 4, Codec.ZSTD),
    ]
    assert [file.size for file in manifest.files] == [len(data), 5 * MIB, 4]


def test_a_frame_of_many_chunks_is_stored_in_pieces_of_a_mib_in_one_volume(
    tmp_path: Path, source: Make, collector: Any
) -> None:
    noise = NOISE[: 5 * MIB // 2 + 3]
    manifest = pack_sources(tmp_path, [source("a", noise, solid=True), source("b", b"b")], volume_size=12 * MIB)
    plain, solid = frames_of(manifest, tmp_path)
    sink = collector()
    unpack_all(manifest, Digest.of(manifest.emit()), [tmp_path], wanted={Digest.of(noise)}, sink=sink)

    assert (plain.codec, solid.codec) == (Codec.RAW, Codec.RAW)
    assert [chunk.stored for chunk in solid.chunks] == [MIB, MIB, MIB // 2 + 3]
    assert sink.files == {Digest.of(noise): noise}


def test_a_frame_never_lies_in_two_volumes(tmp_path: Path, source: Make) -> None:
    manifest = pack_sources(
        tmp_path, [source("a", NOISE[: 4 * MIB]), source("b", NOISE, solid=True)], volume_size=8 * MIB
    )

    assert [(volume.entries, volume.data) for volume in manifest.volumes] == [(6, 6 * MIB), (4, 4 * MIB)]
    assert [frame.size for frame in frames_of(manifest, tmp_path)] == [MIB] * 4 + [2 * MIB] * 3


class Held:
    """A base of one file, for files whose spans are given."""

    def __init__(self, base: bytes, **spans: list[Span]) -> None:
        self._base, self._spans = base, spans

    def spans(self, source: Source) -> Iterable[Span]:
        return self._spans.get(source.path, ())

    def read(self, place: Place, size: int) -> bytes:
        assert place.file == 1
        return self._base[place.offset : place.offset + size]


def test_of_base_and_none_what_stores_least_is_taken(tmp_path: Path, source: Make) -> None:
    base = NOISE[: 3 * MIB]
    changed = bytearray(base[:MIB])
    changed[::1000] = bytes(len(changed[::1000]))
    code = base[1000:MIB] + b"new" + base[MIB : 2 * MIB]
    held = Held(
        base,
        same=[Span(MIB, Kind.PLAIN, Place(1, 5))],
        near=[Span(MIB, Kind.BF16, Place(1, 0))],
        zeros=[Span(MIB, Kind.BF16, Place(1, 0))],
        noise=[Span(MIB, Kind.PLAIN, Place(1, 0))],
        code=[Span(len(code), Kind.SOLID, Place(1, 0), is_patch=True)],
        other=[Span(MIB, Kind.SOLID, Place(1, 0), is_patch=True)],
        short=[Span(8000, Kind.SOLID, Place(1, 3 * MIB - 1), is_patch=True)],
    )
    contents = {
        "same": base[5 : MIB + 5],
        "near": bytes(changed),
        "zeros": bytes(MIB),
        "noise": NOISE[4 * MIB : 5 * MIB],
        "code": code,
        "other": NOISE[5 * MIB :],
        "short": b"text" * 2000,
    }
    made = [source(path, data, solid=path in {"code", "other", "short"}) for path, data in contents.items()]
    manifest = pack_sources(tmp_path, made, held)
    frames = frames_of(manifest, tmp_path, [len(base)])

    assert [(frame.codec, frame.base, frame.base_offset) for frame in frames] == [
        (Codec.BASE, 1, 5),
        (Codec.XOR_BF16, 1, 0),
        (Codec.BF16, 0, 0),
        (Codec.RAW, 0, 0),
        (Codec.PATCH, 1, 0),
        (Codec.RAW, 0, 0),
        (Codec.ZSTD, 0, 0),
    ]
    assert frames[0].stored == 0
    assert frames[0].chunks[0].digest == Digest.of(contents["same"]).raw
    assert [file.digest for file in manifest.files] == [Digest.of(data) for data in contents.values()]
    stored = (tmp_path / "x.0001.airvol").read_bytes()
    for frame in frames:
        at = frame.chunks[0].offset
        prefix = base if frame.codec is Codec.PATCH else base[frame.base_offset :][: frame.size]
        if frame.codec is not Codec.BASE:
            got = decode(frame.codec, stored[at : at + frame.stored], frame.size, prefix)
            assert Digest.of(got) == manifest.files[frames.index(frame)].digest


MEASURE = """
import io, os, re, sys
from pathlib import Path
from airpack.transport.writer import PackWriter
from airpack.types import Source

class Mixed(io.RawIOBase):
    def readable(self):
        return True
    def readinto(self, view):
        for at in range(0, len(view), 1 << 17):
            piece = view[at : at + int(sys.argv[2])]
            piece[:] = os.urandom(len(piece))
        return len(view)
    def read(self, _):
        return b""

def memory(name):
    return int(re.search(name + r":\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])

size = 1 << 20
before = memory("VmRSS")  # not the peak so far: imports leave more of that at one time than at another
with PackWriter(Path(sys.argv[1]), "x") as writer:
    writer.pack([Source("a", 80 * size, Mixed), Source("b", 150 * size, Mixed, solid=True)])
print((memory("VmHWM") - before) / 1024)
"""


@pytest.mark.parametrize("noise", [1 << 17, 3 << 15, 1 << 16], ids=["stored", "three-quarters", "half"])
def test_packing_takes_no_more_memory_than_is_promised(tmp_path: Path, noise: int) -> None:
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "out"), str(noise)]
    taken = float(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    assert 64 < taken < 192 - 58, "192 MiB with runtimes, of which the program itself takes 58"
