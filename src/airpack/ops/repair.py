"""What `fsck --repair` does: bytes from packages, and everything that can be made again from what still holds.

A package is a mere source of bytes. Its manifest must be signed by the packers of the policy that the site stores, so
that no parser and no decompressor sees unsigned bytes (law 4); each byte must then have a digest that the site's own
catalog names already. Nothing else of the package counts: not its metadata, not its dates, not its attestations. So an
old medium repairs, expired or not (law 6), and none brings in anything new.

The order, each step where the one it rests on holds; what fails is said, and the others go on:

    1. root.json, site.toml, site.pub: from the log's first record, the site's key, and roots of the pinned digest
    2. trust/: made anew from a package, as an import would, and never below the versions on record
    3. blobs: from packages, through the quarantine
    4. generations: those that are not whole are made again
    5. receipts: from the catalog

Links, and what a crash left, were put right before, as before every command. The log is never touched, and where it
takes no records nothing is done. Where the catalog is damaged, or older than the log, steps 3 to 5 are left: it is what
they go by.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import airpack
from airpack import fsops
from airpack.errors import AirpackError, IntegrityError, StorageError
from airpack.formats import head as heads_format
from airpack.formats.head import Head
from airpack.formats.package import PackageManifest
from airpack.formats.trust import POLICY_TARGET, TrustPolicy
from airpack.ops.examine import PUBLIC_KEY, Examined, Remedy, look_at_trust, open_log, recorded_identity
from airpack.ops.generations import renew
from airpack.ops.medium import read_head
from airpack.ops.quarantine import fetch
from airpack.ops.receipts import check_receipt, write_receipt
from airpack.ops.site import Site
from airpack.ops.trust import apply_revocations, rebuild_trust, stored_channel, stored_revocations
from airpack.policy.admission import open_package
from airpack.transport.reader import open_media
from airpack.types import Digest, Limits, Reporter, State

_SPARE: Final = 16 << 20  # bytes


@dataclass(slots=True)
class Taken:
    """What came, or would come, from one package.

    Attributes:
        head: Its head file.
        blobs: How many damaged or missing blobs it holds.
        error: Why nothing more could be taken from it.
    """

    head: Path
    blobs: int = 0
    error: AirpackError | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        error = {"code": self.error.code, "message": self.error.message} if self.error else None
        return {"head": str(self.head), "blobs": self.blobs, "error": error}


@dataclass(slots=True)
class Repaired:
    """What a repair did, or would do.

    Attributes:
        dry_run: Whether nothing was done.
        refused: Why nothing was done at all.
        restored: Blobs that came from packages, or would come.
        rewritten: Files, links and folders that were made again, or would be.
        packages: What came from each package.
        failed: Steps that did not get through, with why.
    """

    dry_run: bool
    refused: str = ""
    restored: list[Digest] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    packages: list[Taken] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "dry_run": self.dry_run,
            "refused": self.refused or None,
            "restored": [str(digest) for digest in self.restored],
            "rewritten": self.rewritten,
            "packages": [taken.document() for taken in self.packages],
            "failed": self.failed,
        }


def can_record(site: Site) -> bool:
    """Return whether the log takes records: it holds, and so does the key that signs it."""
    try:
        open_log(site)
    except AirpackError:
        return False
    return True


def plan(site: Site, found: Examined, heads: Sequence[Path]) -> Repaired:
    """Return what `carry_out` would do; nothing is changed, and no volume is opened."""
    planned = Repaired(dry_run=True)
    if not can_record(site):
        planned.refused = "the evidence log takes no records, so nothing would be changed"
        return planned
    if found.holds("catalog", "trust"):
        wanted = _wanted(found)
        for taken, package in _sources(site, heads, planned):
            here = wanted & ({*package.head.blobs} | {file.digest for file in package.manifest.files})
            taken.blobs = len(here)
            planned.restored += sorted(here)
            wanted -= here
    planned.rewritten = [item.line for item in found.findings if item.remedy is Remedy.REPAIR]
    return planned


def carry_out(site: Site, found: Examined, heads: Sequence[Path], reporter: Reporter) -> Repaired:
    """Put right what can be; the caller holds the lock, has an intent on record, and looks again afterwards.

    Args:
        site: The site, with the identity that its log gives it.
        found: The first look.
        heads: Head files of the packages to take bytes from.
        reporter: Receives progress.
    """
    done = Repaired(dry_run=False)
    step = partial(_step, done)
    if not found.holds("site"):
        step("root.json", lambda: _restore_root(site, heads, done))
        step("site.toml", lambda: _rewrite(site, "site.toml", _identity(site), done))
    if not found.holds("evidence"):
        step(PUBLIC_KEY, lambda: _rewrite(site, PUBLIC_KEY, site.public_key.pem, done))
    if not found.holds("site", "trust"):  # where the root did not hold, nobody could look at what rests on it
        step("trust", lambda: _restore_trust(site, heads, done))
    if not found.holds("catalog"):
        done.failed.append("blobs, generations, receipts: the catalog does not hold, and they go by it")
        return done
    step("blobs", lambda: _restore_blobs(site, found, heads, done, reporter))
    _renew_trees(site, done)
    if not found.holds("receipts"):
        _rewrite_receipts(site, done)
    return done


def _step(done: Repaired, name: str, act: Callable[[], None]) -> None:
    """Do one step; what it fails with is kept, and the next one goes on."""
    try:
        act()
    except AirpackError as error:
        done.failed.append(f"{name}: {error.message}")


def _rewrite(site: Site, name: str, data: bytes, done: Repaired) -> None:
    """Write one of the site's own files again where it is not as it should be."""
    path = site.root / name
    try:
        if fsops.read_regular(path, Limits.DOCUMENT) == data:
            return
    except AirpackError:
        _clear(path)
    fsops.write_durable(path, data)
    done.rewritten.append(name)


