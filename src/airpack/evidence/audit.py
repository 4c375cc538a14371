"""The auditor's verdict on an export. Pure but for reading the file: keys and earlier state are arguments.

The checks, in this order; the first that fails decides the exit code, and those after it are not made:

1. `archive`      readable within bounds, and byte for byte as this airpack writes it          (else 10)
2. `signature`    the manifest is signed by the pinned key; a key in the export counts nothing  (else 11)
3. `digests`      each file is there, as the manifest says, and no other                        (else 10)
4. `checkpoint`   signed by the pinned key, of this log, for this many records                  (else 11)
5. `records`      closed and canonical, no gap, each result after its intent, exports counted   (else 10)
6. `root`         recomputed from frontier and records it is the checkpoint's; the proof holds  (else 10)
7. `receipts`     each is signed by the pinned key                                              (else 11)
8. `history`      continues what the auditor holds: same log and key, no fewer records, the
                  root held is the root recomputed at that size, no export number unaccounted   (else 13)
9. `intents`      what was begun and has no result: said, not refused
10. `clock`       where the site's clock stepped back: said, not refused

Law: an export that passes holds what the site's log holds; changing any one byte of it makes it fail.
What no audit of exports can see is a log that was truncated or rewritten after its last export (docs/spec/evidence.md).
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from airpack.crypto import signing
from airpack.crypto.keys import PublicKey
from airpack.errors import AirpackError, IntegrityError, NotFoundError, RollbackError, TrustError
from airpack.evidence import export as bundle_format
from airpack.evidence.archive import read_archive
from airpack.evidence.checkpoint import open_checkpoint
from airpack.evidence.export import Manifest
from airpack.evidence.merkle import Frontier, leaf_hash, verify_consistency
from airpack.evidence.records import Event, Outcome, Phase, Record, Stamp
from airpack.formats import bundle as sigstore_bundle
from airpack.formats import dsse
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.note import HASH, Checkpoint
from airpack.formats.times import emit_time
from airpack.fsops import read_regular, write_durable
from airpack.types import Check, Digest, Limits

STATE_SCHEMA: Final = "airpack.auditor/1"
_MAX_STATE: Final = 4096  # bytes
MOST: Final = Limits.EVIDENCE_BUNDLE + (4 << 20)  # bytes: content and what ZIP adds for 10,000 names
_SHOWN: Final = 8  # items that one finding lists


@dataclass(frozen=True, slots=True)
class AuditorState:
    """What the auditor keeps from the last export that passed. Law: `AuditorState.parse(state.emit()) == state`.

    Attributes:
        origin: The log, `airpack/SITE_ID`.
        key: Fingerprint of the pinned key (SHA-256 of its SPKI DER).
        size: Number of records.
        root: Root over them, 32 bytes.
        export: Number of that export.
    """

    origin: str
    key: Digest
    size: int
    root: bytes
    export: int

    def emit(self) -> bytes:
        """Return the state's canonical bytes."""
        return emit(
            {
                "schema": STATE_SCHEMA,
                "origin": self.origin,
                "key": str(self.key),
                "size": self.size,
                "root": base64.b64encode(self.root).decode(),
                "export": self.export,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a state.

        Raises:
            IntegrityError: Not canonical, or an unknown field.
        """
        fields = Fields(parse_canonical(data, what="auditor state", limit=_MAX_STATE), what="auditor state")
        fields.schema(STATE_SCHEMA)
        state = cls(
            origin=fields.text("origin"),
            key=fields.digest("key"),
            size=fields.integer("size", low=1),
            root=fields.base64("root"),
            export=fields.integer("export", low=1),
        )
        fields.done()
        if len(state.root) != HASH:
            raise fields.fail(f"'root' has {len(state.root)} bytes; expected {HASH}")
        return state


def load_state(path: Path) -> AuditorState | None:
    """Return the state in the file `path`, or None when there is none yet.

    Raises:
        IntegrityError: The file is no auditor state.
        StorageError: It cannot be read.
    """
    try:
        return AuditorState.parse(read_regular(path, _MAX_STATE))
    except NotFoundError:
        return None


def store_state(path: Path, state: AuditorState) -> None:
    """Keep `state` in the file `path`, durably.

    Raises:
        StorageError: It cannot be written.
    """
    write_durable(path, state.emit())


@dataclass(frozen=True, slots=True)
class Summary:
    """What the records of an export tell, counted from the records alone.

    Attributes:
        records: Records in this export.
        first: Number of the first one.
        size: Records in the log.
        export: Number of this export.
        imports: Imports done.
        activations: Activations done.
        rollbacks: Rollbacks done.
        refusals: Whatever was refused.
        outcomes: Number of records by outcome: done, refused, failed, interrupted.
    """

    records: int
    first: int
    size: int
    export: int
    imports: int
    activations: int
    rollbacks: int
    refusals: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The verdict.

    Attributes:
        findings: The ten checks, in order.
        error: Why it is not ok; None when it is.
        state: What to keep for the next audit; None unless ok.
        summary: What the records tell; None unless ok.
        checkpoint: The verified checkpoint, a C2SP note; empty unless ok.
    """

    findings: tuple[Check, ...]
    error: AirpackError | None
    state: AuditorState | None
    summary: Summary | None
    checkpoint: str

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return self.error is None

    @property
    def exit_code(self) -> int:
        """0, 10 (evidence broken), 11 (keys and signatures) or 13 (contradicts what the auditor holds)."""
        return self.error.exit_code if self.error else 0


def audit(bundle: bytes | Path, *, key: PublicKey, state: AuditorState | None = None) -> AuditResult:
    """Check an export.

    Args:
        bundle: The ZIP file, or where it lies.
        key: The site's Ed25519 key, pinned by the auditor.
        state: What the auditor kept from the last export; None when nothing is held.

    Returns:
        The verdict; never an exception for what is wrong with the export.

    Raises:
        NotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    run = _Audit(bundle, key, state)
    findings: list[Check] = []
    error: AirpackError | None = None
    for name, step in run.steps():
        if error:
            findings.append(Check(name, ok=False, detail="not checked: an earlier check failed"))
            continue
        try:
            findings.append(Check(name, ok=True, detail=step()))
        except (IntegrityError, TrustError, RollbackError) as failure:
            error = failure
            findings.append(Check(name, ok=False, detail=failure.message))
    if error:
        return AuditResult(tuple(findings), error, None, None, "")
    return AuditResult(
        tuple(findings), None, run.new_state(), run.summary(), run.files[bundle_format.CHECKPOINT].decode()
    )


@dataclass(slots=True)
class _Tally:
    """What is counted while the records pass by, so that they need not all be held.

    Attributes:
        open: Record of each intent without result, by corr.
        exports: Numbers of the records that announce an export.
        unmatched: Results whose intents lie before this export.
        backwards: Numbers of the records before which a clock stepped back.
    """

    first: int
    open: dict[str, Record] = field(default_factory=dict)
    exports: list[int] = field(default_factory=list)
    unmatched: int = 0
    backwards: list[int] = field(default_factory=list)
    counts: Counter[tuple[Event, Outcome]] = field(default_factory=Counter)
    announced: Record | None = None
    last: Stamp | None = None

    def add(self, record: Record) -> None:
        """Count one record."""
        if record.phase is Phase.INTENT:
            self._begin(record)
        elif record.phase is Phase.RESULT:
            self._end(record)
        if record.outcome is not Outcome.NONE:
            self.counts[record.event, record.outcome] += 1
        if self.last and _stepped_back(self.last, record.time):
            self.backwards.append(record.seq)
        self.last = record.time

    def _begin(self, record: Record) -> None:
        if record.corr in self.open:
            raise IntegrityError(
                f"record {record.seq} is an intent with the corr of record {self.open[record.corr].seq}, still open"
            )
        self.open[record.corr] = record
        if record.event is Event.EXPORT:
            self.exports.append(record.seq)
            self.announced = record

    def _end(self, record: Record) -> None:
        intent = self.open.pop(record.corr, None)
        if intent is None and self.first:
            self.unmatched += 1
        elif intent is None:
            raise IntegrityError(f"record {record.seq} is a result without an intent before it")
        elif intent.event is not record.event:
            raise IntegrityError(
                f"record {record.seq} is a result of {record.event}; "
                f"its intent, record {intent.seq}, is of {intent.event}"
            )


class _Audit:
    """The checks, each of which may use what those before it have found."""

    def __init__(self, bundle: bytes | Path, key: PublicKey, state: AuditorState | None) -> None:
        self._bundle = bundle
        self._key = key
        self._state = state
        self.files: dict[str, bytes] = {}
        self._manifest: Manifest
        self._checkpoint: Checkpoint
        self._tally: _Tally
        self._frontier = Frontier()
        self._leaves: list[bytes] = []

    def steps(self) -> tuple[tuple[str, Callable[[], str]], ...]:
        """Return the checks by name, in their order."""
        return (
            ("archive", self._check_archive),
            ("signature", self._check_signature),
            ("digests", self._check_digests),
            ("checkpoint", self._check_checkpoint),
            ("records", self._check_records),
            ("root", self._check_root),
            ("receipts", self._check_receipts),
            ("history", self._check_history),
            ("intents", self._say_intents),
            ("clock", self._say_clock),
        )

    def new_state(self) -> AuditorState:
        """Return what the auditor keeps."""
        checkpoint = self._checkpoint
        return AuditorState(
            checkpoint.origin, self._key.fingerprint, checkpoint.size, checkpoint.root, self._manifest.export
        )

    def summary(self) -> Summary:
        """Return what the records tell."""
        outcomes = Counter[str]()
        for (_, outcome), count in self._tally.counts.items():
            outcomes[outcome.value] += count
        return Summary(
            records=self._manifest.size - self._manifest.first,
            first=self._manifest.first,
            size=self._manifest.size,
            export=self._manifest.export,
            imports=self._tally.counts[Event.IMPORT, Outcome.DONE],
            activations=self._tally.counts[Event.ACTIVATE, Outcome.DONE],
            rollbacks=self._tally.counts[Event.ROLLBACK, Outcome.DONE],
            refusals=outcomes[Outcome.REFUSED.value],
            outcomes={outcome.value: outcomes[outcome.value] for outcome in Outcome if outcome is not Outcome.NONE},
        )

    def _check_archive(self) -> str:
        data = read_regular(self._bundle, MOST) if isinstance(self._bundle, Path) else self._bundle
        if len(data) > MOST:
            raise IntegrityError(f"the export has {len(data)} bytes; at most {MOST} are read")
        self.files = read_archive(data)
        for name in (bundle_format.MANIFEST, bundle_format.ENVELOPE):
            if name not in self.files:
                raise IntegrityError(f"not an export of evidence: it holds no {name}")
        return f"{len(self.files)} files in {len(data)} bytes"

    def _check_signature(self) -> str:
        envelope = dsse.parse(self.files[bundle_format.ENVELOPE], what=bundle_format.ENVELOPE)
        payload = self._signed([envelope], bundle_format.PAYLOAD_TYPE, "the manifest")
        if payload != self.files[bundle_format.MANIFEST]:
            raise IntegrityError(f"{bundle_format.MANIFEST} is not the manifest that {bundle_format.ENVELOPE} signs")
        # One signature, one spelling: whatever else stood there would be said by nobody.
        if len(envelope.signatures) != 1 or dsse.emit(envelope) != self.files[bundle_format.ENVELOPE]:
            raise IntegrityError(f"{bundle_format.ENVELOPE} holds more than one signature, or is not canonical JSON")
        self._manifest = Manifest.parse(payload)
        return (
            f"manifest of export {self._manifest.export} of {self._manifest.origin}, signed by {self._key.fingerprint}"
        )

    def _check_digests(self) -> str:
        manifest, total = self._manifest, 0
        listed = {each.name for each in manifest.files}
        others = self.files.keys() - listed - {bundle_format.MANIFEST, bundle_format.ENVELOPE}
        if others:
            raise IntegrityError(f"files that the manifest does not list: {_list(sorted(others))}")
        for each in manifest.files:
            data = self.files.get(each.name)
            if data is None:
                raise IntegrityError(f"{each.name} is missing; the manifest lists it")
            if len(data) != each.size or Digest.of(data) != each.digest:
                raise IntegrityError(
                    f"{each.name} is not what was signed: expected {each.size} bytes {each.digest}, "
                    f"found {len(data)} bytes {Digest.of(data)}"
                )
            total += each.size
        self._check_names(listed)
        return f"{len(listed)} files, {total} bytes, each as the manifest says"

    def _check_names(self, listed: set[str]) -> None:
        needed = {
            bundle_format.ENTRIES,
            bundle_format.CHECKPOINT,
            bundle_format.FRONTIER_PREV,
            bundle_format.CONSISTENCY,
        }
        if self._manifest.first:
            needed.add(bundle_format.CHECKPOINT_PREV)
        if needed - listed:
            raise IntegrityError(f"the manifest does not list {_list(sorted(needed - listed))}")
        unknown = sorted(name for name in listed - needed if not bundle_format.is_receipt(name))
        if unknown:
            raise IntegrityError(f"the manifest lists files that no export of this kind has: {_list(unknown)}")

    def _check_checkpoint(self) -> str:
        manifest = self._manifest
        self._checkpoint = self._open(bundle_format.CHECKPOINT, manifest.size)
        self._frontier = bundle_format.parse_frontier(self.files[bundle_format.FRONTIER_PREV])
        if self._frontier.size != manifest.first:
            raise IntegrityError(
                f"{bundle_format.FRONTIER_PREV} is of {self._frontier.size} records; "
                f"the export begins at {manifest.first}"
            )
        if manifest.first:
            old = self._open(bundle_format.CHECKPOINT_PREV, manifest.first)
            if old.root != self._frontier.root():
                raise IntegrityError(f"{bundle_format.FRONTIER_PREV} does not lead to {bundle_format.CHECKPOINT_PREV}")
        return f"{manifest.size} records under root {self._checkpoint.root.hex()}, signed by the pinned key"

    def _open(self, name: str, size: int) -> Checkpoint:
        checkpoint = open_checkpoint(self.files[name], origin=self._manifest.origin, key=self._key, what=name)
        if checkpoint.size != size:
            raise IntegrityError(f"{name} is of {checkpoint.size} records; the manifest says {size}")
        return checkpoint

    def _check_records(self) -> str:
        manifest = self._manifest
        self._tally = _Tally(manifest.first)
        for line in io.BytesIO(self.files[bundle_format.ENTRIES]):
            self._check_record(line)
        found = manifest.first + len(self._leaves)
        if found != manifest.size:
            raise IntegrityError(
                f"{len(self._leaves)} records, {manifest.first} to {found - 1}; expected up to {manifest.size - 1}"
            )
        self._check_number()
        text = ", ".join(f"{count} {outcome}" for outcome, count in self.summary().outcomes.items())
        return f"{len(self._leaves)} records, {manifest.first} to {found - 1} without a gap: {text}"

    def _check_record(self, line: bytes) -> None:
        seq = self._manifest.first + len(self._leaves)
        if not line.endswith(b"\n"):
            raise IntegrityError(f"{bundle_format.ENTRIES} ends inside record {seq}")
        record = Record.parse(line[:-1], what=f"record {seq}")
        if record.seq != seq:
            raise IntegrityError(f"in the place of record {seq} there is record {record.seq}: dropped, added or moved")
        if record.site != self._manifest.site:
            raise IntegrityError(f"record {seq} is of site {record.site}; this is the log of {self._manifest.site}")
        self._tally.add(record)
        self._leaves.append(leaf_hash(line[:-1]))

    def _check_number(self) -> None:
        """Count the exports in the log: the manifest cannot skip one or use a number twice."""
        manifest, tally = self._manifest, self._tally
        if tally.announced is None:
            raise IntegrityError("no record announces this export")
        if tally.announced.time.wall != manifest.exported:
            raise IntegrityError(
                f"the manifest says exported {emit_time(manifest.exported)}; "
                f"record {tally.announced.seq} announces it at {emit_time(tally.announced.time.wall)}"
            )
        counted = len(tally.exports)
        if manifest.export < counted or (not manifest.first and manifest.export != counted):
            raise IntegrityError(f"the manifest says export {manifest.export}; the records announce {counted}")
        previous = tally.exports[-2] + 1 if counted > 1 else manifest.first
        if manifest.previous != previous:
            raise IntegrityError(
                f"the manifest says that the export before ended with {manifest.previous} records; "
                f"the records say {previous}"
            )

    def _check_root(self) -> str:
        manifest = self._manifest
        root = self._root_at(manifest.size)
        if root != self._checkpoint.root:
            raise IntegrityError(
                f"the records are not those of the checkpoint: root {root.hex()}, signed {self._checkpoint.root.hex()}"
            )
        old, size, proof = bundle_format.parse_consistency(self.files[bundle_format.CONSISTENCY])
        if (old, size) != (manifest.previous, manifest.size) or not verify_consistency(
            old, size, self._root_at(old), root, proof
        ):
            raise IntegrityError(
                f"{bundle_format.CONSISTENCY} does not prove the first {manifest.previous} records "
                f"to be a prefix of all {manifest.size}"
            )
        return f"recomputed from {len(self._leaves)} records after the first {manifest.first}: {root.hex()}"

    def _check_receipts(self) -> str:
        names = [name for name in self.files if bundle_format.is_receipt(name)]
        for name in names:
            envelope, _ = sigstore_bundle.parse(self.files[name])
            self._signed([envelope], dsse.PAYLOAD_TYPE_STATEMENT, name)
        return f"{len(names)} receipts, each signed by the pinned key"

    def _signed(self, envelopes: list[dsse.Envelope], payload_type: str, what: str) -> bytes:
        try:
            return signing.verify(envelopes, keys=[self._key], threshold=1, payload_type=payload_type)
        except TrustError as error:
            raise TrustError(
                f"{what} is not signed as {payload_type} by the pinned key {self._key.fingerprint}",
                hint="the key to pin is the site's own SITE/evidence/site.pub, brought to you by another way",
            ) from error

    def _check_history(self) -> str:
        held, manifest = self._state, self._manifest
        if held is None:
            return "not checked: nothing is held from an earlier export (give --state to keep what this one shows)"
        if (held.origin, held.key) != (manifest.origin, self._key.fingerprint):
            raise RollbackError(
                f"what is held is of {held.origin} under {held.key}; "
                f"this is {manifest.origin} under {self._key.fingerprint}"
            )
        if manifest.size < held.size:
            raise RollbackError(
                f"the log had {held.size} records at export {held.export}; here it has {manifest.size}: "
                "an older export again, or a log cut short"
            )
        if manifest.first > held.size:
            raise RollbackError(
                f"the export begins at record {manifest.first}; {held.size} are held: the records between are missing",
                hint=f"get the exports between, or one since {held.size} records",
            )
        if self._root_at(held.size) != held.root:
            raise RollbackError(
                f"the first {held.size} records are not those of export {held.export}: root "
                f"{self._root_at(held.size).hex()}, held {held.root.hex()}; the log was rewritten"
            )
        expected = held.export + sum(seq >= held.size for seq in self._tally.exports)
        if manifest.export != expected:
            raise RollbackError(
                f"this is export {manifest.export}; after export {held.export} the records make it {expected}"
            )
        return f"continues export {held.export}: {held.size} records as held, {manifest.size - held.size} new"

    def _root_at(self, size: int) -> bytes:
        """Return the root recomputed over the first `size` records, at least as many as precede this export."""
        return self._frontier.extend(self._leaves[: size - self._frontier.size]).root()

    def _say_intents(self) -> str:
        tally = self._tally
        others = [f"record {each.seq} ({each.event})" for each in tally.open.values() if each is not tally.announced]
        text = f"{len(others)} without a result: {_list(others)}" if others else "each but this export's has its result"
        earlier = f"; results of intents before record {tally.first}: {tally.unmatched}" if tally.unmatched else ""
        return text + earlier

    def _say_clock(self) -> str:
        steps = self._tally.backwards
        if not steps:
            return "never stepped back"
        return f"stepped back {len(steps)} times: before {_list([f'record {seq}' for seq in steps])}"


def _stepped_back(earlier: Stamp, later: Stamp) -> bool:
    """Return whether a clock went backwards: the one on the wall, or the one since boot within one boot."""
    if later.wall < earlier.wall:
        return True
    return bool(later.boot_id) and later.boot_id == earlier.boot_id and later.boottime_ms < earlier.boottime_ms


def _list(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
