import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airpack.catalog import catalog as module
from airpack.catalog import schema
from airpack.catalog.catalog import Catalog, Generation, ReleaseRow
from airpack.errors import BusyError, IntegrityError, NotFoundError, RollbackError, StorageError
from airpack.types import Digest, Standing, State

BLOB = Digest.of(b"blob")
KILLED = """
import os, pathlib, signal, sys
from airpack.catalog.catalog import Catalog
with Catalog(pathlib.Path(sys.argv[1]))._write() as connection:
    connection.exec_driver_sql("PRAGMA cache_size = 1")
    connection.exec_driver_sql("UPDATE releases SET state = 'failed', receipt = zeroblob(1000000)")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def row(number: int = 1, product: str = "encoder", **changes: Any) -> ReleaseRow:
    fresh = ReleaseRow(
        digest=Digest.of(f"{product} {number}".encode()),
        product=product,
        version=f"1.{number}.0",
        sequence=number,
        state=State.IMPORTED,
        proven=False,
        tries=0,
        imported="2031-01-01T00:00:00Z",
        receipt=b"receipt %d" % number,
    )
    return replace(fresh, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    made = Catalog.create(path)
    yield made
    made.close()


@pytest.fixture
def two(catalog: Catalog) -> Catalog:
    """A catalog with releases 1 and 2 of one product."""
    for number in (1, 2):
        catalog.add_release(row(number), {BLOB: 4, Digest.of(b"%d" % number): 1})
    return catalog


class TestFile:
    def test_is_its_owners_alone(self, catalog: Catalog, path: Path) -> None:
        assert catalog.check() == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_is_never_made_over_another(self, catalog: Catalog, path: Path) -> None:
        catalog.add_release(row(), {BLOB: 4})
        with pytest.raises(StorageError, match="File exists"):
            Catalog.create(path)
        assert Catalog(path).releases() == [row()]

    def test_a_missing_one_is_not_found_and_not_made(self, path: Path) -> None:
        with pytest.raises(NotFoundError):
            Catalog(path)
        assert not path.exists()

    @pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a b", "ä", "a;b", "file:x"])
    def test_its_folder_may_have_any_name(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        made = Catalog.create(tmp_path / name / "catalog.db")
        made.add_release(row(), {BLOB: 4})
        assert Catalog(tmp_path / name / "catalog.db").releases() == [row()]
        assert [child.name for child in tmp_path.iterdir()] == [name]

    def test_another_schema_version_is_refused_with_both_named(self, catalog: Catalog, path: Path) -> None:
        catalog.close()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")
        connection.close()
        with pytest.raises(IntegrityError, match="has schema '2'; this airpack reads '1'") as caught:
            Catalog(path)
        assert "airpack --version" in caught.value.hint

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:0],
            lambda data: data.hex().encode(),
            lambda data: data[:100] + bytes(len(data) - 100),
            lambda data: data[: len(data) // 2],
            lambda data: b"\x00" * len(data),
        ],
        ids=["empty", "text", "header alone", "half", "zeros"],
    )
    def test_a_damaged_one_is_refused_as_damaged(
        self, two: Catalog, path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        two.close()
        path.write_bytes(damage(path.read_bytes()))

        def read() -> None:
            again = Catalog(path)
            if again.check():
                raise IntegrityError("found by check")
            again.releases()

        with pytest.raises(IntegrityError):
            read()

    def test_foreign_tables_are_damage(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
        with pytest.raises(IntegrityError, match="is damaged: no such table"):
            Catalog(path)

    @pytest.mark.parametrize(
        "change", ["UPDATE releases SET state = 'fine'", "UPDATE releases SET digest = 'sha256:0' WHERE sequence = 1"]
    )
    def test_values_that_cannot_be_are_damage(self, two: Catalog, path: Path, change: str) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA foreign_keys = 0")
            connection.execute(change)
        connection.close()
        with pytest.raises(IntegrityError):
            two.releases()


class TestDurability:
    def test_the_measured_settings_are_in_force_on_every_connection(self, catalog: Catalog) -> None:
        for _ in range(2):
            with catalog._read() as connection:
                found = {
                    name: str(connection.exec_driver_sql(f"PRAGMA {name}").scalar())
                    for name in ("journal_mode", "synchronous", "foreign_keys")
                }
            assert found == {"journal_mode": "truncate", "synchronous": "2", "foreign_keys": "1"}

    @pytest.mark.parametrize("name", ["journal_mode", "synchronous", "foreign_keys"])
    def test_a_database_that_does_not_take_them_is_refused(
        self, catalog: Catalog, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        catalog.close()
        monkeypatch.setattr(module, "_PRAGMAS", {**module._PRAGMAS, name: "7"})
        with pytest.raises(StorageError, match=f"runs with {name} = .*; 7 is needed for durability"):
            Catalog(path)

    def test_a_process_killed_half_way_through_a_transaction_changed_nothing(self, two: Catalog, path: Path) -> None:
        before = two.releases(), path.read_bytes()
        subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
        assert path.read_bytes() != before[1]  # some pages are written already
        assert Catalog(path).releases() == before[0]
        assert path.read_bytes()[: len(before[1])] == before[1]

    def test_an_error_within_a_transaction_changes_nothing(self, two: Catalog) -> None:
        before = two.releases(), two.blobs()
        with pytest.raises(RollbackError):
            two.add_release(row(3, sequence=2), {Digest.of(b"new"): 3})
        assert (two.releases(), two.blobs()) == before
        assert two.unclaimed() == []

    def test_a_writer_elsewhere_is_busy_for_writers_only(
        self, catalog: Catalog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BUSY_SECONDS", 0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        impatient = Catalog(path)
        assert impatient.releases() == []
        with pytest.raises(BusyError, match="is in use") as caught:
            impatient.add_release(row(), {BLOB: 4})
        assert caught.value.hint
        other.execute("ROLLBACK")
        other.close()
        impatient.add_release(row(), {BLOB: 4})
        assert catalog.releases() == [row()]

    def test_a_full_disk_is_said_with_what_helps(self, catalog: Catalog) -> None:
        with catalog._read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

        def full() -> None:
            with catalog._write() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
                connection.exec_driver_sql("INSERT INTO meta VALUES ('x', hex(zeroblob(100000)))")

        with pytest.raises(StorageError, match="full") as caught:
            full()
        assert "free some space" in caught.value.hint


class TestReleases:
    def test_what_is_added_is_read(self, catalog: Catalog) -> None:
        added = row(7, state=State.KNOWN_GOOD, proven=True, was_good=True, tries=2, receipt=bytes(range(256)))
        catalog.add_release(added, {BLOB: 4})
        assert catalog.release(added.digest) == added
        assert catalog.releases() == [added]
        assert catalog.blobs(added.digest) == {BLOB: 4}
        assert catalog.products() == ["encoder"]
        assert added.name == "encoder@1.7.0"
        assert added.standing == Standing(added.digest, "1.7.0", 7, State.KNOWN_GOOD, proven=True, was_good=True)

    def test_what_is_not_there_is_none(self, catalog: Catalog) -> None:
        assert catalog.release(row().digest) is None
        assert catalog.active("encoder") is None
        assert catalog.floor("encoder") == 0
        assert catalog.products() == []

    def test_are_listed_by_product_and_sequence(self, catalog: Catalog) -> None:
        rows = [row(3, "b"), row(1, "b"), row(2, "a")]
        for item in rows:
            catalog.add_release(item, {BLOB: 4})
        assert [item.name for item in catalog.releases()] == ["a@1.2.0", "b@1.1.0", "b@1.3.0"]
        assert [item.name for item in catalog.releases("b")] == ["b@1.1.0", "b@1.3.0"]

    def test_an_import_repeated_is_one_release(self, two: Catalog) -> None:
        again = row(1, receipt=b"another", imported="2032-01-01T00:00:00Z")
        two.add_release(again, {Digest.of(b"more"): 4})
        assert two.releases() == [again, row(2)]
        assert two.blobs(again.digest) == {BLOB: 4, Digest.of(b"1"): 1, Digest.of(b"more"): 4}

    def test_that_it_was_good_once_outlives_a_failure(self, two: Catalog) -> None:
        two.confirm(two.add_generation("encoder", row(1).digest), 1)
        two.set_state(row(1).digest, State.FAILED, proven=False)
        assert two.releases()[0] == row(1, state=State.FAILED, was_good=True)

    @pytest.mark.parametrize("changes", [{"version": "1.1.0"}, {"sequence": 1}])
    def test_one_name_and_one_number_are_one_release(self, two: Catalog, changes: dict[str, Any]) -> None:
        with pytest.raises(RollbackError, match="contradicts what the site holds"):
            two.add_release(row(3, **changes), {BLOB: 4})
        two.add_release(row(3, "another", **changes), {BLOB: 4})

    def test_a_state_is_stored_alone(self, two: Catalog) -> None:
        two.set_state(row(1).digest, State.TRIAL)
        assert two.releases() == [row(1, state=State.TRIAL), row(2)]
        two.set_state(row(1).digest, State.STAGED, tries=2, proven=True)
        assert two.releases() == [row(1, state=State.STAGED, tries=2, proven=True), row(2)]

    def test_the_state_of_nothing_is_no_success(self, two: Catalog) -> None:
        with pytest.raises(NotFoundError):
            two.set_state(BLOB, State.TRIAL)


class TestGenerations:
    def test_numbers_rise_per_product_and_are_never_used_twice(self, two: Catalog) -> None:
        two.add_release(row(1, "other"), {BLOB: 4})
        digest = row(1).digest
        made = [two.add_generation("encoder", digest) for _ in range(2)]
        assert [item.number for item in made] == [1, 2]
        assert two.add_generation("other", row(1, "other").digest).number == 1
        for item in made:
            two.drop_generation(item)
        assert two.generations("encoder") == []
        assert two.add_generation("encoder", digest) == Generation("encoder", 3, digest)

    def test_of_a_release_that_is_not_held_there_is_none(self, catalog: Catalog) -> None:
        with pytest.raises(RollbackError):
            catalog.add_generation("encoder", BLOB)
        assert catalog.generations() == []

    def test_confirming_makes_active_good_and_raises_the_floor_at_once(self, two: Catalog) -> None:
        two.set_state(row(2).digest, State.PROBATION, tries=2)
        generation = two.add_generation("encoder", row(2).digest)
        two.confirm(generation, 2)
        assert two.active("encoder") == generation
        assert two.floor("encoder") == 2
        assert two.release(row(2).digest) == row(2, state=State.KNOWN_GOOD, proven=True, was_good=True)

    def test_the_floor_never_falls(self, two: Catalog) -> None:
        for number, floor in ((2, 2), (1, 2)):
            two.confirm(two.add_generation("encoder", row(number).digest), number)
            assert two.floor("encoder") == floor

    def test_pointing_changes_no_standing(self, two: Catalog) -> None:
        generation = two.add_generation("encoder", row(1).digest)
        two.point("encoder", generation.number)
        assert two.active("encoder") == generation
        assert (two.floor("encoder"), two.releases()) == (0, [row(1), row(2)])
        two.point("encoder", None)
        assert two.active("encoder") is None

    def test_what_does_not_stand_cannot_become_active(self, two: Catalog) -> None:
        generation = two.add_generation("encoder", row(1).digest)
        two.confirm(generation, 1)
        gone = two.add_generation("encoder", row(2).digest)
        two.drop_generation(gone)
        with pytest.raises(NotFoundError, match="no generation 2 of encoder"):
            two.confirm(gone, 2)
        with pytest.raises(NotFoundError, match="no generation 2"):
            two.point("encoder", 2)
        with pytest.raises(NotFoundError, match="no product other"):
            two.point("other", None)
        assert two.active("encoder") == generation
        assert two.floor("encoder") == 1
        assert two.releases()[1] == row(2)


class TestRetention:
    def test_a_retired_release_stays_as_history_without_its_blobs(self, two: Catalog) -> None:
        two.set_state(row(1).digest, State.KNOWN_GOOD, proven=True)
        two.retire([row(1).digest])
        assert two.release(row(1).digest) == row(1, state=State.SUPERSEDED)
        assert two.blobs(row(1).digest) == {}
        assert two.unclaimed() == [Digest.of(b"1")]
        assert two.blobs() == {BLOB: 4, Digest.of(b"2"): 1}

    def test_forgotten_blobs_are_gone(self, two: Catalog) -> None:
        two.retire([row(1).digest])
        two.drop_blobs(two.unclaimed())
        assert two.unclaimed() == []
        two.drop_blobs([])
        assert two.blobs(row(2).digest) == {BLOB: 4, Digest.of(b"2"): 1}

    def test_a_blob_that_a_release_claims_cannot_be_forgotten(self, two: Catalog) -> None:
        with pytest.raises(RollbackError):
            two.drop_blobs([BLOB])
        assert BLOB in two.blobs()

    def test_check_names_what_points_to_nothing(self, two: Catalog, path: Path) -> None:
        assert two.check() == []
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM blobs WHERE digest = ?", [str(BLOB)])
        connection.close()
        assert two.check() == ["foreign key of release_blobs"] * 2


def test_the_schema_has_a_version() -> None:
    assert schema.VERSION == "1"


class CatalogAgainstModel(RuleBasedStateMachine):
    """The catalog, opened again and again, against dictionaries."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        path = self.folder / f"{len(list(self.folder.iterdir()))}.db"
        Catalog.create(path).close()
        self.path = path
        self.rows: dict[Digest, ReleaseRow] = {}
        self.claims: dict[Digest, set[Digest]] = {}
        self.generations: dict[int, Digest] = {}
        self.used = 0
        self.floor = 0
        self.active: int | None = None

    def teardown(self) -> None:
        self.path.unlink()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.path)

    @rule(number=st.integers(1, 5), blobs=st.sets(st.integers(0, 4), min_size=1))
    def add(self, number: int, blobs: set[int]) -> None:
        names = {Digest.of(bytes([blob])) for blob in blobs}
        self.catalog.add_release(row(number), dict.fromkeys(names, 1))
        self.rows[row(number).digest] = row(number)
        self.claims.setdefault(row(number).digest, set()).update(names)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), state=st.sampled_from(State))
    def set_state(self, data: st.DataObject, state: State) -> None:
        digest = data.draw(st.sampled_from(sorted(self.rows)))
        self.catalog.set_state(digest, state)
        self.rows[digest] = replace(self.rows[digest], state=state)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def generate(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.rows)))
        self.used += 1
        assert self.catalog.add_generation("encoder", digest).number == self.used
        self.generations[self.used] = digest

    @precondition(lambda self: self.generations)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.generations)))
        digest = self.generations[number]
        sequence = self.rows[digest].sequence
        self.catalog.confirm(Generation("encoder", number, digest), sequence)
        self.active, self.floor = number, max(self.floor, sequence)
        self.rows[digest] = replace(self.rows[digest], state=State.KNOWN_GOOD, proven=True, was_good=True, tries=0)

    @precondition(lambda self: self.generations)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.generations)))
        self.catalog.drop_generation(Generation("encoder", number, self.generations.pop(number)))
        if self.active == number:
            self.active = None

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.rows)))
        self.catalog.retire([digest])
        self.rows[digest] = replace(self.rows[digest], state=State.SUPERSEDED, proven=False)
        self.claims[digest] = set()

    @invariant()
    def agree(self) -> None:
        catalog = self.catalog
        assert catalog.releases() == sorted(self.rows.values(), key=lambda item: item.sequence)
        assert {item.number: item.release for item in catalog.generations()} == self.generations
        active = catalog.active("encoder")
        assert (active.number if active else None) == self.active
        assert catalog.floor("encoder") == self.floor
        for digest, claimed in self.claims.items():
            assert set(catalog.blobs(digest)) == claimed
        assert not set(catalog.unclaimed()) & set().union(*self.claims.values())
        assert catalog.check() == []


