"""Receipts: the signed accounts of imports. The catalog holds the newest of each release, a file shows it."""

from pathlib import Path

from airpack import fsops
from airpack.catalog.catalog import ReleaseRow
from airpack.crypto import signing
from airpack.crypto.keys import PublicKey
from airpack.errors import AirpackError, IntegrityError, StorageError
from airpack.formats import bundle, dsse
from airpack.formats.statement import Statement
from airpack.ops.site import Site
from airpack.types import Digest, Limits


def receipt_path(site: Site, release: Digest) -> Path:
    """Return where the receipt of `release` lies."""
    return site.root / "evidence/receipts" / f"{release.hex}.json"


def kept_path(site: Site, release: Digest, data: bytes) -> Path:
    """Return where the receipt of an earlier import of `release` is kept: under a name with its own digest."""
    return receipt_path(site, release).with_name(f"{release.hex}-{Digest.of(data).short}.json")


def check_receipt(data: bytes, *, key: PublicKey, release: Digest) -> None:
    """Check that `data` is a receipt of `release` by the site's key.

    Raises:
        IntegrityError: It is no bundle or statement, or about another release.
        TrustError: It is not signed by `key`.
    """
    envelope, _ = bundle.parse(data)
    payload = signing.verify([envelope], keys=[key], threshold=1, payload_type=dsse.PAYLOAD_TYPE_STATEMENT)
    found = Statement.parse(payload).digest
    if found != release:
        raise IntegrityError(f"the receipt is about {found}, not about {release}")


def write_receipt(site: Site, row: ReleaseRow) -> Path:
    """Write the receipt that the catalog holds, where it is not there yet, and return its path.

    The receipt of an earlier import of the same release stays beside it; what is no receipt of this site any more is
    written over, for an export must carry none that an auditor refuses.
    """
    path = receipt_path(site, row.digest)
    if path.exists():
        before = fsops.read_regular(path, Limits.DOCUMENT)
        if before == row.receipt:
            return path
        if _holds(before, site, row.digest):
            fsops.write_durable(kept_path(site, row.digest, before), before)
    fsops.write_durable(path, row.receipt)
    return path


def _holds(data: bytes, site: Site, release: Digest) -> bool:
    try:
        check_receipt(data, key=site.public_key, release=release)
    except StorageError:
        raise
    except AirpackError:
        return False
    return True
