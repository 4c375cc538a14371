"""The channel as a site sees it: refreshed on a copy of the trust state, and put in force once the refresh holds."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from airpack import fsops
from airpack.crypto.client import TrustedChannel, refresh, reload
from airpack.errors import IntegrityError, NotFoundError, RevokedError, StorageError, TrustError
from airpack.evidence.records import Event, Outcome, Subject, clip
from airpack.formats.head import Head
from airpack.formats.times import emit_time
from airpack.formats.trust import REVOCATIONS_TARGET, Revocations
from airpack.ops.site import Site
from airpack.types import State

_RESTORE = "put the folder `trust` back from a backup, or make a new site and import its releases again"
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
            # Read before they are in force: a list that cannot be read must not bar what runs, or the way back.
            revocations = Revocations.parse(channel.target(REVOCATIONS_TARGET))
            if keep and _versions(site) != channel.versions:
                versions = {f"{role}_version": version for role, version in channel.versions.items()}
                site.log.note(Event.TRUST, Outcome.DONE, data={"channel": channel.channel, **versions})
                site.promote_trust(state)
            if keep:
                _apply_revocations(site, revocations)
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


def _apply_revocations(site: Site, revocations: Revocations) -> None:
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
