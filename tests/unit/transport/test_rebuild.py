"""What parity rebuilds, on packages whose rows are 4 KiB instead of 1 MiB, so that damage of every kind is quick."""

import dataclasses
import hashlib
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from airpack.formats import volume as volumes
from airpack.formats.package import FileInfo, PackageManifest, ParityGroup, ParityInfo, VolumeInfo, parity_size
from airpack.formats.volume import ENTRY, HEADER, ROW_DIGEST, Chunk, Codec, Entry, emit_table, parse_table
from airpack.transport import parity, rebuild
from airpack.transport.files import read_into
from airpack.transport.parity import Code
from airpack.transport.rebuild import Parity
from airpack.transport.volumes import Media
from airpack.types import Digest

ROW = 4096


@pytest.fixture(autouse=True)
def small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (volumes, parity, rebuild):
        monkeypatch.setattr(module, "ROW", ROW)
    monkeypatch.setattr(rebuild, "_WINDOW", 2)
    monkeypatch.setattr(rebuild, "_UNITS", 3)


@dataclass
class Made:
    """A package of made-up volumes: names to bytes, and what is signed over them."""

    manifest: PackageManifest
    payload: Digest
    files: dict[str, bytearray]
    unreadable: set[tuple[str, int]] = field(default_factory=set)  # (name, row)

    @property
    def group(self) -> ParityGroup:
        return self.manifest.parity[0]

    @property
    def names(self) -> tuple[str, ...]:
        return self.manifest.names

    def place(self, number: int, row: int) -> tuple[int, int]:
        """Return where a row of a volume begins and ends in its file."""
        if number < self.group.count:
            base, length = HEADER, self.manifest.volumes[number].size - HEADER
        else:
            base, length = HEADER + self.group.rows * ROW_DIGEST, self.group.length
        return base + min(row * ROW, length), base + min((row + 1) * ROW, length)


def make(rng: random.Random, k: int, m: int, *, rows: int = 4, tables: int = 1) -> Made:
    """Return `k` volumes of up to `rows` rows behind tables of up to `tables` rows, and `m` parity volumes."""
    infos, bodies = [], []
    stream = 0
    for number in range(k):
        entries, chunks = [], []
        left = rng.randint(1, rows * ROW)
        while left > 0:
            data = rng.randbytes(min(rng.choice((1, 700, 2500, ROW)), left))
            entries.append(Entry(hashlib.sha256(data).digest(), stream, len(data), len(data), Codec.RAW))
            chunks.append(data)
            stream, left = stream + len(data), left - len(data)
            if rng.random() < 0.1:
                entries.append(Entry(bytes(32), stream, 0, 5, Codec.BASE, base=1))
                stream += 5
        slots = len(entries) + rng.randint(0, tables * ROW // ENTRY)
        table = emit_table(b"".join(entry.emit() for entry in entries), slots)
        body = table + b"".join(chunks)
        infos.append(
            VolumeInfo(f"p.{number + 1:04d}.airvol", HEADER + len(body), len(entries), slots, Digest.of(table))
        )
        bodies.append(body)
    length = max(map(len, bodies))
    spare = Code(k, m).encode([body.ljust(length, b"\0") for body in bodies])
    digests = [b"".join(hashlib.sha256(part[at : at + ROW]).digest() for at in range(0, length, ROW)) for part in spare]
    parts = tuple(
        ParityInfo(f"p.p{number:02d}.airvol", parity_size(length), Digest.of(table))
        for number, table in enumerate(digests, 1)
    )
    manifest = PackageManifest(
        Digest.of(b"release"),
        "p",
        "1",
        "0.1.0",
        (FileInfo(Digest.of(b""), stream),),
        tuple(infos),
        parity=(ParityGroup(0, k, length, parts),),
    )
    payload = Digest.of(b"payload")
    bodies += [table + part + table for table, part in zip(digests, spare, strict=True)]
    headers = [manifest.header(payload, position).emit() for position in range(k)]
    headers += [manifest.parity_header(payload, position).emit() for position in range(m)]
    files = {name: bytearray(header + body) for name, header, body in zip(manifest.names, headers, bodies, strict=True)}
    return Made(manifest, payload, files)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="airpack-test-"))
    yield path
    shutil.rmtree(path)


