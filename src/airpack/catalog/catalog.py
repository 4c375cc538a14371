"""Transactions on the catalog. Each public method that changes something is one transaction, durable on return.

SQLite in TRUNCATE + FULL: of the modes that were measured against power cuts, WAL+NORMAL and DELETE+FULL lost commits
that had been acknowledged. The settings are read back, and a database that does not take them is refused.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Engine,
    Integer,
    Row,
    String,
    cast,
    create_engine,
    delete,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from airpack import fsops
from airpack.catalog import schema
from airpack.errors import AirpackError, BusyError, IntegrityError, NotFoundError, RollbackError, StorageError
from airpack.types import Digest, Standing, State

_PRAGMAS: Final = {"journal_mode": "truncate", "synchronous": "2", "foreign_keys": "1"}
_BUSY_SECONDS: Final = 5
_KINDS: Final = {
    column.name: column.type.python_type for table in schema.metadata.sorted_tables for column in table.columns
}
_UNDECODABLE: Final = "Could not decode to UTF-8"
# Counts the transaction that it is part of.
_COUNT: Final = (
    insert(schema.meta)
    .values(key=schema.REVISION, value="1")
    .on_conflict_do_update(index_elements=["key"], set_={"value": cast(cast(schema.meta.c.value, Integer) + 1, String)})
)
_RESTORE: Final = "put the site's folder back from a backup, or make a new site and import its releases again"
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# SQLITE_ERROR: a table or a column is not there.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """One release that the site holds.

    Attributes:
        digest: Digest of its OCI index.
        product: Its product.
        version: Its version.
        sequence: Its number in the channel.
        state: Where it stands.
        proven: Whether it was known good here and has not failed since.
        tries: Trials left in the activation under way.
        imported: When, RFC 3339.
        receipt: The signed account of its import (a Sigstore bundle).
        was_good: Whether it was ever known good here, also if it failed since.
    """

    digest: Digest
    product: str
    version: str
    sequence: int
    state: State
    proven: bool
    tries: int
    imported: str
    receipt: bytes
    was_good: bool = False

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.product}@{self.version}"

    @property
    def standing(self) -> Standing:
        """What the lifecycle's decisions need."""
        return Standing(self.digest, self.version, self.sequence, self.state, self.proven, self.was_good)


@dataclass(frozen=True, slots=True)
class Generation:
    """One materialised tree: `generations/<product>/<number>/` holds `release`."""

    product: str
    number: int
    release: Digest


