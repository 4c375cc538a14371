"""The export: what leaves the site. A ZIP file of plain text that people and scanners can read before it crosses.

    manifest.json                     what is in the export: site, number, range of records, digest of each other file
    manifest.dsse.json                the manifest again, in a DSSE envelope signed by the site key
    log/entries.jsonl                 records `first` to `size` - 1, one a line
    log/checkpoint                    signed head over all `size` records
    log/frontier.prev                 compact range of the first `first` records, from which the new root is recomputed
    log/checkpoint.prev               signed head over the first `first` records; only when `first` is not 0
    log/consistency.json              RFC 6962 proof from `previous`, where the export before this one ended, to `size`
    attestations/receipts/NAME.json   signed receipts of imports (Sigstore bundles)

Exports are numbered by their intents in the log: number N is the Nth. A number is thus never used twice, an export that
failed leaves its number behind with its outcome, and the auditor counts instead of believing. `exported` is the time of
that intent. So the same log gives the same export byte for byte, on any machine that holds the key.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from airpack.crypto import signing
from airpack.errors import InputError, IntegrityError
from airpack.evidence.archive import MAX_ENTRIES, is_name, write_archive
from airpack.evidence.log import EvidenceLog
from airpack.evidence.merkle import Frontier
from airpack.evidence.records import Event, Phase
from airpack.formats import dsse
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.note import site_origin
from airpack.formats.times import emit_time, parse_time
from airpack.fsops import write_durable
from airpack.types import Digest, Limits

SCHEMA: Final = "airpack.evidence/1"
FRONTIER_SCHEMA: Final = "airpack.frontier/1"
CONSISTENCY_SCHEMA: Final = "airpack.consistency/1"
PAYLOAD_TYPE: Final = "application/vnd.airpack.evidence.manifest.v1+json"

MANIFEST: Final = "manifest.json"
ENVELOPE: Final = "manifest.dsse.json"
ENTRIES: Final = "log/entries.jsonl"
CHECKPOINT: Final = "log/checkpoint"
CHECKPOINT_PREV: Final = "log/checkpoint.prev"
FRONTIER_PREV: Final = "log/frontier.prev"
CONSISTENCY: Final = "log/consistency.json"
RECEIPTS: Final = "attestations/receipts/"

_MAX_HASHES: Final = 128  # a proof has at most two hashes a level, and sizes have 53 bits
_NO_RECEIPTS: Final[Mapping[str, bytes]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of an export, as the manifest names it."""

    name: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export says about itself. Law: `Manifest.parse(manifest.emit()) == manifest`.

    Attributes:
        site: SITE_ID.
        export: Number of this export, from 1.
        previous: Number of records when the export before this one was made; 0 for the first.
        first: Number of the first record in this export; at most `previous`.
        size: Number of records in the log.
        exported: When.
        files: All files but the manifest and its envelope, by name ascending.
    """

    site: str
    export: int
    previous: int
    first: int
    size: int
    exported: datetime
    files: tuple[BundleFile, ...]

    @property
    def origin(self) -> str:
        """The log's name, `airpack/SITE_ID`."""
        return site_origin(self.site)

    def emit(self) -> bytes:
        """Return the manifest's canonical bytes."""
        return emit(
            {
                "schema": SCHEMA,
                "site": self.site,
                "origin": self.origin,
                "export": self.export,
                "previous": self.previous,
                "first": self.first,
                "size": self.size,
                "exported": emit_time(self.exported),
                "files": [{"name": each.name, "size": each.size, "digest": str(each.digest)} for each in self.files],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest whose signature has been verified.

        Raises:
            IntegrityError: Not canonical, an unknown field, names out of order, or a range that cannot be.
        """
        fields = Fields(parse_canonical(data, what=MANIFEST), what=MANIFEST)
        fields.schema(SCHEMA)
        manifest = cls(
            site=fields.text("site"),
            export=fields.integer("export", low=1),
            previous=fields.integer("previous"),
            first=fields.integer("first"),
            size=fields.integer("size", low=1),
            exported=parse_time(fields.text("exported"), what=f"{MANIFEST}: 'exported'"),
            files=tuple(_file(each) for each in fields.tables("files", most=MAX_ENTRIES)),
        )
        try:
            origin = manifest.origin
        except ValueError as error:
            raise fields.fail(f"'site': {error}") from error
        if fields.text("origin") != origin:
            raise fields.fail(f"'origin' must be {origin!r} for this site")
        fields.done()
        if not manifest.first <= manifest.previous < manifest.size:
            raise fields.fail(
                f"no such range: first {manifest.first}, previous {manifest.previous}, size {manifest.size}"
            )
        names = [each.name for each in manifest.files]
        if names != sorted(set(names)):
            raise fields.fail("'files' must name each file once, in ascending order")
        return manifest


def _file(fields: Fields) -> BundleFile:
    found = BundleFile(
        name=fields.text("name"),
        size=fields.integer("size", high=Limits.EVIDENCE_BUNDLE),
        digest=fields.digest("digest"),
    )
    fields.done()
    return found


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` made.

    Attributes:
        path: Where it lies.
        number: Its number.
        records: How many records are in it.
        first: Number of the first one.
        size: Number of records in the log.
        checkpoint: The signed checkpoint, a C2SP note.
        digest: Of the whole file.
    """

    path: Path
    number: int
    records: int
    first: int
    size: int
    checkpoint: str
    digest: Digest


def export(
    log: EvidenceLog,
    out: Path,
    *,
    since: int = 0,
    receipts: Mapping[str, bytes] = _NO_RECEIPTS,
    replace: bool = False,
) -> Exported:
    """Write an export of `log` to `out`, durably. The intent of the export must be the log's open intent by now.

    Args:
        log: The site's log, under the site's lock.
        out: The new ZIP file.
        since: Number of records that the auditor holds already; 0 exports all.
        receipts: Signed receipts by name, the name without `.json`.
        replace: Whether `out` may exist already.

    Raises:
        InputError: `since` is beyond what was ever exported, a receipt's name is no name, or the export would be
            larger than `Limits.EVIDENCE_BUNDLE`.
        StorageError: It cannot be written, or `out` exists.
        ValueError: No intent to export is open in the log (a caller's bug).
    """
    manifest, data = build(log, since=since, receipts=receipts)
    write_durable(out, data, replace=replace)
    return Exported(
        path=out,
        number=manifest.export,
        records=manifest.size - manifest.first,
        first=manifest.first,
        size=manifest.size,
        checkpoint=log.checkpoint.decode(),
        digest=Digest.of(data),
    )


def build(log: EvidenceLog, *, since: int = 0, receipts: Mapping[str, bytes] = _NO_RECEIPTS) -> tuple[Manifest, bytes]:
    """Return manifest and bytes of the export that `export` would write. Arguments and errors as there."""
    intents = log.find(Event.EXPORT, Phase.INTENT)
    if not intents or intents[-1] not in {intent.seq for intent in log.open_intents()}:
        raise ValueError("an export is put on record as an intent before it is built")
    previous = intents[-2] + 1 if len(intents) > 1 else 0
    if not 0 <= since <= previous:
        raise InputError(
            f"no export can begin at record {since}: the one before this ended with {previous} records",
            hint=f"export since {previous} records or fewer, or all of them",
        )
    files = _contents(log, since, previous) | _receipt_files(receipts)
    _check_size(files, since, previous)
    manifest = Manifest(
        site=log.site_id,
        export=len(intents),
        previous=previous,
        first=since,
        size=log.size,
        exported=next(log.records(intents[-1])).time.wall,
        files=tuple(BundleFile(name, len(data), Digest.of(data)) for name, data in sorted(files.items())),
    )
    signed = manifest.emit()
    files[MANIFEST] = signed
    files[ENVELOPE] = dsse.emit(signing.sign(log.key, PAYLOAD_TYPE, signed))
    return manifest, write_archive(files)


def _contents(log: EvidenceLog, first: int, previous: int) -> dict[str, bytes]:
    tree = log.tree()
    files = {
        ENTRIES: log.lines(first),
        CHECKPOINT: log.checkpoint,
        FRONTIER_PREV: emit_frontier(tree.frontier(first)),
        CONSISTENCY: emit_consistency(previous, log.size, tree.consistency(previous, log.size)),
    }
    if first:
        files[CHECKPOINT_PREV] = log.checkpoint_at(first)
    return files


def _receipt_files(receipts: Mapping[str, bytes]) -> dict[str, bytes]:
    files = {f"{RECEIPTS}{name}.json": data for name, data in receipts.items()}
    for name in files:
        if not is_receipt(name):
            raise InputError(f"not a name that a receipt can have in an export: {name[:80]!r}")
    return files


def _check_size(files: Mapping[str, bytes], since: int, previous: int) -> None:
    spare = Limits.DOCUMENT * 2  # for the manifest and its envelope
    total = sum(map(len, files.values()))
    if total > Limits.EVIDENCE_BUNDLE - spare or len(files) > MAX_ENTRIES - 2:
        hint = f"export only what is new: since {previous} records" if since < previous else ""
        raise InputError(
            f"the export would hold {len(files)} files of {total} bytes; at most {MAX_ENTRIES - 2} files "
            f"of {Limits.EVIDENCE_BUNDLE - spare} bytes leave at once",
            hint=hint,
        )


def is_receipt(name: str) -> bool:
    """Return whether `name` is where an export holds a receipt."""
    return (
        name.startswith(RECEIPTS)
        and name.endswith(".json")
        and name.count("/") == RECEIPTS.count("/")
        and is_name(name)
    )


def emit_frontier(frontier: Frontier) -> bytes:
    """Return the document `log/frontier.prev`."""
    return emit({"schema": FRONTIER_SCHEMA, "size": frontier.size, "hashes": _texts(frontier.hashes)})


def parse_frontier(data: bytes) -> Frontier:
    """Read the document `log/frontier.prev`.

    Raises:
        IntegrityError: Not canonical, an unknown field, or no compact range of its size.
    """
    fields = Fields(parse_canonical(data, what=FRONTIER_PREV), what=FRONTIER_PREV)
    fields.schema(FRONTIER_SCHEMA)
    size, hashes = fields.integer("size"), _hashes(fields)
    fields.done()
    try:
        return Frontier(size, hashes)
    except ValueError as error:
        raise IntegrityError(f"{FRONTIER_PREV}: {error}") from error


def emit_consistency(old: int, size: int, hashes: tuple[bytes, ...]) -> bytes:
    """Return the document `log/consistency.json`."""
    return emit({"schema": CONSISTENCY_SCHEMA, "old": old, "size": size, "hashes": _texts(hashes)})


def parse_consistency(data: bytes) -> tuple[int, int, tuple[bytes, ...]]:
    """Read the document `log/consistency.json`: old size, new size, and the proof's hashes.

    Raises:
        IntegrityError: Not canonical or an unknown field.
    """
    fields = Fields(parse_canonical(data, what=CONSISTENCY), what=CONSISTENCY)
    fields.schema(CONSISTENCY_SCHEMA)
    found = fields.integer("old"), fields.integer("size"), _hashes(fields)
    fields.done()
    return found


def _texts(hashes: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


def _hashes(fields: Fields) -> tuple[bytes, ...]:
    texts = fields.texts("hashes", most=_MAX_HASHES)
    return tuple(fields.decode64(text, f"hashes[{number}]") for number, text in enumerate(texts))