class Reader:
    """Reads all units of a package as it lies in a folder now."""

    def __init__(self, made: Made, original: Made, folder: Path, *more: Path) -> None:
        for name in made.names:
            path = folder / name
            path.unlink(missing_ok=True)
            if name in made.files:
                path.write_bytes(made.files[name])
        self.original = original
        self.media = Media(made.manifest, made.payload, [folder, *more])
        self.parity = Parity(self.media)
        self.media.rescues.append(self.parity)
        self.media.survey()
        self.lost: set[tuple[int, int]] = set()  # (position, number of the chunk; 0 for the table)

    def run(self) -> "Reader":
        with self.media:
            for position, info in enumerate(self.original.manifest.volumes):
                name = info.name
                found = self.media.table(position)
                table = bytes(self.original.files[name][HEADER : HEADER + info.slots * ENTRY])
                if found is None:
                    self.lost.add((position, 0))
                else:
                    assert found == table
                for chunk in chunks_of(table, info):
                    data = self.media.chunk(position, chunk)
                    if data is None:
                        self.lost.add((position, chunk.number))
                    else:
                        assert data == self.original.files[name][chunk.offset : chunk.offset + chunk.stored]
        return self


def chunks_of(table: bytes, info: VolumeInfo) -> list[Chunk]:
    parsed = parse_table(table, entries=info.entries, stored=info.data, bases=(5,), what="it")
    return [chunk for frame in parsed.frames() for chunk in frame.chunks if chunk.stored]


def copy_of(made: Made) -> Made:
    return Made(made.manifest, made.payload, {name: bytearray(data) for name, data in made.files.items()})


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """Return the set of bytes, by file name and offset, that cannot be read."""
    places: set[tuple[str, int]] = set()

    def read(descriptor: int, into: memoryview, offset: int) -> int:
        name = Path(f"/proc/self/fd/{descriptor}").resolve().name
        if any(name == bad and offset <= at < offset + len(into) for bad, at in places):
            raise OSError(5, "Input/output error")
        return read_into(descriptor, into, offset)

    monkeypatch.setattr("airpack.transport.volumes.read_into", read)
    return places


def strike(  # noqa: PLR0917 -- where, and how
    made: Made, rng: random.Random, number: int, row: int, how: str, broken: set[tuple[str, int]]
) -> None:
    """Damage one row of one volume."""
    start, stop = made.place(number, row)
    name = made.names[number]
    if start == stop or name not in made.files:
        return
    if how == "zero":
        made.files[name][start:stop] = bytes(stop - start)
    elif how == "unreadable":
        broken.add((name, rng.randrange(start, stop)))
    else:
        for _ in range({"flip": 1, "some": 5}[how]):
            made.files[name][rng.randrange(start, stop)] ^= rng.randint(1, 255)


# --- the law ----------------------------------------------------------------------------------------------------------

HOWS = ("flip", "some", "zero", "unreadable")
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@SLOW
@given(data=st.data())
def test_damage_of_at_most_n_volumes_in_each_row_is_undone(
    data: st.DataObject, folder: Path, broken: set[tuple[str, int]]
) -> None:
    rng = random.Random(data.draw(st.integers(0, 1 << 32), label="seed"))
    k, m = data.draw(st.integers(1, 8), label="k"), data.draw(st.integers(1, 3), label="m")
    original = make(rng, k, m, tables=rng.choice((0, 1, 2)))
    made = copy_of(original)
    broken.clear()
    lost = data.draw(st.lists(st.integers(0, k + m - 1), max_size=m, unique=True), label="lost")
    for number in lost:
        del made.files[made.names[number]]
    for row in range(made.group.rows):
        most = m - len(lost)
        others = [number for number in range(k + m) if number not in lost]
        for number in rng.sample(others, min(rng.choice((most, rng.randint(0, most))), len(others))):
            strike(made, rng, number, row, rng.choice(HOWS), broken)
    for number in range(k, k + m):  # one of the two copies of a parity volume's digests
        if (name := made.names[number]) in made.files and rng.random() < 0.5:
            at = rng.choice((HEADER, len(made.files[name]) - made.group.rows * ROW_DIGEST))
            made.files[name][at + rng.randrange(made.group.rows * ROW_DIGEST)] ^= 255

    reader = Reader(made, original, folder).run()

    assert reader.lost == set()
    assert not reader.media.damage
    event(f"recovered {bool(reader.media.recovered)}")


