import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats import canonical
from airpack.formats.package import (
    Base,
    FileInfo,
    PackageManifest,
    ParityGroup,
    ParityInfo,
    VolumeInfo,
    is_newer,
    parity_size,
    read_needs,
)
from airpack.formats.volume import ENTRY, HEADER, PARITY_MAGIC, Header
from airpack.types import Digest, Limits

SCHEMA = json.loads((Path(__file__).parents[3] / "manifests/schemas/package.schema.json").read_text())
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
SMALL = PackageManifest(
    release=ONE,
    product="encoder",
    version="1.2.0",
    needs_airpack="0.1.0",
    files=(FileInfo(ONE, 3), FileInfo(TWO, 0)),
    volumes=(VolumeInfo("encoder-1.2.0.0001.airvol", 128 + 2 * 64 + 3, 1, 2, TWO),),
)

digests = st.binary(min_size=32, max_size=32).map(Digest.from_raw)


@st.composite
def manifests(draw: st.DrawFn) -> PackageManifest:
    entries = draw(st.lists(st.integers(1, 50), max_size=4))
    total = draw(st.integers(sum(entries), sum(entries) * Limits.FRAME))
    volumes = []
    for number, used in enumerate(entries, 1):
        slots = used + draw(st.integers(0, 3))
        data = draw(st.integers(used, used * Limits.CHUNK))
        volumes.append(VolumeInfo(f"x.{number:04d}.airvol", 128 + 64 * slots + data, used, slots, draw(digests)))
    names = draw(st.lists(digests, unique=True, min_size=1, max_size=4))
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=len(names) - 1, max_size=len(names) - 1)))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]
    return PackageManifest(
        release=draw(digests),
        product=draw(st.from_regex(r"[a-z0-9]{2,9}([._-][a-z0-9]{1,9})?", fullmatch=True)),
        version=draw(st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{0,9}", fullmatch=True)),
        needs_airpack=".".join(str(number) for number in draw(st.tuples(*[st.integers(0, 999_999)] * 3))),
        files=tuple(FileInfo(name, size) for name, size in zip(names, sizes, strict=True)),
        volumes=tuple(volumes),
    )


@given(manifests())
def test_what_is_emitted_is_read_back(manifest: PackageManifest) -> None:
    data = manifest.emit()

    assert PackageManifest.parse(data) == manifest
    assert PackageManifest.parse(data).emit() == data
    jsonschema.validate(json.loads(data), SCHEMA)


def test_a_package_without_bytes_has_no_volumes() -> None:
    empty = replace(SMALL, files=(FileInfo(Digest.of(b""), 0),), volumes=())

    assert PackageManifest.parse(empty.emit()) == empty
    with pytest.raises(IntegrityError, match="cannot hold exactly 0 bytes"):
        PackageManifest.parse(replace(empty, volumes=SMALL.volumes).emit())


def test_bytes_without_volumes_are_refused() -> None:
    with pytest.raises(IntegrityError, match="0 chunks cannot hold exactly 3 bytes"):
        PackageManifest.parse(replace(SMALL, volumes=()).emit())


def _small(**changes: Any) -> bytes:
    document = json.loads(SMALL.emit())
    document.update(changes)
    return canonical.emit(document)


def _volume(**changes: Any) -> bytes:
    return _small(volumes=[json.loads(SMALL.emit())["volumes"][0] | changes])


def _file(data: bytes, size: int) -> dict[str, Any]:
    return {"digest": str(Digest.of(data)), "size": size}


def _base(**changes: Any) -> dict[str, Any]:
    """Return a base that a small package may have, with changes."""
    base = {"release": str(Digest.of(b"base")), "product": "encoder", "version": "0.9", "files": [_file(b"x", 1)]}
    return base | changes


def _parity(**changes: Any) -> dict[str, Any]:
    """Return the parity over the only volume of a small package, with changes of the group or of its volume."""
    info = {"name": "p.airvol", "size": parity_size(SMALL.volumes[0].size - HEADER), "table": str(ONE)}
    group = {"data": 1, "volumes": [info | {key: changes[key] for key in changes if key in {"name", "size", "extra"}}]}
    return group | {key: changes[key] for key in changes if key in {"data", "volumes"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_small(schema="airpack.package/2"), "schema is"),
        (_small(extra=1), "unknown key"),
        (_small(bases=[str(ONE)]), "not a table"),
        (_small(bases=[_base()] * 17), "'bases' has 17 items"),
        (_small(bases=[_base()] * 2), "listed twice"),
        (_small(bases=[_base(), _base(files=[_file(b"y", 1)])]), "is a base twice"),
        (_small(bases=[_base(release=str(SMALL.release))]), "its own base"),
        (_small(bases=[_base(files=[])]), "nothing is needed"),
        (_small(bases=[_base(files=[{"digest": str(ONE), "size": 3}])]), "listed twice"),
        (_small(bases=[_base(extra=1)]), "unknown key"),
        (_small(bases=[_base(product="X")]), "'product' is not well formed"),
        (_small(parity=[]), "parity is over 0 volumes of 1"),
        (_small(parity=[_parity(data=2)]), "1 parity volumes over 2 volumes"),
        (_small(parity=[_parity(), _parity()]), "from the 2th of 1"),
        (_small(parity=[_parity(volumes=[])]), "0 parity volumes over 1"),
        (_small(parity=[_parity(data=256)]), "'data' must be from 1 to 255"),
        (_small(parity=[_parity(size=1)]), "must have"),
        (_small(parity=[_parity(name=SMALL.volumes[0].name)]), "same name"),
        (_small(parity=[_parity(name="../x.airvol")]), "'name' is not well formed"),
        (_small(parity=[_parity(extra=1)]), "unknown key"),
        (_small(release="sha256:00"), "not a digest"),
        (_small(product="Encoder"), "'product' is not well formed"),
        (_small(product="a"), "'product' is not well formed"),
        (_small(product="a" * 64), "'product' is not well formed"),
        (_small(version="-1"), "'version' is not well formed"),
        (_small(version="1\n"), "'version' is not well formed"),
        (_small(needs_airpack="1.0"), "'needs_airpack' is not well formed"),
        (_small(needs_airpack="1.02.0"), "'needs_airpack' is not well formed"),
        (_small(needs_airpack="1.2.0rc1"), "'needs_airpack' is not well formed"),
        (_small(files=[{"digest": str(ONE), "size": 3}] * 2), "listed twice"),
        (_small(files=[{"digest": str(ONE), "size": -3}]), "'size' must be from 0"),
        (_small(files=[{"digest": str(ONE), "size": 3.5}]), "whole number"),
        (_small(files=[{"digest": str(ONE), "size": True}]), "whole number"),
        (_small(files=[{"digest": str(ONE), "size": 3, "name": "x"}]), "unknown key"),
        (_small(files=[{"digest": str(ONE), "size": Limits.FILE + 1}]), "'size' must be"),
        (_small(files=[{"digest": str(ONE), "size": Limits.FRAME + 1}]), "1 chunks cannot hold"),
        (_small(volumes=json.loads(SMALL.emit())["volumes"] * 2), "same name"),
        (_volume(name="../x.airvol"), "'name' is not well formed"),
        (_volume(name="x.airvol\n"), "'name' is not well formed"),
        (_volume(name="X.airvol"), "'name' is not well formed"),
        (_volume(name=".airvol"), "'name' is not well formed"),
        (_volume(name="a" * 101 + ".airvol"), "'name' is not well formed"),
        (_volume(size=128 + 128), "less than a byte for each chunk"),
        (_volume(size=100), "leave -156 for 1 chunks"),
        (_volume(size=128 + 128 + Limits.CHUNK + 1), "for 1 chunks"),
        (_volume(size=Limits.VOLUME + 1), "'size' must be"),
        (_volume(entries=0), "'entries' must be from 1"),
        (_volume(entries=3), "3 entries do not fit into 2 slots"),
        (_volume(slots=Limits.TABLE_ENTRIES + 1), "'slots' must be"),
        (_volume(table="sha256:" + "0" * 63), "not a digest"),
        (SMALL.emit() + b"\n", "not canonical"),
        (SMALL.emit()[:-1], "not strict JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_the_format_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        PackageManifest.parse(data)


def test_files_of_more_than_two_to_the_53_bytes_together_are_refused() -> None:
    files = tuple(FileInfo(Digest.of(bytes([number // 256, number % 256])), Limits.FILE) for number in range(512))

    with pytest.raises(IntegrityError, match="2\\*\\*53"):
        PackageManifest.parse(replace(SMALL, files=files).emit())


def test_a_package_for_a_newer_airpack_is_still_read() -> None:
    newer = replace(SMALL, needs_airpack="999.0.0")

    assert PackageManifest.parse(newer.emit()) == newer
    assert is_newer(newer.needs_airpack, "0.1.0")


def test_a_manifest_of_any_schema_says_which_airpack_it_needs() -> None:
    assert read_needs(SMALL.emit()) == "0.1.0"
    assert read_needs(b'{"needs_airpack":"2.0.0","schema":"airpack.package/9","unheard":"of"}') == "2.0.0"


@pytest.mark.parametrize(
    "data", [b"{}", b'{"needs_airpack":"2"}', b'{"needs_airpack":2}', b'{ "needs_airpack":"2.0.0"}']
)
def test_a_manifest_that_does_not_say_it_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_needs(data)


@pytest.mark.parametrize(
    ("needs", "have", "newer"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.1", "0.1.0", True),
        ("0.9.0", "0.10.0", False),
        ("1.0.0", "0.99.99", True),
        ("0.1.0", "0.1.0.dev1", False),
        ("0.2.0", "0.1.9rc1", True),
    ],
)
def test_versions_are_compared_by_number(needs: str, have: str, newer: bool) -> None:
    assert is_newer(needs, have) is newer


def test_a_version_without_three_numbers_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="three dotted numbers"):
        is_newer("1.0.0", "unknown")


def test_the_header_of_a_volume_follows_from_the_manifest() -> None:
    payload = Digest.of(SMALL.emit())

    assert SMALL.header(payload, 0) == Header(payload, index=1, count=1, entries=1, slots=2, data=3)


def test_totals_count_raw_and_stored_bytes() -> None:
    assert (SMALL.total, SMALL.stored) == (3, 128 + 128 + 3)


def test_the_largest_manifest_there_may_be_is_read() -> None:
    files = tuple(FileInfo(Digest.of(number.to_bytes(4, "big")), 100) for number in range(Limits.FILES))
    table = Digest.of(b"table")
    volumes = tuple(VolumeInfo(f"a.{number:04d}.airvol", 128 + 64 + 1, 1, 1, table) for number in range(Limits.VOLUMES))
    data = PackageManifest(Digest.of(b"release"), "tool", "1.0.0", "0.1.0", files, volumes).emit()
    assert PackageManifest.parse(data).emit() == data


def test_bases_and_parity_are_read_back() -> None:
    base = Base(Digest.of(b"base"), "encoder", "0.9", (FileInfo(Digest.of(b"x"), 7), FileInfo(Digest.of(b"y"), 0)))
    length = SMALL.volumes[0].size - HEADER
    parity = ParityGroup(0, 1, length, (ParityInfo("e.p01.airvol", parity_size(length), ONE),))
    manifest = replace(SMALL, bases=(base,), parity=(parity,))

    assert PackageManifest.parse(manifest.emit()) == manifest
    assert manifest.base_files == base.files
    assert manifest.names == (*SMALL.names, "e.p01.airvol")
    header = manifest.parity_header(ONE, 0)
    assert (header.magic, header.index, header.count, header.entries, header.data) == (PARITY_MAGIC, 1, 1, 1, length)


def test_only_a_package_with_bases_has_chunks_of_no_bytes() -> None:
    (volume,) = SMALL.volumes
    empty = replace(SMALL, volumes=(replace(volume, size=HEADER + volume.slots * ENTRY),))
    base = Base(Digest.of(b"base"), "encoder", "0.9", (FileInfo(Digest.of(b"x"), 7),))

    with pytest.raises(IntegrityError, match="less than a byte for each chunk"):
        PackageManifest.parse(empty.emit())
    assert PackageManifest.parse(replace(empty, bases=(base,)).emit()).volumes[0].data == 0
