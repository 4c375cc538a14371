"""Deltas: what is applied to the base is what was packed, and no package is larger for having a base."""

import hashlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from airpack.errors import IntegrityError, NotFoundError
from airpack.facts.tensors import read_layout
from airpack.formats.package import FileInfo, PackageManifest
from airpack.formats.volume import ENTRY, HEADER, PREFIX, Codec, parse_table
from airpack.transport import codec
from airpack.transport import delta as module
from airpack.transport.delta import Counterparts, Delta, Library, Old, OldRelease, scan
from airpack.transport.writer import VOLUME_SIZE, PackWriter
from airpack.types import Digest, Silent, Source, Tensor

SILENT = Silent()
Files = Mapping[str, bytes]


def source(path: str, data: bytes, *, wheel: bool = False) -> Source:
    layout = read_layout("safetensors" if path.endswith(".safetensors") else "", io.BytesIO(data), len(data))
    solid = path.startswith("runtime/")
    digest = Digest.of(data) if wheel else None
    return Source(path, len(data), lambda: io.BytesIO(data), digest=digest, tensors=layout.tensors, solid=solid)


@dataclass
class Made:
    """A package written against bases, and what came of it."""

    manifest: PackageManifest
    codecs: Counter[Codec]
    stored: int
    files: dict[str, bytes]
    delta: Delta | None
    is_worth: bool

    def bytes_of(self, *kinds: Codec) -> int:
        return sum(self.codecs[kind] for kind in kinds)


