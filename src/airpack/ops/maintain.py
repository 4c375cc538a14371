"""fsck and gc: is everything there as it was verified, and what need not be kept any more."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.errors import AirpackError, IntegrityError, StorageError
from airpack.evidence.records import Event, Outcome, Subject
from airpack.ops.activate import active_release
from airpack.ops.examine import Examined, examine
from airpack.ops.generations import remove
from airpack.ops.incomplete import FOLDER as REPORTS
from airpack.ops.medium import find_head
from airpack.ops.recover import exclusive, locked, recover
from airpack.ops.repair import Repaired, can_record, carry_out, plan
from airpack.ops.site import Site, recorded
from airpack.ops.witness import changed_catalog
from airpack.policy import lifecycle
from airpack.types import Check, Digest, Reporter, Silent, State


@dataclass(frozen=True, slots=True)
class Fsck:
    """What fsck found.

    Attributes:
        examined: Each part of the site, and everything that is not as it should be; after a repair, what is left.
        repaired: What a repair did, or would do; None where none was asked for.
        fixed: Lines of what was found at first and is not there any more.
    """

    examined: Examined
    repaired: Repaired | None = None
    fixed: tuple[str, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """One for each part of the site."""
        return self.examined.checks

    @property
    def ok(self) -> bool:
        """Whether everything is as it was verified."""
        return not self.examined.problems

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        document: dict[str, Any] = {
            "ok": self.ok,
            "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in self.checks],
            "damage": self.examined.damage,
            "leftovers": self.examined.leftovers,
            "unchecked": self.examined.unchecked,
            "findings": [finding.document() for finding in self.examined.findings],
        }
        if self.repaired is not None:
            document["repair"] = {**self.repaired.document(), "fixed": list(self.fixed)}
        return document

    def error(self) -> AirpackError:
        """Return what there is to raise: damage where any was found, else that not all could be read."""
        first, *others = self.examined.problems
        more = len(others)
        kind: type[AirpackError] = IntegrityError if self.examined.damage else StorageError
        state = "not as it was verified" if self.examined.damage else "could not be checked"
        after = " after the repair" if self.repaired is not None and not self.repaired.dry_run else ""
        error = kind(f"{state}{after}: {first.line}" + (f", and {more} more" if more else ""), hint=first.help)
        error.document = self.document()
        return error


def fsck(
    site: Site,
    *,
    repair: bool = False,
    packages: Sequence[Path] = (),
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Fsck:
    """Hash everything a site holds again and hold its parts against each other; put right what can be, if asked to.

    Args:
        site: From `examine.open_damaged`, where it may be damaged.
        repair: Whether to put right what can be (ADR 15); then a second look says what is left.
        packages: Media to take bytes from, each a package's folder or head file.
        dry_run: With `repair`: only say what would be done.
        reporter: Receives progress.

    Raises:
        IntegrityError: Something is damaged; `document` names all of it.
        StorageError: Something could not be read; `document` names all of it. Or the result cannot go on record.
        NotFoundError: One of `packages` is not there.
        BusyError: Another airpack works on this site.
    """
    heads = [find_head(path) for path in packages]
    with locked(site):
        result = Fsck(examine(site, reporter or Silent()))
        if repair and dry_run:
            result = replace(result, repaired=plan(site, result.examined, heads))
        elif repair:
            result = _repair(site, result.examined, heads, reporter or Silent())
        else:
            _record(site, result)
    if not result.ok:
        raise result.error()
    return result


def _repair(site: Site, first: Examined, heads: Sequence[Path], reporter: Reporter) -> Fsck:
    if not can_record(site):
        # Law 8: what cannot go on record is not done.
        return Fsck(first, Repaired(dry_run=False, refused="the evidence log takes no records, so nothing is changed"))
    if first.holds("catalog"):
        with suppress(AirpackError):  # what it could not do, the second look finds
            recover(site)
    if not first.problems:
        result = Fsck(first, Repaired(dry_run=False))
        _record(site, result)
        return result
    corr = site.log.intent(Event.FSCK, data={"damaged": len(first.problems), "packages": len(heads)})
    repaired = carry_out(site, first, heads, reporter)
    left = examine(site, reporter)
    known = {finding.line for finding in left.findings}
    fixed = tuple(finding.line for finding in first.findings if finding.line not in known)
    result = Fsck(left, repaired, fixed)
    reason = "" if result.ok else result.error().code
    data = {"fixed": len(fixed), "left": len(left.problems), "blobs": len(repaired.restored)}
    site.log.result(corr, Outcome.DONE if result.ok else Outcome.FAILED, reason=reason, data=data)
    return result


def _record(site: Site, result: Fsck) -> None:
    """Put the result on record; where the log itself is what is broken, the result is all there is."""
    data = {"damaged": len(result.examined.problems)}
    if result.ok:
        site.log.note(Event.FSCK, Outcome.DONE, data=data)
    elif can_record(site):
        with recorded(result.error()):
            site.log.note(Event.FSCK, Outcome.FAILED, reason=result.error().code, data=data)


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc removed, or would remove.

    Attributes:
        releases: Releases that retention no longer keeps, `product@version`.
        generations: Folders of generations that nothing points to.
        blobs: Number of blobs.
        bytes: Their size.
        quarantines: Folders of imports that were given up.
    """

    releases: tuple[str, ...]
    generations: tuple[str, ...]
    blobs: int
    bytes: int
    quarantines: int

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "releases": list(self.releases),
            "generations": list(self.generations),
            "blobs": self.blobs,
            "bytes": self.bytes,
            "quarantines": self.quarantines,
        }


