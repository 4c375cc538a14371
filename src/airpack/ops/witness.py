"""What the evidence log says of the catalog and of the trust state, so that an older copy of either is known (ADR 15).

Every record says which revision of the catalog it was made at, all but intents also what the catalog held then; a
refresh of the channel says which versions it brought. The log is signed and only grows, so that a catalog below the
highest revision on record, or metadata below the highest versions on record, is an older copy. A log that was put back
together with them is not seen here: only an auditor's state contradicts it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from airpack.errors import IntegrityError, RollbackError
from airpack.evidence.log import NEVER, Fact, Highest, note_highest
from airpack.evidence.records import Record, Value
from airpack.ops.site import CATALOG_DIGEST, CATALOG_REVISION, TRUST_ROLES, Site

_NEWEST_CATALOG: Final = (
    "put the newest catalog.db back; where there is none, the whole folder of the site from one backup: "
    "an auditor who holds a later export sees that"
)
_NEWEST_TRUST: Final = "import the newest package that there is, or put the newest folder `trust` back"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The highest numbers on record.

    Attributes:
        catalog: Revision of the catalog.
        versions: Version of the channel's metadata, by TUF role.
    """

    catalog: Highest
    versions: Mapping[str, Highest]

    @classmethod
    def of_log(cls, site: Site) -> "Recorded":
        """Read them from the open log, under the site's lock.

        Raises:
            IntegrityError: The log does not hold.
            StorageError: It cannot be read.
        """
        return cls(
            site.log.highest(CATALOG_REVISION), {role: site.log.highest(version_key(role)) for role in TRUST_ROLES}
        )

    @classmethod
    def of_facts(cls, facts: Iterable[Fact]) -> "Recorded":
        """Read them from what records say: for readers that hold no lock, before what they are compared with."""
        highest: dict[str, Highest] = {}
        for seq, _, data in facts:
            note_highest(highest, seq, data)
        return cls(
            highest.get(CATALOG_REVISION, NEVER),
            {role: highest.get(version_key(role), NEVER) for role in TRUST_ROLES},
        )

    def older_catalog(self, revision: int) -> str | None:
        """Return the words for a catalog at `revision` that is older than the log, None for one that is not."""
        if revision >= self.catalog.value:
            return None
        return (
            f"the catalog is older than the log: it is at revision {revision}, "
            f"record {self.catalog.seq} says {self.catalog.value}"
        )

    def older_trust(self, versions: Mapping[str, int]) -> str | None:
        """Return the words for channel metadata of `versions` that is older than the log, None for one that is not."""
        for role, known in self.versions.items():
            found = versions.get(role, 0)
            if found < known.value:
                return (
                    f"the channel's {role} metadata is older than the log: it has version {found}, "
                    f"record {known.seq} says {known.value}"
                )
        return None


def version_key(role: str) -> str:
    """Return the name of the fact that says which version of `role` a refresh brought."""
    return f"{role}_version"


def check_catalog(site: Site, recorded: Recorded) -> None:
    """Refuse a catalog that is older than the log.

    Raises:
        IntegrityError: It is.
    """
    found = site.catalog.revision()
    older = recorded.older_catalog(found)
    if older is not None:
        raise IntegrityError(
            f"{older}; nothing is changed until it is put right, and what runs goes on",
            hint=_NEWEST_CATALOG,
            path=str(site.root / "catalog.db"),
            revision=found,
            recorded=recorded.catalog.value,
            record=recorded.catalog.seq,
        )


def check_versions(recorded: Recorded, versions: Mapping[str, int]) -> None:
    """Refuse channel metadata that is older than what the site has on record.

    Raises:
        RollbackError: It is.
    """
    older = recorded.older_trust(versions)
    if older is not None:
        raise RollbackError(
            f"{older}: the folder `trust` was put back, and this package is older too", hint=_NEWEST_TRUST
        )


def changed_catalog(site: Site, facts: Iterable[Fact]) -> str | None:
    """Return the words for a catalog whose rows are not those that the log saw at this very revision.

    The first record at a revision is the witness: a later one could have been made of changed rows already. Where a
    record says nothing of the catalog, an airpack that does not count may have worked, and the witness begins anew.

    Args:
        site: Its catalog is read.
        facts: What the records of its log say, in order.

    Raises:
        IntegrityError: The catalog does not hold.
        StorageError: It cannot be read.
    """
    revision, found = site.catalog.revision(), str(site.catalog.digest())
    witness: tuple[int, Value] | None = None
    for seq, _, data in facts:
        if CATALOG_REVISION not in data:
            witness = None
        elif witness is None and data[CATALOG_REVISION] == revision and CATALOG_DIGEST in data:
            witness = seq, data[CATALOG_DIGEST]
    if witness is None or witness[1] == found:
        return None
    return f"its rows at revision {revision} are not those that record {witness[0]} saw"


def facts_of(records: Iterable[Record]) -> list[Fact]:
    """Return what records that were read without opening the log say."""
    return [Fact(record.seq, record.event, record.data) for record in records]