def test_the_catalog_agrees_with_a_model(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415, used once

    class Machine(CatalogAgainstModel):
        folder = tmp_path

    run_state_machine_as_test(Machine, settings=settings(max_examples=12, stateful_step_count=12, deadline=None))


class TestRevision:
    def test_counts_every_transaction_and_no_other_read(self, catalog: Catalog) -> None:
        assert catalog.revision() == 0
        catalog.add_release(row(), {BLOB: 4})
        assert catalog.revision() == 1
        catalog.releases()
        catalog.check()
        assert catalog.revision() == 1
        catalog.add_generation("encoder", row().digest)
        catalog.point("encoder", None)
        assert catalog.revision() == 3

    def test_a_transaction_that_failed_does_not_count(self, catalog: Catalog) -> None:
        with pytest.raises(NotFoundError):
            catalog.set_state(Digest.of(b"nothing"), State.FAILED)
        assert catalog.revision() == 0

    def test_goes_on_over_the_decimal_places_that_text_has(self, catalog: Catalog, path: Path) -> None:
        catalog.add_release(row(), {BLOB: 4})
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = '9' WHERE key = 'revision'")
        catalog.add_release(row(), {BLOB: 4})
        assert catalog.revision() == 10

    def test_one_that_is_no_number_is_damage(self, catalog: Catalog, path: Path) -> None:
        catalog.add_release(row(), {BLOB: 4})
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = 'many' WHERE key = 'revision'")
        with pytest.raises(IntegrityError, match="many"):
            catalog.revision()


class TestDigest:
    def test_is_of_the_rows_and_not_of_the_file(self, catalog: Catalog, path: Path) -> None:
        catalog.add_release(row(), {BLOB: 4})
        before = catalog.digest()
        content = path.read_bytes()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE passing (x)")
            connection.execute("DROP TABLE passing")
        assert path.read_bytes() != content
        assert catalog.digest() == before
        assert Catalog(path).digest() == before

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE releases SET proven = 1",
            "UPDATE releases SET receipt = x'00'",
            "UPDATE releases SET version = CAST(version AS BLOB)",
            "UPDATE releases SET imported = CAST(x'ff' AS TEXT)",
            "UPDATE blobs SET size = 5",
            "DELETE FROM release_blobs",
            "UPDATE products SET active = 0",
            "INSERT INTO meta VALUES ('x', '')",
        ],
    )
    def test_changes_with_any_cell(self, catalog: Catalog, path: Path, change: str) -> None:
        catalog.add_release(row(), {BLOB: 4})
        before = catalog.digest()
        with sqlite3.connect(path) as connection:
            connection.execute(change)
        assert catalog.digest() != before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE releases SET imported = CAST(x'ff' AS TEXT)",
        "UPDATE releases SET version = CAST(version AS BLOB)",
        "UPDATE releases SET sequence = 'two'",
        "UPDATE releases SET digest = CAST(digest AS BLOB)",
    ],
)
def test_a_cell_of_another_kind_is_damage_and_no_bug(catalog: Catalog, path: Path, change: str) -> None:
    catalog.add_release(row(), {BLOB: 4})
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    with pytest.raises(IntegrityError, match="damaged"):
        catalog.releases()
