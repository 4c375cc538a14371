import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.transport.galois import parity_of

from airpack.errors import InputError, IntegrityError, StorageError
from airpack.formats.package import GROUP, PackageManifest, parity_size
from airpack.formats.volume import HEADER, ROW
from airpack.transport import parity
from airpack.transport.parity import Code, group_sizes, largest_data, slice_size
from airpack.transport.writer import PackWriter
from airpack.types import Digest, Limits

MIB = 1 << 20
Package = tuple[PackageManifest, Digest, Path]
Make = Callable[..., Package]


def noise(count: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(count)


# --- arithmetic -------------------------------------------------------------------------------------------------------


@given(st.integers(1, Limits.VOLUMES), st.integers(1, parity.MOST))
def test_groups_are_few_even_and_cover_every_volume(volumes: int, spare: int) -> None:
    sizes = group_sizes(volumes, spare)
    assert sum(sizes) == volumes
    assert max(sizes) + spare <= GROUP
    assert max(sizes) - min(sizes) <= 1
    assert (len(sizes) - 1) * (GROUP - spare) < volumes


def test_what_fits_in_one_group_is_one() -> None:
    assert group_sizes(255, 1) == [255]
    assert group_sizes(256, 1) == [128, 128]
    assert group_sizes(0, 1) == []


@given(
    st.integers(2 * MIB, Limits.VOLUME)
    | st.builds(lambda rows, rest: 128 + rows * (MIB + 64) + rest, st.integers(2, 99), st.integers(-70, 70))
)
def test_parity_volumes_are_no_longer_than_volumes_may_be(volume_size: int) -> None:
    largest = largest_data(volume_size)
    assert parity_size(largest - HEADER) <= volume_size < parity_size(largest + 1 - HEADER)


def test_slices_divide_a_row_and_fit_in_memory_together() -> None:
    for shares in range(2, GROUP + 1):
        size = slice_size(shares)
        assert ROW % size == 0
        assert size * shares <= 4 * MIB


@pytest.mark.parametrize(("data", "spare"), [(1, 1), (2, 1), (3, 2), (5, 5), (17, 3), (100, 1)])
def test_the_code_is_the_one_of_the_specification(data: int, spare: int) -> None:
    slices = [noise(64, number) for number in range(data)]
    assert Code(data, spare).encode(slices) == parity_of(slices, spare)


@given(st.data())
def test_any_k_shares_give_the_others(data: st.DataObject) -> None:
    k, spare = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    code = Code(k, spare)
    slices = [noise(40, number) for number in range(k)]
    shares = dict(enumerate([*slices, *code.encode(slices)]))
    kept = data.draw(st.permutations(range(k + spare)))[:k]
    for wanted in range(k):
        assert code.decode({number: shares[number] for number in kept}, wanted) == slices[wanted]


def test_the_largest_group_is_rebuilt_from_its_parity() -> None:
    code = Code(128, 128)
    slices = [noise(16, number) for number in range(128)]
    spare = code.encode(slices)
    assert code.decode({128 + number: share for number, share in enumerate(spare)}, 127) == slices[127]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_parity_volumes_are_as_the_specification_says(pack: Make) -> None:
    manifest, payload, folder = pack(noise(3 * MIB), noise(MIB + 5, 1), b"small", parity=2)

    (group,) = manifest.parity
    assert [info.name for info in group.volumes] == ["pack.p01.airvol", "pack.p02.airvol"]
    covered = [(folder / info.name).read_bytes()[HEADER:] for info in manifest.volumes]
    assert group.length == max(map(len, covered))
    assert group.rows == 2  # the last one shorter
    for position, (info, expected) in enumerate(zip(group.volumes, parity_of(covered, 2), strict=True)):
        data = (folder / info.name).read_bytes()
        digests = b"".join(hashlib.sha256(expected[at : at + ROW]).digest() for at in range(0, len(expected), ROW))
        assert data == manifest.parity_header(payload, position).emit() + digests + expected + digests
        assert (len(data), Digest.of(digests)) == (info.size, info.table)


def test_several_groups_are_numbered_through(pack: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "GROUP", 3)

    manifest, payload, folder = pack(noise(5 * MIB), parity=1)

    assert [(group.first, group.count) for group in manifest.parity] == [(0, 1), (1, 2), (3, 2)]
    names = [info.name for group in manifest.parity for info in group.volumes]
    assert names == ["pack.p01.airvol", "pack.p02.airvol", "pack.p03.airvol"]
    for position, name in enumerate(names):
        assert (folder / name).read_bytes()[:HEADER] == manifest.parity_header(payload, position).emit()


def test_every_file_stays_within_the_volume_size(pack: Make) -> None:
    manifest, _, folder = pack(*(noise(900_000, seed) for seed in range(8)), volume_size=2 * MIB + 77, parity=1)
    assert len(manifest.volumes) > 1
    assert max(path.stat().st_size for path in folder.iterdir()) <= 2 * MIB + 77


def test_without_parity_the_manifest_has_no_word_of_it(pack: Make) -> None:
    manifest, _, folder = pack(noise(100))
    assert manifest.parity == ()
    assert b"parity" not in manifest.emit()
    assert sorted(path.name for path in folder.iterdir()) == ["pack.0001.airvol"]


def test_nothing_stored_has_no_parity(pack: Make) -> None:
    manifest, _, folder = pack(b"", parity=3)
    assert manifest.parity == ()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("at", [HEADER + 3, HEADER + 64 * 64 + 7])
def test_a_disk_that_changes_what_was_written_ends_the_build(
    at: int, pack: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.preadv

    def bad(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = plain(descriptor, buffers, offset)
        if offset <= at < offset + count:
            buffers[0][at - offset] ^= 1
        return count

    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(IntegrityError, match="is not what was written") as caught:
        pack(noise(3 * MIB), parity=1)
    assert "another disk" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_a_table_that_reads_otherwise_the_second_time_ends_the_build(
    pack: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, reads = os.preadv, []

    def bad(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = plain(descriptor, buffers, offset)
        if offset == HEADER and len(buffers[0]) <= 64 * 64:  # the entries, not the bytes that become parity
            reads.append(offset)
            buffers[0][0] ^= 1
        return count

    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(IntegrityError, match="is not what was written"):
        pack(noise(3 * MIB), parity=1)
    assert reads


@pytest.mark.parametrize("failure", ["error", "end"])
def test_a_disk_that_fails_under_the_second_read_ends_the_build(
    failure: str, pack: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(*_: Any) -> int:
        if failure == "end":
            return 0
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(StorageError if failure == "error" else IntegrityError):
        pack(noise(100), parity=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_parity_that_cannot_be_published_takes_the_volumes_back(
    pack: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.rename

    def bad(source: Any, target: Any) -> None:
        if ".p02." in str(target):
            raise OSError(5, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "rename", bad)
    with pytest.raises(StorageError):
        pack(noise(3 * MIB), parity=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_parity_volumes_of_that_name_are_never_replaced(pack: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pack.p01.airvol").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already"):
        pack(noise(100))
    assert (tmp_path / "out" / "pack.p01.airvol").read_bytes() == b"mine"


@pytest.mark.parametrize("count", [-1, parity.MOST + 1])
def test_a_number_of_parity_volumes_has_bounds(count: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parity must be from 0 to 128"):
        PackWriter(tmp_path / "out", "pack", parity_volumes=count)


def test_progress_counts_every_byte_of_the_volumes(source: Any, tmp_path: Path, recorder: Any) -> None:
    with PackWriter(tmp_path, "pack", volume_size=2 * MIB, parity_volumes=1, reporter=recorder) as writer:
        writer.pack([source("a", noise(3 * MIB + 1))])
        total = sum(info.size - HEADER for info in writer.close()[1])
    assert recorder.tasks[-1] == ("parity", total)
    assert recorder.done == total
