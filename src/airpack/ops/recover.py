"""Working on a site: its lock, and what an earlier crash left put right before anything else happens.

The evidence log says what was begun, the catalog says what is true. Every intent without a result gets one; a trial
that was cut short counts as a try; links are made to say what the catalog says. The quarantine of an interrupted import
stays, so that importing the same package again goes on where it stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from airpack import fsops
from airpack.catalog.catalog import ReleaseRow
from airpack.errors import IntegrityError, NotFoundError
from airpack.evidence.records import Event, Outcome, Record, Subject, clip
from airpack.formats.times import emit_time
from airpack.ops.fallback import fall_back
from airpack.ops.receipts import write_receipt
from airpack.ops.site import FOLDERS, Site, recorded
from airpack.ops.trust import finish_promotion
from airpack.ops.witness import Recorded, check_catalog
from airpack.policy import lifecycle
from airpack.types import Silent, State

_WRITTEN: Final = (
    "trust",
    "evidence",
    "evidence/log",
    "evidence/receipts",
    "repair",
)  # folders that files are written into


@contextmanager
def exclusive(site: Site) -> Iterator[None]:
    """Hold the site's lock; recovery has run when the context is entered.

    Raises:
        BusyError: Another airpack works on this site.
        IntegrityError: The evidence log does not hold, or the catalog is older than it; nothing is done then.
        StorageError: The evidence log cannot append; nothing is done then.
    """
    with locked(site):
        recover(site)
        yield


def recover(site: Site) -> None:
    """Put right what a crash left; the caller holds the lock.

    Raises:
        IntegrityError: The evidence log does not hold, or the catalog is older than it; nothing is done then.
        StorageError: The evidence log cannot append; nothing is done then.
    """
    _refuse_older_catalog(site)  # first, because it opens the log: where that does not hold, nothing is touched
    for name in FOLDERS:
        fsops.make_dir(site.root / name)
    _note_clock(site)
    _settle_intents(site)
    _settle_trials(site)
    finish_promotion(site)
    _clear_temporary(site)
    _settle_links(site)


@contextmanager
def exporting(site: Site) -> Iterator[None]:
    """Hold the site's lock for an export of evidence; recovery has run when the context is entered, if it can.

    Evidence leaves a site whose catalog is lost, damaged or older than the log: it is what shows that.

    Raises:
        BusyError: Another airpack works on this site.
        IntegrityError: The evidence log does not hold.
        StorageError: The evidence log cannot append.
    """
    with locked(site):
        _ = site.log
        with suppress(IntegrityError, NotFoundError):
            recover(site)
        yield


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Hold the site's lock and leave everything as it is: for `fsck`, which must see what is wrong.

    Raises:
        BusyError: Another airpack works on this site.
    """
    with fsops.Lock(site.root / ".lock"):
        fsops.make_dir(site.root / "ingest", 0o700)
        yield


def _refuse_older_catalog(site: Site) -> None:
    told = Recorded.of_log(site)
    try:
        check_catalog(site, told)
    except IntegrityError as error:
        with recorded(error):
            data = {"message": clip(error.message)}
            site.log.note(Event.RECOVER, Outcome.REFUSED, reason=error.code, data=data)
        raise


def _note_clock(site: Site) -> None:
    """Put on record that the clock is behind the log's newest record, once: the note is the newest one then."""
    newest, now = site.log.newest(), site.now()
    if newest is not None and now < newest.time.wall:
        data = {"clock": emit_time(now), "newest": emit_time(newest.time.wall)}
        site.log.note(Event.CLOCK, Outcome.DONE, data=data)


def _clear_temporary(site: Site) -> None:
    for generation in site.catalog.generations():
        # Its number was allotted, its tree never came to stand.
        if not site.tree(generation).exists() and site.catalog.active(generation.product) != generation:
            site.catalog.drop_generation(generation)
    site.store.clear_temporary()
    for folder in (site.root, *(site.root / name for name in _WRITTEN), *(site.root / "products").iterdir()):
        fsops.clear_temporary(folder)
    for path in (*(site.root / "ingest").glob("trust-*"), *(site.root / "ingest").glob("probe-*")):
        fsops.remove_tree(path)
    kept = {site.tree(generation) for generation in site.catalog.generations()}
    for path in (site.root / "generations").glob("*/*"):
        if path not in kept:
            fsops.remove_tree(path)
    in_force = site.trust_or_none  # its loss is no reason to bar the way to what is known good, nor to clear the rest
    for path in (site.root / "trust").iterdir() if in_force else ():
        if path.is_dir() and not path.is_symlink() and path != in_force:
            fsops.remove_tree(path)


def _settle_trials(site: Site) -> None:
    for row in site.catalog.releases():
        if row.state not in {State.TRIAL, State.PROBATION}:
            continue
        after = lifecycle.after_interruption(row.tries, proven=row.proven)
        if after is State.FAILED and _runs(site, row):
            fall_back(site, row, Silent())
        site.log.note(
            Event.RECOVER,
            Outcome.INTERRUPTED,
            subject=[Subject(row.name, row.digest)],
            data={"state": after.value, "tries_left": row.tries},
        )
        site.catalog.set_state(row.digest, after, proven=row.proven and after is State.KNOWN_GOOD)


def _settle_intents(site: Site) -> None:
    for intent in site.log.open_intents():
        site.log.result(
            intent.corr,
            Outcome.DONE if _took_effect(site, intent) else Outcome.INTERRUPTED,
            data={"recovered": True},
        )


def _took_effect(site: Site, intent: Record) -> bool:
    """Return whether what was begun had become true before the crash."""
    subjects = {subject.digest for subject in intent.subject}
    rows = [row for row in site.catalog.releases() if row.digest in subjects and row.state is not State.SUPERSEDED]
    if intent.event is Event.IMPORT:
        whole = [row for row in rows if not site.store.missing(site.catalog.blobs(row.digest).items())]
        for row in whole:
            write_receipt(site, row)
        return bool(whole)
    if intent.data.get("automatic"):
        # A fallback names what failed, and is done once that runs no more.
        return not any(_runs(site, row) for row in rows)
    if intent.event in {Event.ACTIVATE, Event.ROLLBACK}:
        # What ran before as well proves nothing: it may have been cut short before its probes.
        before = intent.data.get("active_before")
        return any(_runs(site, row) and row.state is State.KNOWN_GOOD and row.name != before for row in rows)
    return False


def _runs(site: Site, row: ReleaseRow) -> bool:
    active = site.catalog.active(row.product)
    return active is not None and active.release == row.digest


def _settle_links(site: Site) -> None:
    for product in site.catalog.products():
        site.point(product)