def _clear(path: Path) -> None:
    """Remove what lies in place of a file: a link, never a folder."""
    if path.is_symlink():
        fsops.remove_file(path)


def _identity(site: Site) -> bytes:
    known = recorded_identity(site.root)
    if known is None:
        raise IntegrityError("the log does not say what site this is")
    return known.emit()


def _restore_root(site: Site, heads: Sequence[Path], done: Repaired) -> None:
    """Find the pinned root again by its digest: in the trust state, or in a package of the channel."""
    try:
        site.check_root()
    except AirpackError:
        found = next((data for data in _roots(site, heads) if Digest.of(data) == site.fingerprint), None)
        if found is None:
            raise
        _rewrite(site, "root.json", found, done)


def _roots(site: Site, heads: Sequence[Path]) -> Iterator[bytes]:
    for path in sorted((site.root / "trust").glob("*/root_history/*.root.json")):
        yield fsops.read_regular(path, Limits.ROOT)
    for head in heads:
        parsed = heads_format.parse(read_head(head))
        yield from (data for name, data in parsed.metadata.items() if name.endswith(".root.json"))


def _restore_trust(site: Site, heads: Sequence[Path], done: Repaired) -> None:
    """Make the trust state anew, where it does not hold, from the first package that does; each refusal is said."""
    if not look_at_trust(site):
        return
    refusals = []
    for head in heads:
        try:
            rebuild_trust(site, heads_format.parse(read_head(head)))
        except AirpackError as error:
            refusals.append(f"{head.name}: {error.message}")
        else:
            done.rewritten.append("trust")
            return
    raise IntegrityError("; ".join(refusals) or "no package was given to make it from")


# -- blobs


@dataclass(frozen=True, slots=True)
class _Package:
    """A package whose manifest the site's packers signed."""

    head: Head
    manifest: PackageManifest
    digest: Digest