def gc(site: Site, *, dry_run: bool = False) -> Collected:
    """Remove what is neither active, nor known good within retention, nor newer than that.

    Fails closed: where catalog or evidence log do not hold, nothing is removed.

    Args:
        site: The site.
        dry_run: Only say what would be removed.

    Raises:
        IntegrityError: Catalog or evidence log do not hold.
        StorageError: Something cannot be removed.
        BusyError: Another airpack works on this site.
    """
    with exclusive(site):
        broken = site.catalog.check()
        broken += [line for line in (changed_catalog(site, site.log.facts()),) if line]
        if broken:
            raise IntegrityError(f"the catalog is damaged, so nothing is removed: {broken[0]}")
        retired = _retired(site)
        gone = {digest for digest, _ in retired}
        # Also those of releases that were retired by a gc that was cut short.
        past = gone | {row.digest for row in site.catalog.releases() if row.state is State.SUPERSEDED}
        trees = [item for item in site.catalog.generations() if item.release in past]
        doomed = _doomed_blobs(site, gone)
        quarantines = [path for path in (site.root / "ingest").iterdir() if path.is_dir()]
        result = Collected(
            releases=tuple(name for _, name in retired),
            generations=tuple(str(site.tree(item)) for item in trees),
            blobs=len(doomed),
            bytes=sum(doomed.values()),
            quarantines=len(quarantines),
        )
        if dry_run:
            return result
        corr = site.log.intent(
            Event.GC,
            subject=[Subject(name, digest) for digest, name in retired][:64],
            data={"releases": len(retired), "blobs": len(doomed), "bytes": result.bytes},
        )
        site.catalog.retire(gone)
        for item in trees:
            remove(site, item)
        for digest in doomed:
            site.store.remove(digest)
        site.catalog.drop_blobs(doomed)
        for path in quarantines:
            fsops.remove_tree(path)
        fsops.remove_tree(site.root / REPORTS)  # they say what is needed beside what the quarantines had
        site.log.result(corr, Outcome.DONE, data={"bytes": result.bytes})
        return result


def _retired(site: Site) -> list[tuple[Digest, str]]:
    retired = []
    for product in site.catalog.products():
        rows = [row for row in site.catalog.releases(product) if row.state is not State.SUPERSEDED]
        names = {row.digest: row.name for row in rows}
        active = active_release(site, product)
        doomed = lifecycle.retired([row.standing for row in rows], active.digest if active else None)
        retired += [(standing.release, names[standing.release]) for standing in doomed]
    return retired


def _doomed_blobs(site: Site, retired: set[Digest]) -> dict[Digest, int]:
    """Return the blobs that no release will claim once `retired` are gone, with their sizes on disk."""
    kept: set[Digest] = set()
    for row in site.catalog.releases():
        if row.digest not in retired and row.state is not State.SUPERSEDED:
            kept |= set(site.catalog.blobs(row.digest))
    doomed = [digest for digest in site.store.digests() if digest not in kept]
    return {digest: _size(site.store.path(digest)) for digest in doomed}


def _size(path: Path) -> int:
    return path.stat().st_size
