"""Media that lost something: with parity over their volumes, or a repair beside them, good and hostile.

CONTROLS      what a site must import although something is damaged or missing
attacks.ATTACKS      parity and repair volumes that help nobody, and manifests that describe none that could be
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tests.vectors.attacks import Kit, Made, Make, Refusal, attack, json_like
from tests.vectors.forge import Package

from airpack.formats import dsse
from airpack.formats.package import ParityGroup, ParityInfo, parity_size
from airpack.formats.repair_volume import bitmap_size, emit_bitmap, repair_header
from airpack.formats.volume import ENTRY, HEADER, read_places
from airpack.transport.parity import Code
from airpack.types import Digest

BASE: Final = "parity_ok"
_SPARE: Final = 2
Files = dict[str, bytes]


def with_parity(package: Package) -> Package:
    """Return the same package with parity volumes over its volumes, all in one group."""
    bodies = [package.volumes[info.name][HEADER:] for info in package.manifest.volumes]
    length = max(map(len, bodies))
    parts = Code(len(bodies), _SPARE).encode([body.ljust(length, b"\0") for body in bodies])
    tables = [Digest.of(part) for part in parts]  # shorter than a row
    infos = tuple(
        ParityInfo(f"{package.name}.p{number:02d}.airvol", parity_size(length), Digest.of(table.raw))
        for number, table in enumerate(tables, 1)
    )
    manifest = replace(package.manifest, parity=(ParityGroup(0, len(bodies), length, infos),))
    signed, payload = package.resigned(manifest, bodies), Digest.of(manifest.emit())
    spare = {
        info.name: manifest.parity_header(payload, position).emit() + table.raw + part + table.raw
        for position, (info, table, part) in enumerate(zip(infos, tables, parts, strict=True))
    }
    return replace(signed, volumes={**signed.volumes, **spare})


def repair_of(package: Package, position: int, *numbers: int) -> bytes:
    """Return a repair volume with chunks of the volume at `position`."""
    manifest = package.manifest
    info = manifest.volumes[position]
    data = package.volumes[info.name]
    table = data[HEADER : HEADER + info.slots * ENTRY]
    at, chunks = HEADER + len(table), []
    for number, (_, stored) in enumerate(read_places(table[: info.entries * ENTRY]), 1):
        chunks += [data[at : at + stored]] if number in numbers else []
        at += stored
    body = b"".join(chunks)
    payload = Digest.of(dsse.parse(package.head.package).payload)
    header = repair_header(manifest.header(payload, position), len(body))
    return header.emit() + table + emit_bitmap(numbers, info.entries) + body


def changed(data: bytes, at: int, value: bytes | None = None) -> bytes:
    """Return `data` with other bytes at `at`; by default one that is flipped."""
    at %= len(data)
    value = bytes([data[at] ^ 1]) if value is None else value
    return data[:at] + value + data[at + len(value) :]


def _lost(*numbers: int) -> Callable[[Package], Files]:
    """Return what takes volumes away, counted from 0, parity volumes last."""

    def make(package: Package) -> Files:
        names = {package.manifest.names[number] for number in numbers}
        return {name: data for name, data in package.files().items() if name not in names}

    return make


def _flipped(*places: tuple[int, int]) -> Callable[[Package], Files]:
    """Return what flips bytes: the volume's number, and the place in its file."""

    def make(package: Package) -> Files:
        files = package.files()
        for number, at in places:
            name = package.manifest.names[number]
            files[name] = changed(files[name], at)
        return files

    return make


def _repaired(package: Package) -> Files:
    """Return a medium with two damaged volumes, a chunk in the one and the table in the other, and their repair."""
    files = _flipped((0, -1), (1, HEADER))(package)
    first, second = (info.name.removesuffix(".airvol") for info in package.manifest.volumes[:2])
    last = package.manifest.volumes[0].entries
    return {**files, f"{first}.01.airfix": repair_of(package, 0, last), f"{second}.07.airfix": repair_of(package, 1)}


def _replaced(package: Package) -> Files:
    """Return a medium without a volume, all of which repair volumes bring."""
    files = _lost(1)(package)
    stem = package.manifest.volumes[1].name.removesuffix(".airvol")
    for number in range(1, package.manifest.volumes[1].entries + 1):
        files[f"{stem}.{number:02d}.airfix"] = repair_of(package, 1, number)
    return files