def _sources(site: Site, heads: Sequence[Path], done: Repaired) -> Iterator[tuple[Taken, _Package]]:
    """Yield the packages that may be taken from; the others are among `done.packages` with their refusal."""
    policy = _stored_policy(site)
    for path in heads:
        taken = Taken(path)
        done.packages.append(taken)
        try:
            parsed = heads_format.parse(read_head(path))
            manifest, digest = open_package(parsed, policy, have=airpack.__version__)
        except AirpackError as error:
            taken.error = error
        else:
            yield taken, _Package(parsed, manifest, digest)


def _stored_policy(site: Site) -> TrustPolicy:
    channel = stored_channel(site)
    if channel is None:
        raise IntegrityError("the site has seen no channel yet, so no package is signed by its packers")
    return TrustPolicy.parse(channel.target(POLICY_TARGET))


def _restore_blobs(site: Site, found: Examined, heads: Sequence[Path], done: Repaired, reporter: Reporter) -> None:
    apply_revocations(site, stored_revocations(site))  # a trust state that was made anew may know of more
    wanted = _wanted(found)
    if not wanted or not heads:
        return
    for taken, package in _sources(site, heads, done):
        try:
            restored = _take(site, package, taken.head.parent, wanted, reporter)
        except AirpackError as error:
            taken.error = error
            continue
        taken.blobs = len(restored)
        done.restored += sorted(restored)
        wanted -= restored


def _wanted(found: Examined) -> set[Digest]:
    return {item.blob for item in found.findings if item.blob is not None}


def _take(site: Site, package: _Package, medium: Path, wanted: set[Digest], reporter: Reporter) -> set[Digest]:
    """Bring what is wanted and in this package into the store; return it."""
    sizes: Mapping[Digest, int] = {file.digest: file.size for file in package.manifest.files}
    files = wanted & sizes.keys()
    small = wanted & package.head.blobs.keys()
    _check_space(site, sum(sizes[digest] for digest in files))
    for digest in small:
        site.store.put(package.head.blobs[digest])
    if not files:
        return small
    with open_media(package.manifest, package.digest, [medium]) as media:
        fetched = fetch(site, media, package.digest, wanted=files, reporter=reporter)
        site.store.adopt((digest, fetched.folder / digest.hex) for digest in sorted(fetched.files))
        fsops.remove_tree(fetched.folder)
        if not fetched.files:
            fetched.outcome.refuse(media)
        return small | fetched.files


def _check_space(site: Site, needed: int) -> None:
    have = fsops.free_bytes(site.root)
    if needed and needed + _SPARE > have:
        raise StorageError(f"not enough space: {needed + _SPARE} bytes are needed in {site.root}, {have} are free")


# -- what is made of blobs and rows


def _renew_trees(site: Site, done: Repaired) -> None:
    for row in site.catalog.releases():
        trees = [item for item in site.catalog.generations(row.product) if item.release == row.digest]
        if trees and row.state is not State.SUPERSEDED:
            _step(done, f"generations of {row.name}", partial(_renew, site, row.digest, done))


def _renew(site: Site, digest: Digest, done: Repaired) -> None:
    row = site.catalog.release(digest)
    assert row is not None
    trees = [item for item in site.catalog.generations(row.product) if item.release == digest]
    count = renew(site, row, trees)
    done.rewritten += [f"generation of {row.name}"] * count


def _rewrite_receipts(site: Site, done: Repaired) -> None:
    for row in site.catalog.releases():
        _step(done, f"receipt of {row.name}", partial(_rewrite_receipt, site, row.digest, done))


def _rewrite_receipt(site: Site, digest: Digest, done: Repaired) -> None:
    row = site.catalog.release(digest)
    assert row is not None
    check_receipt(row.receipt, key=site.public_key, release=digest)
    path = site.root / "evidence/receipts" / f"{digest.hex}.json"
    _clear(path)
    if not path.exists() or fsops.read_regular(path, Limits.DOCUMENT) != row.receipt:
        write_receipt(site, row)
        done.rewritten.append(f"receipt of {row.name}")
