import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from airpack.formats.package import PackageManifest
from airpack.formats.volume import HEADER, ROW, ROW_DIGEST
from airpack.transport.reader import open_media
from airpack.transport.spare import SpareState, check_spare
from airpack.types import Digest, Silent

Package = tuple[PackageManifest, Digest, Path]
FILES = tuple(hashlib.shake_128(bytes([seed])).digest(900_000) for seed in range(6))


@pytest.fixture
def package(pack: Callable[..., Package]) -> Package:
    return pack(*FILES, parity=2)


def state(package: Package) -> SpareState:
    manifest, payload, folder = package
    with open_media(manifest, payload, [folder]) as media:
        return check_spare(media, Silent())


def damaged(package: Package, *places: int) -> Mapping[str, Sequence[tuple[int, int]]]:
    """Flip bytes of the first parity volume, and return what is said to be damaged."""
    path = package[2] / "pack.p01.airvol"
    data = bytearray(path.read_bytes())
    for at in places:
        data[at] ^= 1
    path.write_bytes(data)
    found = state(package)
    assert found.missing == ()
    return found.damaged


def test_parity_as_it_was_made(package: Package) -> None:
    assert state(package) == SpareState()


def test_missing_parity_is_named(package: Package) -> None:
    (package[2] / "pack.p02.airvol").unlink()
    assert state(package) == SpareState(missing=("pack.p02.airvol",))


def test_damaged_parity_is_named_with_its_place(package: Package) -> None:
    (group,) = package[0].parity
    digests = group.rows * ROW_DIGEST
    start = HEADER + digests
    size = group.volumes[0].size
    assert damaged(package, start + ROW + 1) == {"pack.p01.airvol": [(start + ROW, group.length - ROW)]}
    assert damaged(package, start + ROW + 1, start) == {"pack.p01.airvol": [(start, ROW)]}
    assert damaged(package, start, 100) == {"pack.p01.airvol": [(0, HEADER)]}
    assert damaged(package, 100, HEADER) == {"pack.p01.airvol": [(HEADER, digests)]}
    assert damaged(package, HEADER, size - 1) == {"pack.p01.airvol": [(size - digests, digests)]}
    assert damaged(package, HEADER) == {"pack.p01.airvol": [(0, size)]}  # nothing tells which rows are good


def test_progress_counts_the_rows(package: Package, recorder: Any) -> None:
    manifest, payload, folder = package
    (folder / "pack.p02.airvol").unlink()
    with open_media(manifest, payload, [folder]) as media:
        check_spare(media, recorder)
    assert recorder.tasks == [("parity", manifest.parity[0].length)]
    assert recorder.done == manifest.parity[0].length
