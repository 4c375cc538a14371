"""Looking at a site: what runs, what is held, how fresh the channel is. Nothing is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airpack.catalog.catalog import ReleaseRow
from airpack.crypto.client import TrustedChannel, check_root
from airpack.errors import NotFoundError
from airpack.evidence.records import Record
from airpack.formats.bom import Bom
from airpack.formats.times import emit_time
from airpack.formats.trust import POLICY_TARGET, TrustPolicy
from airpack.ops.activate import active_release, brief, find_release
from airpack.ops.generations import load_release
from airpack.ops.site import Site
from airpack.ops.trust import stored_channel
from airpack.ops.witness import Recorded, facts_of
from airpack.policy import lifecycle
from airpack.policy.bom import verified_bom
from airpack.types import Limits, State


@dataclass(frozen=True, slots=True)
class ProductStatus:
    """One product.

    Attributes:
        name: Its name.
        active: What runs, None for nothing.
        known_good: Releases that proved good here and can be gone back to, newest first.
        floor: Highest sequence that proved good.
    """

    name: str
    active: ReleaseRow | None
    known_good: tuple[ReleaseRow, ...]
    floor: int


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """The whole site at one look.

    Attributes:
        site: The site.
        starter: Whether its channel is a starter channel.
        channel: The channel as last seen, None before the first import.
        products: Each product.
        records: Number of records in the evidence log.
        now: The machine's clock.
        warnings: What contradicts the log: a catalog, a trust state or a clock that went back.
    """

    site: Site
    starter: bool
    channel: TrustedChannel | None
    products: tuple[ProductStatus, ...]
    records: int
    now: datetime
    warnings: tuple[str, ...]

    @property
    def expired(self) -> list[str]:
        """Roles whose metadata has expired: imports of packages no fresher are refused, operation goes on."""
        if self.channel is None:
            return []
        return [role for role, moment in self.channel.expires.items() if moment <= self.now]

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "site": str(self.site.root),
            "site_id": self.site.site_id,
            "root_fingerprint": str(self.site.fingerprint),
            "channel": self.channel.channel if self.channel else None,
            "starter": self.starter,
            "expires": {role: emit_time(at) for role, at in self.channel.expires.items()} if self.channel else {},
            "expired": self.expired,
            "records": self.records,
            "warnings": list(self.warnings),
            "products": {
                product.name: {
                    "active": brief(product.active),
                    "known_good": [row.version for row in product.known_good],
                    "floor": product.floor,
                    "current": str(self.site.current(product.name)) if product.active else None,
                }
                for product in self.products
            },
        }


def status(site: Site) -> SiteStatus:
    """Return what runs at the site and what stands behind it.

    Raises:
        IntegrityError: The evidence log or the catalog does not hold.
        StorageError: The site cannot be read.
    """
    records = site.records()  # first: what is read after them is never older than they are
    channel = stored_channel(site)
    products = tuple(_product(site, name) for name in site.catalog.products())
    starter = channel.starter if channel else check_root(site.pinned_root()).starter
    now = site.now()
    warnings = (*_older(site, channel, records), *_behind(now, channel, records))
    return SiteStatus(site, starter, channel, products, len(records), now, warnings)


def _older(site: Site, channel: TrustedChannel | None, records: Sequence[Record]) -> list[str]:
    recorded, found = Recorded.of_facts(facts_of(records)), []
    catalog = recorded.older_catalog(site.catalog.revision())
    if catalog is not None:
        # Then the link alone says what runs.
        links = [f"{name}/current -> {_link(site, name)}" for name in site.catalog.products()]
        found.append("; ".join([catalog, *links]))
    trust = recorded.older_trust(channel.versions if channel else {})
    return found + ([trust] if trust is not None else [])


def _link(site: Site, product: str) -> str:
    link = site.current(product)
    return str(link.readlink()) if link.is_symlink() else "nothing"


def _behind(now: datetime, channel: TrustedChannel | None, records: Sequence[Record]) -> list[str]:
    moments = {f"record {record.seq} was made": record.time.wall for record in records[-1:]}
    if channel is not None:
        moments["the channel's metadata was signed"] = channel.issued
    what, latest = max(moments.items(), key=lambda item: item[1])
    if now >= latest:
        return []
    return [f"the clock of this machine is behind: it says {emit_time(now)}, and {what} at {emit_time(latest)}"]


def _product(site: Site, name: str) -> ProductStatus:
    rows = [row for row in site.catalog.releases(name) if row.state is State.KNOWN_GOOD]
    newest_first = tuple(sorted(rows, key=lambda row: row.sequence, reverse=True))
    return ProductStatus(name, active_release(site, name), newest_first, site.catalog.floor(name))


def releases(site: Site) -> list[ReleaseRow]:
    """Return the releases that the site holds, by product and sequence."""
    return [row for row in site.catalog.releases() if row.state is not State.SUPERSEDED]


def row_document(row: ReleaseRow) -> dict[str, Any]:
    """Return the JSON view of one release."""
    return {
        "product": row.product,
        "version": row.version,
        "release": str(row.digest),
        "state": lifecycle.shown(row.state),
        "sequence": row.sequence,
        "imported": row.imported,
    }


def show(site: Site, reference: str) -> dict[str, Any]:
    """Return all that the site knows of one release.

    Raises:
        InputError: The reference cannot be one.
        NotFoundError: No such release.
        IntegrityError: Its documents have changed.
    """
    row = find_release(site, reference)
    release = load_release(site, row.digest)
    active = active_release(site, row.product)
    return {
        **row_document(row),
        "inner_state": row.state.value,
        "active": active is not None and active.digest == row.digest,
        "proven": row.proven,
        "tries_left": row.tries,
        "receipt": str(site.root / "evidence/receipts" / f"{row.digest.hex}.json"),
        "generations": [
            {"number": item.number, "path": str(site.tree(item))}
            for item in site.catalog.generations(row.product)
            if item.release == row.digest
        ],
        "models": [{"name": item.name, "license": item.license, "format": item.format} for item in release.models],
        "runtimes": [
            {
                "name": item.name,
                "kind": item.kind,
                "platform": item.platform,
                "wheels": [f"{wheel.name} {wheel.version}" for wheel in item.wheels],
            }
            for item in release.compat.runtimes
        ],
        "probe": release.compat.probe.emit() if release.compat.probe else None,
        "bytes": release.compat.total_bytes,
        "files": release.compat.total_files,
        "history": [
            _history(record)
            for record in site.records()
            if any(subject.digest == row.digest for subject in record.subject)
        ],
    }


@dataclass(frozen=True, slots=True)
class ShownBom:
    """The bill of materials of a release that the site holds, verified against the policy in force."""

    row: ReleaseRow
    bom: Bom

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "product": self.row.product,
            "version": self.row.version,
            "release": str(self.row.digest),
            "verified": True,
            "digest": str(self.bom.digest),
            "bom": dict(self.bom.document),
        }


def show_bom(site: Site, reference: str) -> ShownBom:
    """Return the bill of materials of a release, verified anew: by the builder's keys that the channel names now.

    Raises:
        InputError: The reference cannot be one.
        NotFoundError: No such release, or it carries no bill of materials.
        TrustError: The builder's keys in force did not sign it.
        IntegrityError: What is stored has changed, or a bill of materials that the provenance names is not there.
    """
    row = find_release(site, reference)
    release = load_release(site, row.digest)
    channel = stored_channel(site)
    if channel is None:
        raise NotFoundError(f"the site has no channel yet, so nothing says whose statements about {row.name} count")
    files = {file.digest for file in release.files}
    small = [digest for digest in site.catalog.blobs(row.digest) if digest in release.small or digest not in files]
    blobs = {digest: site.store.read(digest, Limits.MANIFEST) for digest in small}
    return ShownBom(row, verified_bom(blobs, release, TrustPolicy.parse(channel.target(POLICY_TARGET))))


def _history(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "time": emit_time(record.time.wall),
        "event": record.event.value,
        "phase": record.phase.value,
        "outcome": record.outcome.value,
        "reason": record.reason,
        "data": {key: list(value) if isinstance(value, tuple) else value for key, value in record.data.items()},
    }