class Catalog:
    """The catalog of one site.

    Args:
        path: The SQLite file.

    Raises:
        NotFoundError: There is no such file.
        StorageError: It cannot be opened, or does not take the settings that durability needs.
        IntegrityError: It is damaged, or of another schema version.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFoundError(f"no catalog {path}", path=str(path))
        self._path = path
        self._engine = _engine(path)
        with self._read() as connection:
            found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == "schema")).scalar()
        if found != schema.VERSION:
            raise IntegrityError(
                f"the catalog {path} has schema {found!r}; this airpack reads {schema.VERSION!r}",
                hint="a newer airpack may read it: see `airpack --version`",
                path=str(path),
            )

    @classmethod
    def create(cls, path: Path) -> "Catalog":
        """Make an empty catalog durably.

        Raises:
            StorageError: The file cannot be made, or is there already.
        """
        fsops.write_durable(path, b"", mode=0o600, replace=False)
        engine = _engine(path)
        with _translated(path), engine.begin() as connection:
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.meta).values(key="schema", value=schema.VERSION))
        engine.dispose()
        return cls(path)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        fsops.reach("begin", self._path)
        with _translated(self._path), self._engine.begin() as connection:
            connection.execute(_COUNT)
            yield connection
            fsops.reach("commit", self._path)
        fsops.reach("committed", self._path)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        reader = self._engine.execution_options(reads=True)
        with _translated(self._path), reader.connect() as connection:
            yield connection

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def revision(self) -> int:
        """Return how many transactions changed this catalog, 0 where none was ever counted (ADR 15).

        Raises:
            IntegrityError: The catalog is damaged.
        """
        with self._read() as connection:
            found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == schema.REVISION)).scalar()
        if found is not None and not (isinstance(found, str) and found.isascii() and found.isdecimal()):
            raise IntegrityError(f"the catalog is damaged: its revision is {found!r}", hint=_RESTORE)
        return int(found or 0)

    def digest(self) -> Digest:
        """Return the SHA-256 of all rows of all tables, in the order of their keys.

        Of the rows and not of the file: what SQLite leaves in free pages says nothing, and differs after a crash.

        Raises:
            IntegrityError: The catalog is damaged.
            StorageError: It cannot be read.
        """
        hasher = hashlib.sha256()
        with self._read() as connection:
            for table in schema.metadata.sorted_tables:
                # By bytes and kind, so that text that is no UTF-8 any more is hashed like all else; the kinds are words
                # without capitals, the bytes digits and capitals, so that no two rows give one line.
                cells: list[ColumnElement[Any]] = [
                    part for column in table.columns for part in (func.typeof(column), func.hex(column))
                ]
                line = reduce(lambda left, right: left.concat(right), cells)
                hasher.update(f"{table.name}\n".encode())
                for text_of_row in connection.execute(select(line).order_by(*table.primary_key.columns)).scalars():
                    hasher.update(f"{text_of_row}\n".encode())
        return Digest(f"sha256:{hasher.hexdigest()}")

    def check(self) -> list[str]:
        """Return what the database itself finds wrong, empty when nothing."""
        with self._read() as connection:
            found = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check"))]
            broken = [f"foreign key of {row[0]}" for row in connection.execute(text("PRAGMA foreign_key_check"))]
        return [line for line in found if line != "ok"] + broken

    def add_release(self, row: ReleaseRow, blobs: Mapping[Digest, int]) -> None:
        """Make a release visible: its row, its blobs (digest to size in bytes) and their relation, at once."""
        values = {
            "digest": str(row.digest),
            "product": row.product,
            "version": row.version,
            "sequence": row.sequence,
            "state": row.state.value,
            "proven": int(row.proven),
            "was_good": int(row.was_good),
            "tries": row.tries,
            "imported": row.imported,
            "receipt": row.receipt,
        }
        sizes = [{"digest": str(digest), "size": size} for digest, size in blobs.items()]
        pairs = [{"release": str(row.digest), "blob": str(digest)} for digest in blobs]
        with self._write() as connection:
            connection.execute(insert(schema.blobs).on_conflict_do_nothing(), sizes)
            kept = insert(schema.releases).values(values)
            connection.execute(kept.on_conflict_do_update(index_elements=["digest"], set_=values))
            connection.execute(insert(schema.release_blobs).on_conflict_do_nothing(), pairs)
            connection.execute(insert(schema.products).values(name=row.product, floor=0).on_conflict_do_nothing())

    def releases(self, product: str | None = None) -> list[ReleaseRow]:
        """Return the releases held, by product and sequence."""
        query = select(schema.releases).order_by(schema.releases.c.product, schema.releases.c.sequence)
        if product is not None:
            query = query.where(schema.releases.c.product == product)
        with self._read() as connection:
            return [_release(row) for row in connection.execute(query)]

    def release(self, digest: Digest) -> ReleaseRow | None:
        """Return one release, or None."""
        with self._read() as connection:
            query = select(schema.releases).where(schema.releases.c.digest == str(digest))
            row = connection.execute(query).one_or_none()
            return _release(row) if row is not None else None

    def blobs(self, release: Digest | None = None) -> dict[Digest, int]:
        """Return digest and size in bytes of the blobs that one release claims, or any."""
        joined = schema.blobs.join(schema.release_blobs, schema.release_blobs.c.blob == schema.blobs.c.digest)
        query = select(schema.blobs.c.digest, schema.blobs.c.size).select_from(joined)
        if release is not None:
            query = query.where(schema.release_blobs.c.release == str(release))
        with self._read() as connection:
            return {Digest(row.digest): row.size for row in map(_typed, connection.execute(query))}

    def set_state(self, digest: Digest, state: State, *, tries: int | None = None, proven: bool | None = None) -> None:
        """Store where a release stands; `tries` and `proven` stay as they are when None.

        Raises:
            NotFoundError: There is no such release.
        """
        values: dict[str, Any] = {"state": state.value}
        if tries is not None:
            values["tries"] = tries
        if proven is not None:
            values["proven"] = int(proven)
        with self._write() as connection:
            change = update(schema.releases).where(schema.releases.c.digest == str(digest)).values(values)
            _hit(connection.execute(change), f"release {digest}")

    def add_generation(self, product: str, release: Digest) -> Generation:
        """Allot the next generation number of `product` to `release`; numbers are never used twice."""
        with self._write() as connection:
            key = f"generation:{product}"
            used = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar()
            number = int(used or 0) + 1
            last = insert(schema.meta).values(key=key, value=str(number))
            connection.execute(last.on_conflict_do_update(index_elements=["key"], set_={"value": str(number)}))
            connection.execute(insert(schema.generations).values(product=product, number=number, release=str(release)))
        return Generation(product, number, release)

    def generations(self, product: str | None = None) -> list[Generation]:
        """Return the generations that stand, by product and number."""
        query = select(schema.generations).order_by(schema.generations.c.product, schema.generations.c.number)
        if product is not None:
            query = query.where(schema.generations.c.product == product)
        with self._read() as connection:
            rows = map(_typed, connection.execute(query))
            return [Generation(row.product, row.number, Digest(row.release)) for row in rows]

    def drop_generation(self, generation: Generation) -> None:
        """Forget a generation whose tree is gone."""
        with self._write() as connection:
            connection.execute(
                delete(schema.generations).where(
                    schema.generations.c.product == generation.product,
                    schema.generations.c.number == generation.number,
                )
            )

    def products(self) -> list[str]:
        """Return the names of all products."""
        with self._read() as connection:
            query = select(schema.products.c.name).order_by(schema.products.c.name)
            return [row.name for row in map(_typed, connection.execute(query))]

    def floor(self, product: str) -> int:
        """Return the highest sequence of `product` that proved good here, 0 for none."""
        with self._read() as connection:
            query = select(schema.products.c.floor).where(schema.products.c.name == product)
            row = connection.execute(query).one_or_none()
            return int(_typed(row).floor) if row is not None else 0

    def active(self, product: str) -> Generation | None:
        """Return the generation that `current` points to, or None."""
        column = schema.products.c
        joined = schema.products.join(
            schema.generations,
            (schema.generations.c.product == column.name) & (schema.generations.c.number == column.active),
        )
        query = select(schema.generations).select_from(joined).where(column.name == product)
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        return Generation(row.product, row.number, Digest(row.release)) if row is not None and _typed(row) else None

    def confirm(self, generation: Generation, sequence: int) -> None:
        """Make `generation` the active one, its release known good, and raise the floor to `sequence`, at once.

        Raises:
            NotFoundError: There is no such generation.
        """
        column = schema.products.c
        with self._write() as connection:
            _activate(connection, generation.product, generation.number)
            connection.execute(
                update(schema.products)
                .where(column.name == generation.product)
                .values(floor=func.max(column.floor, sequence))
            )
            connection.execute(
                update(schema.releases)
                .where(schema.releases.c.digest == str(generation.release))
                .values(state=State.KNOWN_GOOD.value, proven=1, was_good=1, tries=0)
            )

    def point(self, product: str, number: int | None) -> None:
        """Make generation `number` active without a change of standing (fallback), or none (safe stop).

        Raises:
            NotFoundError: There is no such product or generation.
        """
        with self._write() as connection:
            _activate(connection, product, number)

    def retire(self, releases: Iterable[Digest]) -> None:
        """Drop the claims of superseded releases on their blobs, at once; their rows stay as history."""
        gone = [str(digest) for digest in releases]
        if not gone:
            return
        with self._write() as connection:
            connection.execute(
                update(schema.releases)
                .where(schema.releases.c.digest.in_(gone))
                .values(state=State.SUPERSEDED.value, proven=0)
            )
            connection.execute(delete(schema.release_blobs).where(schema.release_blobs.c.release.in_(gone)))

    def drop_blobs(self, digests: Iterable[Digest]) -> None:
        """Forget blobs that no release claims."""
        names = [{"name": str(digest)} for digest in digests]
        if names:
            with self._write() as connection:
                connection.execute(text("DELETE FROM blobs WHERE digest = :name"), names)

    def unclaimed(self) -> list[Digest]:
        """Return the blobs that no release claims."""
        claimed = select(schema.release_blobs.c.blob)
        query = select(schema.blobs.c.digest).where(schema.blobs.c.digest.not_in(claimed))
        with self._read() as connection:
            return [Digest(row.digest) for row in map(_typed, connection.execute(query))]


def _activate(connection: Connection, product: str, number: int | None) -> None:
    if number is not None:
        column = schema.generations.c
        query = select(column.number).where(column.product == product, column.number == number)
        if connection.execute(query).one_or_none() is None:
            raise NotFoundError(f"the catalog has no generation {number} of {product}")
    change = update(schema.products).where(schema.products.c.name == product).values(active=number)
    _hit(connection.execute(change), f"product {product}")


def _hit(result: CursorResult[Any], what: str) -> None:
    """Refuse a change that changed nothing: it would be reported as made."""
    if result.rowcount != 1:
        raise NotFoundError(f"the catalog has no {what}")


def _engine(path: Path) -> Engine:
    # Opened by URI, so that a missing file stays missing, and for a site's folder may have any name.
    address = f"{path.absolute().as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        # No isolation level: the driver must not begin transactions by itself.
        return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def settle(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for name, value in _PRAGMAS.items():
            cursor.execute(f"PRAGMA {name} = {value}")
            found = str(cursor.execute(f"PRAGMA {name}").fetchone()[0])
            if found != value:
                raise StorageError(f"the catalog {path} runs with {name} = {found}; {value} is needed for durability")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if not connection.get_execution_options().get("reads") else "BEGIN"
        )

    return engine


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise _refusal(error, path) from error


def _refusal(error: DatabaseError, path: Path) -> AirpackError:
    """Return what SQLite's result code (sqlite.org/rescode.html) means for the user."""
    reason, place = str(error.orig), str(path)
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
    if reason.startswith(_UNDECODABLE):  # the reader in Python refuses it, without a code of SQLite's
        code = sqlite3.SQLITE_CORRUPT
    if code in _BUSY:
        return BusyError(f"the catalog {path} is in use: {reason}", hint="try again in a moment", path=place)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return RollbackError(f"this contradicts what the site holds: {reason}", path=place)
    if code in _DAMAGED:
        return IntegrityError(f"the catalog {path} is damaged: {reason}", hint=_RESTORE, path=place)
    hint = "free some space and run the same command again" if code == sqlite3.SQLITE_FULL else ""
    return StorageError(f"the catalog {path} cannot be used: {reason}", hint=hint, path=place)


def _typed(row: Any) -> Any:
    """Hold a row to the kinds of its columns: SQLite does not, and a flipped bit makes text a blob."""
    for name, value in row._mapping.items():  # noqa: SLF001, public in SQLAlchemy despite its name
        if not isinstance(value, _KINDS[str(name)]):
            raise IntegrityError(f"the catalog is damaged: {name} is {value!r:.80}", hint=_RESTORE)
    return row


def _release(row: Row[Any]) -> ReleaseRow:
    _typed(row)
    if row.state not in set(State):
        raise IntegrityError(f"the catalog is damaged: {row.digest} is in state {row.state!r}", hint=_RESTORE)
    return ReleaseRow(
        digest=Digest(row.digest),
        product=row.product,
        version=row.version,
        sequence=row.sequence,
        state=State(row.state),
        proven=bool(row.proven),
        was_good=bool(row.was_good),
        tries=row.tries,
        imported=row.imported,
        receipt=row.receipt,
    )
