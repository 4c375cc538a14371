"""The channel as a site sees it: refreshed on a copy of the trust state, and put in force once the refresh holds."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from airpack import fsops
from airpack.crypto.client import TrustedChannel, refresh, reload
from airpack.errors import IntegrityError, NotFoundError, RevokedError, StorageError, TrustError
from airpack.evidence.log import Fact
from airpack.evidence.records import MAX_LIST, Event, Outcome, Subject, Value, clip
from airpack.formats.head import Head
from airpack.formats.times import emit_time
from airpack.formats.trust import REVOCATIONS_TARGET, Revocations
from airpack.ops.site import Site
from airpack.ops.witness import Recorded, check_versions, version_key
from airpack.store.blobs import hash_file
from airpack.types import State

_RESTORE = "airpack fsck --repair PACKAGE, with the newest package there is, makes the trust state anew"
FILES = "trust_files"
"""Fact in the record of a refresh: the files of the state that it brought."""
_ATTEMPTS = 3  # to copy a trust state that imports keep replacing


def site_refresh(site: Site, *, keep: bool) -> Callable[[Head], TrustedChannel]:
    """Return the TUF refresh of this site, for admission.

    What a refresh proves is kept whatever becomes of the release: metadata never goes back.

    Args:
        site: Its trust state is copied, never worked on in place.
        keep: Whether to put the refreshed state in force (not for a dry run).
    """

    def run(head: Head) -> TrustedChannel:
        with _copied(site, site.root / "ingest") as state:
            channel = _refreshed(site, state, head, record=keep)
            check_versions(Recorded.of_log(site), channel.versions)
            # Read before they are in force: a list that cannot be read must not bar what runs, or the way back.
            revocations = Revocations.parse(channel.target(REVOCATIONS_TARGET))
            if keep and _versions(site) != channel.versions:
                _promote(site, state, channel)
            if keep:
                apply_revocations(site, revocations)
        return channel

    return run


def stored_channel(site: Site) -> TrustedChannel | None:
    """Return the channel as the site last saw it, whether expired or not; None before the first import.

    Raises:
        IntegrityError: The stored state is damaged, or gone although the site holds releases.
    """
    with _copied(site, None) as state:  # readers hold no lock, and may not be able to write to the site
        try:
            return reload(state, root=site.pinned_root())
        except NotFoundError as error:
            if not site.catalog.releases():
                return None
            raise IntegrityError(f"the site has lost its trust state {site.trust}", hint=_RESTORE) from error
        except (TrustError, IntegrityError) as error:
            raise IntegrityError(
                f"the site's trust state {site.trust} is damaged: {error.message}", hint=_RESTORE
            ) from error


def stored_revocations(site: Site) -> Revocations:
    """Return the revocations that are in force at the site; none before the first import.

    Raises:
        IntegrityError: The stored state is damaged or gone.
    """
    channel = stored_channel(site)
    return Revocations.parse(channel.target(REVOCATIONS_TARGET)) if channel is not None else Revocations({})


def _promote(site: Site, state: Path, channel: TrustedChannel) -> None:
    """Stage, record, put in force: whatever is on record is there for `finish_promotion` after a crash."""
    staged = site.stage_trust(state)
    versions = {version_key(role): version for role, version in channel.versions.items()}
    data: dict[str, Value] = {"channel": channel.channel, FILES: state_files(staged), **versions}
    site.log.note(Event.TRUST, Outcome.DONE, data=data)
    site.promote_trust(staged)


def rebuild_trust(site: Site, head: Head) -> None:
    """Put a new trust state in force in place of one that is damaged, lost or older, from the pinned root on.

    What guards against rollback is then not the state, but the versions that the log has on record: nothing below them.

    Raises:
        IntegrityError: No record says how new the state was.
        TrustError: The head's metadata does not hold, or has expired.
        RollbackError: It is older than what is on record.
    """
    recorded = Recorded.of_log(site)
    if not all(known.value for known in recorded.versions.values()):
        raise IntegrityError("no record says how new the trust state was, so none can be made anew", hint=_RESTORE)
    folder = Path(tempfile.mkdtemp(prefix="trust-", dir=site.root / "ingest"))
    try:
        channel = _refreshed(site, folder / "state", head, record=True)
        check_versions(recorded, channel.versions)
        Revocations.parse(channel.target(REVOCATIONS_TARGET))  # as at an import: read before they are in force
        _promote(site, folder / "state", channel)
    finally:
        fsops.remove_tree(folder)


def finish_promotion(site: Site) -> None:
    """Put in force the trust state that went on record just before a crash; what did not is left to be cleared away."""
    staged = staged_trust(site, site.log.facts())
    if staged is not None:
        site.promote_trust(staged)


def staged_trust(site: Site, facts: Iterable[Fact]) -> Path | None:
    """Return the trust state that the newest of `facts` names, where it is there and not in force; None otherwise.

    Raises:
        StorageError: It cannot be read.
    """
    in_force = site.trust_or_none
    others = [path for path in (site.root / "trust").glob("*") if path.name.isdigit() and path != in_force]
    known = recorded_state(facts) if others else None
    return next((path for path in others if known is not None and state_files(path) == known), None)


def recorded_state(facts: Iterable[Fact]) -> tuple[str, ...] | None:
    """Return the files of the newest trust state on record, None where no record says them."""
    newest = None
    for _, event, data in facts:
        if event is Event.TRUST and isinstance(files := data.get(FILES), tuple):
            newest = files
    return newest


def state_files(folder: Path) -> tuple[str, ...]:
    """Return `NAME DIGEST` for each file of a trust state, `NAME -> TARGET` for each link, at most what a record takes.

    Old roots come last: each is signed by the one before it.

    Raises:
        IntegrityError: Something in it is neither file, folder nor link.
        StorageError: It cannot be read.
    """
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(f"{name} -> {path.readlink()}")
        elif not path.is_dir():
            found.append(f"{name} {hash_file(path)[0]}")
    return tuple(sorted(found, key=lambda line: (line.startswith("root_history/"), line))[:MAX_LIST])


def apply_revocations(site: Site, revocations: Revocations) -> None:
    """Block what the channel has withdrawn. What runs goes on running, shown as blocked, until somebody decides."""
    for row in site.catalog.releases():
        if row.digest in revocations.releases and row.state not in {State.REVOKED, State.SUPERSEDED}:
            site.log.note(
                Event.POLICY,
                Outcome.REFUSED,
                reason=RevokedError.code,
                subject=[Subject(row.name, row.digest)],
                data={"message": clip(revocations.releases[row.digest])},
            )
            site.catalog.set_state(row.digest, State.REVOKED, proven=False)


def _versions(site: Site) -> Mapping[str, int]:
    channel = stored_channel(site)
    return channel.versions if channel is not None else {}


@contextmanager
def _copied(site: Site, place: Path | None) -> Iterator[Path]:
    """Copy the trust state into a new folder in `place`, None for the system's temporary one."""
    state = Path(tempfile.mkdtemp(prefix="trust-", dir=place))
    try:
        _copy(site, state / "state")
        yield state / "state"
    finally:
        fsops.remove_tree(state)


def _copy(site: Site, state: Path) -> None:
    """Copy the trust state in force; where an import put another in force meanwhile, copy that one."""
    for attempt in range(_ATTEMPTS):
        source = site.trust
        try:
            shutil.copytree(source, state, symlinks=True)
        except OSError as error:
            if attempt + 1 == _ATTEMPTS or source == site.trust:
                raise StorageError(f"cannot copy the trust state: {error}") from error
            fsops.remove_tree(state)
        else:
            return


def _refreshed(site: Site, state: Path, head: Head, *, record: bool) -> TrustedChannel:
    """Refresh; a clock that lies before a time the channel itself has signed is put on record and not believed."""

    def at(now: datetime) -> TrustedChannel:
        return refresh(
            state,
            metadata=head.metadata,
            targets=head.targets,
            root=site.pinned_root(),
            now=now,
            minimum=site.minimum,
        )

    now = site.now()
    channel = at(now)
    if channel.issued <= now:
        return channel
    if record:
        data = {"clock": emit_time(now), "floor": emit_time(channel.issued)}
        site.log.note(Event.CLOCK, Outcome.DONE, data=data)
    return at(channel.issued)