CONTROLS: Final[Mapping[str, tuple[str, str | None, Callable[[Package], Files]]]] = {
    BASE: ("the same four volumes with two parity volumes", None, Package.files),
    "parity_lost_ok": ("two volumes are lost, and rebuilt", BASE, _lost(0, 2)),
    "parity_mixed_ok": ("a volume and a parity volume are lost, and rebuilt", BASE, _lost(3, 4)),
    "parity_damaged_ok": ("a table and a chunk are damaged, and rebuilt", BASE, _flipped((1, HEADER + 5), (2, -1))),
    "parity_header_ok": ("headers are damaged, and derived", BASE, _flipped((1, 100), (4, 127), (5, 70))),
    "parity_digests_ok": (
        "the digests of a parity volume are damaged in one place of two",
        BASE,
        lambda package: {**_lost(0, 1)(package), **_digests_damaged(package)},
    ),
    "repair_ok": ("a damaged chunk and a damaged table, and their repair volumes", "many_ok", _repaired),
    "repair_lost_ok": ("a lost volume, and repair volumes of all its chunks", "many_ok", _replaced),
}


def _digests_damaged(package: Package) -> Files:
    names = package.manifest.names[-_SPARE:]
    return {name: changed(package.volumes[name], at) for name, at in zip(names, (HEADER, -1), strict=True)}


# -- attacks ----------------------------------------------------------------------------------------------------------

MISSING: Final = Refusal("volumes", "partial")
DAMAGED: Final = Refusal("volumes", "damaged")
UNVERIFIED: Final = Refusal("volumes", "integrity")


def add_parity() -> None:
    """Parity volumes that rebuild nothing."""

    def media(change: Callable[[Package], Files]) -> Make:
        return lambda kit: change(kit.package(BASE))

    def liar(package: Package) -> Files:
        files = _lost(0)(package)
        for name in package.manifest.names[-_SPARE:]:
            data = files[name]
            files[name] = data[: HEADER + 32] + bytes(len(data) - HEADER - 64) + data[-32:]
        return files

    def foreign(package: Package) -> Files:
        files = _lost(0)(package)
        for name in package.manifest.names[-_SPARE:]:
            files[name] = changed(files[name], 8, bytes(32))
        return files

    def volume_as_parity(package: Package) -> Files:
        names = package.manifest.names
        return {**_lost(0)(package), names[-1]: package.volumes[names[1]], names[-2]: package.volumes[names[2]]}

    def scratched(package: Package) -> Files:
        files = package.files()
        for name in package.manifest.names[:3]:
            files[name] = files[name][:HEADER] + bytes(len(files[name]) - HEADER)
        return files

    table: list[tuple[str, str, Refusal, Callable[[Package], Files]]] = [
        ("lost_three", "three volumes are lost, and two can be rebuilt", MISSING, _lost(0, 1, 2)),
        ("lost_spare", "a volume and both parity volumes are lost", MISSING, _lost(1, 4, 5)),
        ("liar", "parity of zeros", MISSING, liar),
        ("foreign", "parity volumes of another package", MISSING, foreign),
        ("volume", "volumes under the names of parity volumes", MISSING, volume_as_parity),
    ]
    for name, text, refusal, change in table:
        attack(f"parity_{name}", f"parity: {text}", refusal, media(change), base=BASE)
    attack(
        "parity_damaged_three",
        "parity: three volumes are damaged in one row, and two can be rebuilt",
        DAMAGED,
        media(scratched),
        base=BASE,
        verify=UNVERIFIED,
    )


