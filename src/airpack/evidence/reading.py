"""Reads a site's log without opening it: for `show` and `status`, which hold no lock and must repair nothing."""

import os
from pathlib import Path

from airpack.crypto.keys import PublicKey
from airpack.errors import IntegrityError, NotFoundError, StorageError
from airpack.evidence.checkpoint import open_checkpoint
from airpack.evidence.log import CHECKPOINT, ENTRIES
from airpack.evidence.merkle import Frontier, leaf_hash
from airpack.evidence.records import Record
from airpack.formats.note import MAX_NOTE, Checkpoint
from airpack.fsops import open_regular, read_regular
from airpack.types import Limits


def read_checkpoint(folder: Path, *, origin: str, key: PublicKey) -> Checkpoint:
    """Return the newest signed checkpoint.

    Args:
        folder: `SITE/evidence/log`.
        origin: `airpack/SITE_ID`.
        key: The site's public key.

    Raises:
        TrustError: It is not signed by `key`.
        IntegrityError: It is missing, or no checkpoint of this log.
    """
    try:
        data = read_regular(folder / CHECKPOINT, MAX_NOTE)
    except NotFoundError as error:
        raise IntegrityError(f"the evidence log has lost its checkpoint: {error.message}") from error
    return open_checkpoint(data, origin=origin, key=key, what="the evidence log's checkpoint")


def read_records(folder: Path, *, origin: str, key: PublicKey) -> list[Record]:
    """Return the records under the newest signed checkpoint, verified against its root.

    A record that another process is just appending is not among them.

    Args:
        folder: `SITE/evidence/log`.
        origin: `airpack/SITE_ID`.
        key: The site's public key.

    Raises:
        IntegrityError: The records are not those of the checkpoint.
        TrustError: The checkpoint is not signed by `key`.
        StorageError: They cannot be read.
    """
    signed = read_checkpoint(folder, origin=origin, key=key)
    frontier, records = Frontier(), []
    try:
        with os.fdopen(open_regular(folder / ENTRIES), "rb") as stream:
            for number in range(signed.size):
                line = stream.readline(Limits.EVIDENCE_RECORD + 1).removesuffix(b"\n")
                frontier = frontier.append(leaf_hash(line))
                records.append(Record.parse(line, what=f"record {number}"))
    except NotFoundError as error:
        raise IntegrityError(f"the evidence log has lost its records: {error.message}") from error
    except OSError as error:
        raise StorageError(f"cannot read the evidence log: {error.strerror}", path=str(folder)) from error
    if frontier.root() != signed.root:
        raise IntegrityError(f"the evidence log's {signed.size} records are not those of its checkpoint")
    return records