@SLOW
@given(data=st.data())
def test_what_is_beyond_is_named_and_nothing_else(
    data: st.DataObject, folder: Path, broken: set[tuple[str, int]]
) -> None:
    rng = random.Random(data.draw(st.integers(0, 1 << 32), label="seed"))
    k, m = data.draw(st.integers(1, 4), label="k"), data.draw(st.integers(1, 2), label="m")
    original = make(rng, k, m)
    made = copy_of(original)
    broken.clear()
    for _ in range(data.draw(st.integers(1, 20), label="places")):
        strike(made, rng, rng.randrange(k + m), rng.randrange(made.group.rows), rng.choice(HOWS), broken)

    reader = Reader(made, original, folder).run()

    named = reader.media.damage.ranges
    for position, info in enumerate(original.manifest.volumes):
        table = bytes(original.files[info.name][HEADER : HEADER + info.slots * ENTRY])
        units = [(0, HEADER, len(table))]
        units += [(chunk.number, chunk.offset, chunk.stored) for chunk in chunks_of(table, info)]
        lost = {
            byte for number, at, size in units if (position, number) in reader.lost for byte in range(at, at + size)
        }
        assert lost == {byte for at, size in named.get(position, []) for byte in range(at, at + size)}
        for number, at, size in units:
            if (position, number) in reader.lost:
                touched = made.files[info.name][at : at + size] != original.files[info.name][at : at + size]
                assert touched or any(name == info.name and at <= bad < at + size for name, bad in broken)
    event(f"lost {bool(reader.lost)}")


@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 1), (3, 2), (2, 3)])
def test_every_subset_of_lost_volumes(k: int, m: int, folder: Path) -> None:
    original = make(random.Random(k * m), k, m)
    for count in range(k + m + 1):
        for lost in itertools.combinations(range(k + m), count):
            made = copy_of(original)
            for number in lost:
                del made.files[made.names[number]]
            reader = Reader(made, original, folder).run()
            there = {number for number in lost if number < k}
            assert {position for position, _ in reader.lost} == (there if count > m else set()), lost


# --- each kind of damage ----------------------------------------------------------------------------------------------


def pick(seed: int = 5, k: int = 3, m: int = 1, **options: int) -> tuple[Made, Made]:
    original = make(random.Random(seed), k, m, **options)
    return original, copy_of(original)


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_flipped_bytes_of_one_volume(count: int, folder: Path) -> None:
    rng = random.Random(count)
    for number in range(4):
        original, made = pick()
        data = made.files[made.names[number]]
        for _ in range(count):
            data[rng.randrange(HEADER, len(data))] ^= rng.randint(1, 255)
        assert Reader(made, original, folder).run().lost == set()


def test_a_volume_that_was_cut_short(folder: Path) -> None:
    for keep in (HEADER, HEADER + 5, HEADER + ENTRY, HEADER + ROW + 9):
        original, made = pick(rows=3)
        name = made.names[1]
        del made.files[name][keep:]
        assert Reader(made, original, folder).run().lost == set()


def test_volumes_under_each_other_s_names(folder: Path) -> None:
    original, made = pick()
    first, second, spare = made.names[0], made.names[1], made.names[3]
    made.files[first], made.files[second] = made.files[second], made.files[first]
    assert Reader(made, original, folder).run().lost == set()
    made.files[second], made.files[spare] = made.files[spare], made.files[second]
    assert Reader(made, original, folder).run().lost == set()


def test_a_volume_of_another_package_counts_as_lost(folder: Path) -> None:
    original, made = pick()
    other = make(random.Random(6), 3, 1)
    header = other.manifest.header(Digest.of(b"another"), 1).emit()
    made.files[made.names[1]] = bytearray(header) + other.files[other.names[1]][HEADER:]
    reader = Reader(made, original, folder).run()
    assert reader.lost == set()
    assert 1 in reader.media.refused