def add_manifests() -> None:
    """Manifests that are signed by the packer, and whose parity cannot be."""

    def edit(change: Callable[[list[Any]], object]) -> Make:
        def make(kit: Kit) -> Made:
            package = kit.package(BASE)
            document = json.loads(package.manifest.emit())
            change(document["parity"])
            return kit.forger.packed(package.head, json_like(document))

        return make

    def group(**change: Any) -> Make:
        return edit(lambda groups: groups[0].update(change))

    def volume(**change: Any) -> Make:
        return edit(lambda groups: groups[0]["volumes"][0].update(change))

    many = [{"name": f"x{number}.airvol", "size": 1, "table": f"sha256:{'0' * 64}"} for number in range(253)]
    table: list[tuple[str, str, Make]] = [
        ("empty", "a list of no groups", edit(lambda groups: groups.clear())),
        ("none_covered", "a group of no volumes", group(data=0)),
        ("less_covered", "a volume in no group", group(data=3)),
        ("more_covered", "a group of more volumes than there are", group(data=5)),
        ("covered_2_32", "a group whose number wraps at 32 bits", group(data=(1 << 32) + 4)),
        ("twice_covered", "volumes in two groups", edit(lambda groups: groups.append(groups[0]))),
        ("no_spare", "a group without parity volumes", group(volumes=[])),
        ("group_257", "a group of 257 volumes", group(volumes=many)),
        ("size_other", "a parity volume of another size", volume(size=5000)),
        ("size_2_53", "a size that a double does not hold", volume(size=(1 << 53) + 1)),
        ("name_escape", "a name that leads out", volume(name="../p.airvol")),
        ("name_of_volume", "a parity volume under a volume's name", volume(name="many-1.0.0.0001.airvol")),
        ("table_path", "a digest that is a path", volume(table="sha256:../../../../etc/passwd")),
        ("unknown_key", "an unknown field", group(more=1)),
    ]
    for name, text, make in table:
        attack(f"parity_manifest_{name}", f"parity: {text}", Refusal("package"), make, base=BASE)


def add_repairs() -> None:
    """Repair volumes that repair nothing, beside a volume whose last chunk is damaged."""

    def beside(change: Callable[[Package, bytes], bytes], name: str = "many-1.0.0.0001.01.airfix") -> Make:
        def make(kit: Kit) -> Files:
            package = kit.package()
            good = repair_of(package, 0, package.manifest.volumes[0].entries)
            return {**_flipped((0, -1))(package), name: change(package, good)}

        return make

    def bitmap(value: bytes) -> Callable[[Package, bytes], bytes]:
        return lambda package, good: changed(good, HEADER + package.manifest.volumes[0].slots * ENTRY, value)

    def of_table(package: Package, good: bytes) -> bytes:
        """Sign nothing, and swap the digest in the table for that of other bytes."""
        info = package.manifest.volumes[0]
        first = HEADER + info.slots * ENTRY + bitmap_size(info.entries)
        other = bytes(len(good) - first)
        place = HEADER + (info.entries - 1) * ENTRY
        return changed(good[:first], place, Digest.of(other).raw) + other

    table: list[tuple[str, str, Make]] = [
        ("chunk", "other bytes in place of a chunk", beside(lambda _, good: changed(good, -1))),
        ("table", "a chunk that fits its own table", beside(of_table)),
        ("package", "of another package", beside(lambda _, good: changed(good, 8, bytes(32)))),
        ("index", "of another volume", beside(lambda _, good: changed(good, 40, b"\2"))),
        ("index_2_32", "of a volume far beyond", beside(lambda _, good: changed(good, 40, b"\xff" * 8))),
        ("entries", "fewer chunks than the volume has", beside(lambda _, good: changed(good, 48, b"\1"))),
        ("data_2_64", "more bytes than can be", beside(lambda _, good: changed(good, 56, b"\xff" * 8))),
        ("padding", "bytes in the header's padding", beside(lambda _, good: changed(good, 127, b"!"))),
        ("bits_beyond", "chunks marked that there are not", beside(bitmap(b"\xff"))),
        ("no_bits", "no chunk marked, and one brought", beside(bitmap(b"\0"))),
        ("short", "cut short", beside(lambda _, good: good[:-1])),
        ("trailing", "a byte more", beside(lambda _, good: good + b"!")),
        ("empty", "no bytes at all", beside(lambda _, _good: b"")),
        ("volume", "the volume itself", beside(lambda package, _: package.volumes[package.manifest.names[0]])),
        ("other_name", "under a name that the package does not have", beside(lambda _, good: good, "x.01.airfix")),
    ]
    for name, text, make in table:
        attack(f"repair_{name}", f"repair: {text}", DAMAGED, make, verify=UNVERIFIED, says="does not have its signed")


add_parity()
add_manifests()
add_repairs()