class Desk:
    """Builds packages in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()
        self.opened: Counter[str] = Counter()

    def old(self, files: Files, name: str = "1.0") -> OldRelease:
        place = self.folder / f"old-{name}-{next(self.count)}"
        place.mkdir(parents=True)
        unique: dict[Digest, list[str]] = {}
        for path, data in files.items():
            unique.setdefault(Digest.of(data), []).append(path)
        olds = []
        for digest, paths in unique.items():
            (place / digest.hex).write_bytes(files[paths[0]])
            info = FileInfo(digest, len(files[paths[0]]))
            tensors = source(paths[0], files[paths[0]]).tensors
            olds.append(Old(tuple(paths), info, partial(self.open, place / digest.hex, paths[0]), tensors))
        return OldRelease(Digest.of(name.encode()), "tool", name, tuple(olds))

    def open(self, path: Path, name: str) -> int:
        self.opened[name] += 1
        return os.open(path, os.O_RDONLY)

    def build(self, new: Files, *olds: OldRelease, volume_size: int = VOLUME_SIZE) -> Made:
        sources = [source(path, data) for path, data in new.items()]
        if not olds:
            return self.pack(new, sources, None, volume_size)
        sizes = {old.file.size for release in olds for old in release.files}
        news = scan(sources, list(new), sizes, SILENT)
        library = Library(olds, news, SILENT)
        try:
            made = self.pack(new, sources, Delta(news, library, volume_size=volume_size), volume_size)
            return made if made.is_worth else self.pack(new, sources, None, volume_size)
        finally:
            library.close()

    def pack(self, new: Files, sources: list[Source], delta: Delta | None, volume_size: int) -> Made:
        out, is_worth = self.folder / f"out-{next(self.count)}", True
        with PackWriter(out, "tool", volume_size=volume_size) as writer:
            if delta:
                digests = delta.digests(writer.pack(delta.sources, delta))
                delta.check()
                is_worth = delta.is_worth(writer.spared)
            else:
                digests = writer.pack(sources)
            assert digests == [Digest.of(data) for data in new.values()]
            files, volumes = writer.close()
            bases = delta.bases if delta else ()
            manifest = PackageManifest(Digest.of(b"new"), "tool", "1.1", "0.1.0", files, volumes, bases)
            writer.seal(manifest.emit())
        assert PackageManifest.parse(manifest.emit()) == manifest
        codecs, rebuilt = self.apply(manifest, out)
        names = {path: rebuilt[digest] for path, digest in zip(new, digests, strict=True)}
        size = sum(path.stat().st_size for path in out.iterdir())
        return Made(manifest, codecs, size, names, delta, is_worth)

    def apply(self, manifest: PackageManifest, out: Path) -> tuple[Counter[Codec], dict[Digest, bytes]]:
        """Rebuild files as a site does that holds the bases, straightforwardly."""
        held = {path.name: path for path in self.folder.glob("old-*/*")}
        bases = [held[file.digest.hex].read_bytes() for file in manifest.base_files]
        codecs: Counter[Codec] = Counter()
        stream = bytearray()
        for info in manifest.volumes:
            data = (out / info.name).read_bytes()
            table = data[HEADER : HEADER + info.slots * ENTRY]
            assert Digest.of(table) == info.table
            sizes = [len(base) for base in bases]
            for frame in parse_table(table, entries=info.entries, stored=info.data, bases=sizes, what="it").frames():
                assert frame.offset == len(stream)
                stored = b"".join(data[chunk.offset : chunk.offset + chunk.stored] for chunk in frame.chunks)
                length = PREFIX if frame.codec is Codec.PATCH else frame.size
                base = bases[frame.base - 1][frame.base_offset :][:length] if frame.base else b""
                if frame.codec is Codec.BASE:
                    assert hashlib.sha256(base).digest() == frame.chunks[0].digest
                    stream += base
                else:
                    stream += codec.decode(frame.codec, stored, frame.size, base)
                codecs[frame.codec] += frame.size
        files: dict[Digest, bytes] = {file.digest: data for file, data in zip(manifest.base_files, bases, strict=True)}
        at = 0
        for file in manifest.files:
            files[file.digest] = bytes(stream[at : at + file.size])
            assert Digest.of(files[file.digest]) == file.digest
            at += file.size
        assert at == len(stream)
        return codecs, files


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


RANDOM = np.random.default_rng(7)


def weights(count: int = 100_000, kind: str = "f4") -> Any:
    return RANDOM.normal(0, 0.02, count).astype(kind)


def moved(array: Any, by: float = 1e-3) -> Any:
    return (array * (1 + by * RANDOM.normal(0, 1, array.shape))).astype(array.dtype)


def saved(**tensors: Any) -> bytes:
    return safetensors.numpy.save(tensors)


def library(seed: int, size: int = 300_000) -> bytes:
    """Return bytes as of a program: words of its own, in some order."""
    random = np.random.default_rng(seed)
    words = [random.bytes(int(random.integers(4, 40))) for _ in range(2000)]
    out = bytearray()
    while len(out) < size:
        out += words[random.integers(2000)]
    return bytes(out[:size])


def edited(data: bytes, *places: int) -> bytes:
    out = bytearray(data)
    for place in sorted(places, reverse=True):
        out[place : place + 3] = b"something else"
    return bytes(out)


A, B, C = weights(), weights(), weights()
OLD = {"model/m/a.safetensors": saved(a=A, b=B), "runtime/r/lib.so": library(1), "model/m/config.json": b"{}" * 50}


def test_what_a_base_has_is_not_packed(desk: Desk) -> None:
    made = desk.build(OLD, desk.old(OLD))
    assert made.files == OLD
    assert made.manifest.files == ()
    assert made.manifest.volumes == ()
    assert {file.digest for file in made.manifest.base_files} == {Digest.of(data) for data in OLD.values()}
    assert desk.opened == Counter()  # nothing of the base was read: the new files are the same bytes


def test_an_unchanged_runtime_beside_a_changed_model_is_not_packed(desk: Desk) -> None:
    new = {**OLD, "model/m/a.safetensors": saved(a=moved(A), b=B)}
    made = desk.build(new, desk.old(OLD))
    assert made.files == new
    assert made.manifest.files == (
        FileInfo(Digest.of(new["model/m/a.safetensors"]), len(new["model/m/a.safetensors"])),
    )
    assert Digest.of(OLD["runtime/r/lib.so"]) in {file.digest for file in made.manifest.base_files}
    assert made.delta
    assert (made.delta.tally.reused_files, made.delta.tally.same_tensors, made.delta.tally.like_tensors) == (2, 1, 1)


def test_an_unchanged_tensor_costs_nothing_and_a_changed_one_little(desk: Desk) -> None:
    new = {**OLD, "model/m/a.safetensors": saved(a=moved(A), b=B)}
    made, full = desk.build(new, desk.old(OLD)), desk.build(new)
    assert made.bytes_of(Codec.BASE) >= B.nbytes
    assert made.bytes_of(Codec.XOR_FP32) >= A.nbytes - 4096
    assert made.stored < full.stored * 0.4


@pytest.mark.parametrize(
    "new",
    [
        {"model/m/a.safetensors": saved(b=B, x=weights(50_000), a=A)},  # another order, one more
        {"model/m/a.safetensors": saved(other=A, names=B)},
        {"model/m/other.safetensors": saved(a=A), "model/n/third.safetensors": saved(b=B)},
        {"model/m/a.safetensors": saved(a=B, b=A)},  # names changed places
        {"model/m/a.safetensors": saved(layer0=weights(100_000), a=A, b=B, more=weights(100))},
    ],
)
def test_a_tensor_that_moved_or_was_renamed_costs_nothing(desk: Desk, new: Files) -> None:
    made = desk.build(new, desk.old(OLD))
    assert made.files == new
    assert made.bytes_of(Codec.BASE) >= A.nbytes + B.nbytes - 8192
    assert made.delta
    assert made.delta.tally.same_tensors == 2


def test_a_tensor_of_a_file_that_stays_is_found_too(desk: Desk) -> None:
    new = {**OLD, "model/m/b.safetensors": saved(copy=A, c=C)}
    made = desk.build(new, desk.old(OLD))
    assert made.files == new
    assert made.bytes_of(Codec.BASE) >= A.nbytes - 4096


def test_small_tensors_are_the_difference_to_their_neighbourhood(desk: Desk) -> None:
    small = {f"layer{number}": weights(2000) for number in range(40)}
    old = {"model/m/a.safetensors": saved(**small)}
    new = {"model/m/a.safetensors": saved(**{**small, "layer7": moved(small["layer7"])})}
    made, full = desk.build(new, desk.old(old)), desk.build(new)
    assert made.files == new
    assert made.stored < full.stored * 0.2


def test_bf16_and_fp16_have_their_own_differences(desk: Desk) -> None:
    half = weights(100_000, "f2")
    header = b'{"w":{"dtype":"BF16","shape":[100000],"data_offsets":[0,200000]}}'

    def brain(array: Any) -> bytes:
        data: bytes = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        return len(header).to_bytes(8, "little") + header + data

    old = {"model/m/h.safetensors": saved(w=half), "model/m/b.safetensors": brain(A)}
    new = {"model/m/h.safetensors": saved(w=moved(half)), "model/m/b.safetensors": brain(moved(A))}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert made.bytes_of(Codec.XOR_BF16) > 190_000
    assert made.bytes_of(Codec.XOR_FP16) > 190_000


def test_a_tensor_of_another_type_or_length_is_no_base(desk: Desk) -> None:
    old = {"model/m/a.safetensors": saved(a=A, b=weights(200_000, "f2"))}
    new = {"model/m/a.safetensors": saved(a=weights(50_000), b=weights(100_000))}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert made.manifest.bases == ()


def test_a_changed_runtime_file_is_a_patch(desk: Desk) -> None:
    new = {"runtime/r/lib.so": edited(OLD["runtime/r/lib.so"], 1000, 150_000)}
    made, full = desk.build(new, desk.old(OLD)), desk.build(new)
    assert made.files == new
    assert made.codecs == Counter({Codec.PATCH: len(new["runtime/r/lib.so"])})
    assert made.stored < full.stored * 0.1


def test_a_changed_file_without_tensors_is_a_patch_too(desk: Desk) -> None:
    old = {"model/m/tokenizer.json": library(3)}
    new = {"model/m/tokenizer.json": edited(library(3), 70_000)}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert made.bytes_of(Codec.PATCH) == len(new["model/m/tokenizer.json"])


def test_a_library_with_another_version_in_its_name_is_a_patch(desk: Desk) -> None:
    old = {"runtime/r/libonnx.so.1.20.1": library(1), "runtime/r/libother.so.1": library(2)}
    new = {"runtime/r/libonnx.so.1.21.0": edited(library(1), 5000), "runtime/r/libother.so.2": edited(library(2), 9)}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert made.bytes_of(Codec.PATCH) == sum(map(len, new.values()))


def test_a_runtime_that_has_nothing_to_do_with_the_base_is_packed_as_ever(desk: Desk) -> None:
    new = {"runtime/r/lib.so": library(99)}
    made, full = desk.build(new, desk.old(OLD)), desk.build(new)
    assert made.files == new
    assert made.manifest.bases == ()
    assert (made.codecs, made.stored) == (full.codecs, full.stored)


def test_files_of_a_runtime_that_repeat_each_other_stay_together_where_that_is_smaller(desk: Desk) -> None:
    """Each alone would gain by its patch, all together by each other."""
    shared = library(5)
    old = {f"runtime/r/{number}": library(number, 10_000) + bytes(80_000) for number in range(10, 16)}
    new = {path: shared + data[:5000] for path, data in old.items()}
    made, full = desk.build(new, desk.old(old)), desk.build(new)
    assert made.files == new
    assert made.stored <= full.stored
    assert made.codecs[Codec.PATCH] == 0


def test_large_files_are_patched_around_the_same_place(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 64 << 10)
    monkeypatch.setattr(module, "_BEFORE", 32 << 10)
    monkeypatch.setattr(module, "PREFIX", 128 << 10)
    data = np.random.default_rng(1).bytes(700_000)
    old, new = {"runtime/r/lib.so": data}, {"runtime/r/lib.so": data[:300_000] + b"more" + data[300_000:]}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert made.stored < 20_000


def test_a_base_that_gives_nothing_is_none(desk: Desk) -> None:
    new = {"model/m/z.safetensors": saved(z=weights(30_000)), "model/m/readme": b"words"}
    made = desk.build(new, desk.old(OLD))
    assert made.manifest.bases == ()
    assert made.stored == desk.build(new).stored


def test_several_bases_are_numbered_in_order(desk: Desk) -> None:
    first, second = (
        {"model/m/a.safetensors": saved(a=A)},
        {"model/m/b.safetensors": saved(b=B), "runtime/r/x": b"x" * 9},
    )
    new = {"model/m/c.safetensors": saved(x=A, y=moved(B), z=C, b=moved(B)), "runtime/r/x": b"x" * 9}
    made = desk.build(new, desk.old(first, "1.0"), desk.old(second, "2.0"))
    assert made.files == new
    assert [base.version for base in made.manifest.bases] == ["1.0", "2.0"]


def test_bytes_that_two_bases_have_are_listed_once(desk: Desk) -> None:
    new = {**OLD, "model/m/a.safetensors": saved(a=moved(A), b=B)}
    made = desk.build(new, desk.old(OLD, "1.0"), desk.old(OLD, "1.0.1"))
    assert made.files == new
    assert [base.version for base in made.manifest.bases] == ["1.0"]


def test_equal_new_files_and_equal_old_ones(desk: Desk) -> None:
    twice = saved(a=moved(A))
    new = {"model/m/1.safetensors": twice, "model/m/2.safetensors": twice, "model/m/3.safetensors": saved(a=A)}
    old = {"model/m/1.safetensors": saved(a=A), "model/n/1.safetensors": saved(a=A)}
    made = desk.build(new, desk.old(old))
    assert made.files == new
    assert len(made.manifest.files) == 1


def test_small_volumes(desk: Desk) -> None:
    tensors = {f"w{number}": weights(200_000) for number in range(8)}
    new = {"model/m/a.safetensors": saved(**{name: moved(array, 0.3) for name, array in tensors.items()})}
    made = desk.build(new, desk.old({"model/m/a.safetensors": saved(**tensors)}), volume_size=2 << 20)
    assert made.files == new
    assert len(made.manifest.volumes) > 1


def test_a_delta_of_nearly_nothing_needs_few_volumes(desk: Desk) -> None:
    tensors = {f"w{number:03}": weights(17_000) for number in range(400)}
    old = {"model/m/a.safetensors": saved(**tensors)}
    new = {"model/m/a.safetensors": saved(**tensors, more=weights(100))}
    made = desk.build(new, desk.old(old), volume_size=2 << 20)
    assert made.files == new
    assert made.bytes_of(Codec.BASE) >= 400 * 68_000
    assert len(made.manifest.volumes) == 2  # a table of 129 slots came first


class TestBytesOfTheBase:
    def test_changed_ones_are_refused(self, desk: Desk, tmp_path: Path) -> None:
        old = desk.old(OLD)
        (place,) = tmp_path.glob(f"old-*/{Digest.of(OLD['model/m/a.safetensors']).hex}")
        place.write_bytes(place.read_bytes()[:-1] + b"!")
        with pytest.raises(IntegrityError, match=r"a\.safetensors of the base is not what was packed") as caught:
            desk.build({"model/m/a.safetensors": saved(a=moved(A))}, old)
        assert "--keep" in caught.value.hint

    def test_shorter_ones_are_refused(self, desk: Desk, tmp_path: Path) -> None:
        old = desk.old(OLD)
        (place,) = tmp_path.glob(f"old-*/{Digest.of(OLD['runtime/r/lib.so']).hex}")
        place.write_bytes(place.read_bytes()[:-1])
        with pytest.raises(IntegrityError, match=r"lib\.so of the base"):
            desk.build({"runtime/r/lib.so": library(8)}, old)

    def test_missing_ones_are_refused(self, desk: Desk) -> None:
        def gone() -> int:
            raise NotFoundError("gone")

        info = FileInfo(Digest.of(b"x"), 100_000)
        old = OldRelease(Digest.of(b"1"), "tool", "1", (Old(("runtime/r/lib.so",), info, gone),))
        with pytest.raises(NotFoundError):
            desk.build({"runtime/r/lib.so": library(8)}, old)

    def test_those_that_are_not_needed_are_not_looked_at(self, desk: Desk) -> None:
        new = {**OLD, "model/m/config.json": b"{}" * 60}
        made = desk.build(new, desk.old(OLD))
        assert made.files == new
        assert desk.opened == Counter()

    def test_those_that_change_while_it_is_packed_are_seen(self, desk: Desk, tmp_path: Path) -> None:
        old = desk.old(OLD)
        sources = [source("model/m/a.safetensors", saved(a=moved(A)))]
        news = scan(sources, ["model/m/a.safetensors"], set(), SILENT)
        found = Library([old], news, SILENT)
        (place,) = tmp_path.glob(f"old-*/{Digest.of(OLD['model/m/a.safetensors']).hex}")
        os.utime(place, ns=(1, 1))
        made = Delta(news, found, volume_size=VOLUME_SIZE)
        with pytest.raises(IntegrityError, match="while it was in use"):
            made.check()
        found.close()


class TestNewFiles:
    def test_one_that_is_not_what_its_record_says_is_refused_although_a_base_has_that(self) -> None:
        data = b"x" * 100
        wrong = Source("a", 100, lambda: io.BytesIO(data), digest=Digest.of(b"y" * 100))
        with pytest.raises(IntegrityError, match="not what it was announced as"):
            scan([wrong], ["runtime/r/a"], {100}, SILENT)

    def test_one_of_another_size_than_announced_is_refused(self) -> None:
        with pytest.raises(IntegrityError, match="expected 9 bytes"):
            scan([Source("a", 9, lambda: io.BytesIO(b"x" * 8))], ["a"], {9}, SILENT)

    def test_one_of_a_size_that_no_base_has_is_not_read(self) -> None:
        def never() -> io.BytesIO:
            raise AssertionError("it is read")

        (new,) = scan([Source("a", 9, never)], ["a"], {8}, SILENT)
        assert new.marks is None


def ranges() -> st.SearchStrategy[tuple[bytes, list[tuple[int, int]]]]:
    return st.binary(max_size=400).flatmap(
        lambda data: st.tuples(
            st.just(data),
            st.lists(st.integers(0, len(data)), max_size=8, unique=True).map(
                lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
            ),
        )
    )


@given(ranges(), st.integers(1, 50))
def test_digests_of_ranges_do_not_depend_on_blocks(found: tuple[bytes, list[tuple[int, int]]], block: int) -> None:
    data, places = found
    tensors = [Tensor(f"t{number}", *place, "other") for number, place in enumerate(places)]
    blocks = (data[at : at + block] for at in range(0, len(data), block))
    marks = module._mark(blocks, tensors, range(len(tensors)))
    assert marks.digest == Digest.of(data)
    assert marks.tensors == {
        number: hashlib.sha256(data[start:stop]).digest() for number, (start, stop) in enumerate(places)
    }


def test_counterparts_are_exact_or_the_only_ones_with_other_numbers() -> None:
    def release(*paths: str) -> OldRelease:
        info = [FileInfo(Digest.of(path.encode()), 1) for path in paths]
        return OldRelease(
            Digest.of(b""), "t", "1", tuple(Old((path,), file) for path, file in zip(paths, info, strict=True))
        )

    found = Counterparts([release("lib.so.1.2", "a1", "a2", "b"), release("b", "c3")])
    for path, expected in {
        "lib.so.2.3": "lib.so.1.2",
        "lib.so.1.2": "lib.so.1.2",
        "a1": "a1",
        "a3": None,
        "c9": "c3",
        "d": None,
        "lib.so.1": None,
    }.items():
        old = found.of(path)
        assert (old and old.paths[0]) == expected


PIECES = [bytes(30_000), library(9, 70_000), library(4, 66_000), b"", b"x" * 100]
TENSORS = [
    np.random.default_rng(seed).normal(0, 0.02, size).astype(kind)
    for seed, (size, kind) in enumerate(
        [(20_000, "f4"), (20_000, "f4"), (40_000, "f2"), (300_000, "f4"), (100, "f4"), (9000, "f2")]
    )
]
SCALES = [1, 1, 1.001, -1]
Recipe = dict[str, dict[str, tuple[int, int]] | list[int]]


def pieces(*names: str) -> st.SearchStrategy[Recipe]:
    found = st.lists(st.integers(0, len(PIECES) - 1), max_size=3)
    return st.dictionaries(st.sampled_from(names), found, max_size=3)


def tensors() -> st.SearchStrategy[Recipe]:
    found = st.tuples(st.integers(0, len(TENSORS) - 1), st.integers(0, len(SCALES) - 1))
    files = st.sampled_from(["model/m/m.safetensors", "model/m/n.safetensors"])
    return st.dictionaries(files, st.dictionaries(st.sampled_from("xyzw"), found, max_size=4), max_size=2)


def recipes() -> st.SearchStrategy[Recipe]:
    """Draw what a release is made of: files that repeat each other, tensors that are alike or the same."""
    runtimes = pieces("runtime/r/a", "runtime/r/b", "runtime/r/c1", "runtime/r/c2")
    return st.builds(lambda *parts: {**parts[0], **parts[1], **parts[2]}, runtimes, tensors(), pieces("model/m/t.json"))


def cooked(recipe: Recipe) -> dict[str, bytes]:
    files = {}
    for path, parts in recipe.items():
        if isinstance(parts, list):
            files[path] = b"".join(PIECES[number] for number in parts)
        else:
            arrays = {name: TENSORS[number] for name, (number, _) in parts.items()}
            scaled = {name: (array * SCALES[parts[name][1]]).astype(array.dtype) for name, array in arrays.items()}
            files[path] = saved(**scaled)
    return files


@settings(max_examples=40)
@given(recipes(), st.lists(recipes(), min_size=1, max_size=2))
def test_a_delta_applied_to_its_bases_is_the_release_and_is_not_larger(
    tmp_path_factory: pytest.TempPathFactory, new: Recipe, olds: list[Recipe]
) -> None:
    desk, files = Desk(tmp_path_factory.mktemp("desk")), cooked(new)
    made = desk.build(files, *(desk.old(cooked(old), f"1.{number}") for number, old in enumerate(olds)))
    assert made.files == files
    # But for what a neighbour that is left out had taught the compressor: files of runtimes share frames.
    assert made.stored <= desk.build(files).stored * 1.001 + 64
