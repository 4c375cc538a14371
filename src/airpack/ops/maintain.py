"""fsck and gc: is everything there as it was verified, and what need not be kept any more."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from airpack import fsops
from airpack.errors import AirpackError, IntegrityError
from airpack.evidence.records import Event, Outcome, Subject
from airpack.ops.activate import active_release
from airpack.ops.generations import damage, load_release, remove
from airpack.ops.recover import exclusive, locked
from airpack.ops.site import Site
from airpack.ops.trust import stored_channel
from airpack.policy import lifecycle
from airpack.store.blobs import hash_file
from airpack.types import Check, Digest, Reporter, Silent, State


@dataclass(frozen=True, slots=True)
class Fsck:
    """What fsck found: one check per kind of thing, each damage by name in its detail."""

    checks: tuple[Check, ...]
    damage: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "ok": not self.damage,
            "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in self.checks],
            "damage": list(self.damage),
        }


def fsck(site: Site, *, reporter: Reporter | None = None) -> Fsck:
    """Hash every stored blob again and compare catalog, store, generations, links and evidence log.

    Raises:
        IntegrityError: Something is damaged; `document` names all of it.
        BusyError: Another airpack works on this site.
    """
    with locked(site):
        checks = []
        found: list[str] = []
        parts: dict[str, Callable[[], tuple[int, list[str]]]] = {
            "catalog": partial(_check_catalog, site),
            "blobs": partial(_check_blobs, site, reporter or Silent()),
            "strays": partial(_check_strays, site),
            "generations": partial(_check_generations, site),
            "links": partial(_check_links, site),
            "trust": partial(_check_trust, site),
        }
        for name, check in parts.items():
            count, wrong = check()
            found += wrong
            checks.append(
                Check(name, ok=not wrong, detail="; ".join(wrong[:3]) if wrong else f"{count} as they should")
            )
        checks.append(Check("evidence", ok=True, detail=f"{site.log.size} records match the signed checkpoint"))
        result = Fsck(tuple(checks), tuple(found))
        outcome = Outcome.FAILED if found else Outcome.DONE
        reason = IntegrityError.code if found else ""
        site.log.note(Event.FSCK, outcome, reason=reason, data={"damaged": len(found)})
        if found:
            error = IntegrityError(
                f"{len(found)} things are not as they were verified, the first: {found[0]}",
                hint="import the package of the damaged release again: what is whole is kept, the rest is replaced",
            )
            error.document = result.document()
            raise error
        return result


def _check_catalog(site: Site) -> tuple[int, list[str]]:
    return len(site.catalog.releases()), [f"catalog: {line}" for line in site.catalog.check()]


def _check_blobs(site: Site, reporter: Reporter) -> tuple[int, list[str]]:
    expected = site.catalog.blobs()
    wrong = []
    reporter.start("fsck", sum(expected.values()))
    for digest, size in sorted(expected.items()):
        try:
            found = hash_file(site.store.path(digest))
        except AirpackError as error:
            wrong.append(f"blob {digest}: {error.message}")
        else:
            if found != (digest, size):
                wrong.append(f"blob {digest}: has {found[1]} bytes with {found[0]}")
        reporter.advance(size, digest.short)
    reporter.finish()
    return len(expected), wrong


def _check_strays(site: Site) -> tuple[int, list[str]]:
    known = set(site.catalog.blobs()) | set(site.catalog.unclaimed())
    strays = [f"stray {path.relative_to(site.root)}" for path in site.store.strays()]
    orphans = [
        f"orphan blob {digest} (airpack gc removes it)" for digest in site.store.digests() if digest not in known
    ]
    return len(known), strays + orphans


def _check_generations(site: Site) -> tuple[int, list[str]]:
    generations = site.catalog.generations()
    wrong = []
    for generation in generations:
        name = f"generation {generation.product}/{generation.number}"
        try:
            release = load_release(site, generation.release)
        except AirpackError as error:
            wrong.append(f"{name}: {error.message}")
            continue
        wrong += [f"{name}: {line}" for line in damage(site.tree(generation), release)]
    return len(generations), wrong


def _check_links(site: Site) -> tuple[int, list[str]]:
    wrong = []
    products = site.catalog.products()
    for product in products:
        active = site.catalog.active(product)
        link = site.current(product)
        found = str(link.readlink()) if link.is_symlink() else None
        expected = f"../../generations/{product}/{active.number}" if active else None
        if found != expected:
            wrong.append(f"link {product}/current says {found}, the catalog {expected}")
    return len(products), wrong


def _check_trust(site: Site) -> tuple[int, list[str]]:
    try:
        channel = stored_channel(site)
    except AirpackError as error:
        return 0, [f"trust: {error.message}"]
    return len(channel.versions) if channel is not None else 0, []


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