def test_a_damaged_header_is_made_up_for(folder: Path) -> None:
    original, made = pick()
    made.files[made.names[0]][40] ^= 1
    reader = Reader(made, original, folder)
    reader.media.check_header(0)
    assert not reader.media.damage
    assert reader.run().lost == set()


def test_both_copies_of_the_digests_of_a_parity_volume_damaged(folder: Path) -> None:
    original, made = pick(m=2)
    spare = made.files[made.names[3]]
    for at in (HEADER, len(spare) - 1):
        spare[at] ^= 1
    strike(made, random.Random(1), 0, 0, "flip", set())
    strike(made, random.Random(2), 1, 1, "zero", set())
    assert Reader(made, original, folder).run().lost == set()


def test_parity_that_lies_changes_nothing_but_helps_nobody(folder: Path) -> None:
    original, made = pick(m=2)
    for number in (3, 4):
        start = HEADER + made.group.rows * ROW_DIGEST
        data = made.files[made.names[number]]
        data[start:-start] = random.Random(number).randbytes(len(data[start:-start]))
    del made.files[made.names[0]]
    reader = Reader(made, original, folder).run()  # which compares whatever is handed out
    assert {position for position, _ in reader.lost} == {0}


def test_parity_of_a_stranger_is_not_looked_at(folder: Path) -> None:
    original, made = pick()
    name = made.names[3]
    made.files[name][8:40] = bytes(32)  # names another package
    del made.files[made.names[0]]
    reader = Reader(made, original, folder).run()
    assert {position for position, _ in reader.lost} == {0}


def test_a_second_copy_of_a_parity_volume_serves_where_the_first_does_not(folder: Path) -> None:
    original, made = pick()
    (folder / "more").mkdir()
    name = made.names[3]
    (folder / "more" / name).write_bytes(made.files[name])
    for row in range(made.group.rows):
        strike(made, random.Random(row), 3, row, "zero", set())
    (folder / "zero").mkdir()
    strike(made, random.Random(9), 0, 0, "flip", set())
    reader = Reader(made, original, folder, folder / "more")
    assert reader.run().lost == set()


def test_each_group_has_its_own_parity(folder: Path) -> None:
    one, two = make(random.Random(1), 2, 1), make(random.Random(2), 3, 2)
    original = joined(one, two)
    made = copy_of(original)
    for number in (0, 3, 4):
        del made.files[made.names[number]]
    assert Reader(made, original, folder).run().lost == set()
    del made.files[made.names[1]]
    assert {position for position, _ in Reader(made, original, folder).run().lost} == {0, 1}


def joined(one: Made, two: Made) -> Made:
    """Return one package of two groups."""
    count = one.group.count
    parts = [
        dataclasses.replace(info, name=f"q{number}.airvol")
        for number, info in enumerate((*one.group.volumes, *two.group.volumes))
    ]
    infos = [
        dataclasses.replace(info, name=f"v{number}.airvol")
        for number, info in enumerate((*one.manifest.volumes, *two.manifest.volumes))
    ]
    first = dataclasses.replace(one.group, volumes=tuple(parts[: len(one.group.volumes)]))
    second = dataclasses.replace(two.group, first=count, volumes=tuple(parts[len(one.group.volumes) :]))
    manifest = dataclasses.replace(one.manifest, volumes=tuple(infos), parity=(first, second))
    bodies = [
        *(made.files[info.name][HEADER:] for made in (one, two) for info in made.manifest.volumes),
        *(made.files[info.name][HEADER:] for made in (one, two) for info in made.group.volumes),
    ]
    headers = [manifest.header(one.payload, position).emit() for position in range(len(infos))]
    headers += [manifest.parity_header(one.payload, position).emit() for position in range(len(parts))]
    files = {name: header + body for name, header, body in zip(manifest.names, headers, bodies, strict=True)}
    return Made(manifest, one.payload, {name: bytearray(data) for name, data in files.items()})


def test_a_row_counts_for_itself_where_a_table_is_long(folder: Path, broken: set[tuple[str, int]]) -> None:
    original, made = pick(k=2, m=2, tables=0)
    info = original.manifest.volumes[0]
    while info.slots * ENTRY <= ROW:  # two rows of table
        original, made = pick(seed=info.slots + 100, k=2, m=2, tables=2)
        info = original.manifest.volumes[0]
    del made.files[made.names[0]]
    broken |= {(made.names[1], made.place(1, 0)[0]), (made.names[2], made.place(2, 1)[0])}
    assert Reader(made, original, folder).run().lost == set()


# --- how much it costs ------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how many bytes were read of each file."""
    counts: dict[str, int] = {}

    def read(descriptor: int, into: memoryview, offset: int) -> int:
        name = Path(f"/proc/self/fd/{descriptor}").resolve().name
        counts[name] = counts.get(name, 0) + len(into)
        return read_into(descriptor, into, offset)

    monkeypatch.setattr("airpack.transport.volumes.read_into", read)
    return counts


def test_a_lost_volume_is_rebuilt_in_one_pass(folder: Path, counted: dict[str, int]) -> None:
    original, made = pick(rows=40)
    del made.files[made.names[0]]
    reader = Reader(made, original, folder)
    info = original.manifest.volumes[0]
    table = bytes(original.files[info.name][HEADER : HEADER + info.slots * ENTRY])
    counted.clear()

    assert reader.parity.table(0) == table
    for chunk in chunks_of(table, info):
        assert reader.parity.chunk(0, chunk) is not None

    assert max(counted.values()) <= info.size


def test_a_volume_damaged_beside_a_lost_one_costs_a_few_reads_each(folder: Path, counted: dict[str, int]) -> None:
    original, made = pick(k=3, m=2, rows=40)
    del made.files[made.names[0]]
    made.files[made.names[1]][-1] ^= 1
    for row in range(made.group.rows):
        strike(made, random.Random(row), 2, row, "flip", set())
    reader = Reader(made, original, folder)
    info = original.manifest.volumes[0]
    table = bytes(original.files[info.name][HEADER : HEADER + info.slots * ENTRY])
    counted.clear()

    for chunk in chunks_of(table, info):
        assert reader.parity.chunk(0, chunk) is not None

    assert max(counted.values()) <= 12 * made.group.length


def test_what_cannot_be_rebuilt_is_given_up_in_bounded_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "_TRIES", 40)
    monkeypatch.setattr(rebuild, "_PATIENCE", 100)
    decoded: list[int] = []
    plain = Code.decode

    def decode(self: Code, shares: dict[int, bytes | bytearray], wanted: int) -> bytes | bytearray:
        decoded.append(wanted)
        return plain(self, shares, wanted)

    monkeypatch.setattr(Code, "decode", decode)
    original, made = pick(k=8, m=3, rows=6)
    for number in range(8):
        for row in range(made.group.rows):
            strike(made, random.Random(number + 10 * row), number, row, "some", set())

    reader = Reader(made, original, folder).run()

    units = sum(info.entries + 1 for info in original.manifest.volumes)
    assert reader.lost
    assert len(decoded) <= 4 * units + 2 * 100 + 8 * 40


def test_a_medium_that_answers_otherwise_each_time_gets_nothing_wrong_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(8)

    def read(descriptor: int, into: memoryview, offset: int) -> int:
        count = read_into(descriptor, into, offset)
        if count > HEADER and rng.random() < 0.3:
            into[rng.randrange(count)] ^= 255
        return count

    monkeypatch.setattr("airpack.transport.volumes.read_into", read)
    for seed in range(20):
        original, made = pick(seed=seed, k=3, m=2)
        del made.files[made.names[seed % 3]]
        Reader(made, original, folder).run()  # which compares whatever is handed out


def test_several_threads_may_ask(folder: Path) -> None:
    original, made = pick(k=4, m=2, rows=10)
    for number in (0, 1):
        del made.files[made.names[number]]
    reader = Reader(made, original, folder)
    wanted = []
    for position in (0, 1):
        info = original.manifest.volumes[position]
        table = bytes(original.files[info.name][HEADER : HEADER + info.slots * ENTRY])
        wanted += [(position, chunk) for chunk in chunks_of(table, info)]
    random.Random(3).shuffle(wanted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda item: reader.parity.chunk(*item), wanted))
    for (_, chunk), data in zip(wanted, found, strict=True):
        assert data is not None
        assert hashlib.sha256(data).digest() == chunk.digest
