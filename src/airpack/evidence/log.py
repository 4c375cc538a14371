"""The site's append-only log: `entries.jsonl`, one record a line, and `checkpoint`, the signed head of its tree.

Appending, in this order, each step durable before the next: the record's line; the checkpoint signed over the new tree;
the checkpoint in place of the old one. Only then is the caller told. What a power cut leaves is therefore one of:

1. both files as before, or with the new record in both: nothing to do;
2. a torn line beyond the checkpointed records: dropped, nobody was told of it;
3. a whole record beyond them: adopted, and a new checkpoint signed. The act it announces was never begun, so an intent
   found this way stays open until recovery closes it as `interrupted`.

Cases 2 and 3 are put on record (`recover`). Anything else is not what this code leaves: `IntegrityError`.

Law 8 (docs/design.md): a caller that gets an error from `intent` must not act. After a failed append the object refuses
to go on until the log is opened anew, because only the disk knows then how much of it happened; signing a second record
at the same place would fork the log. One writer at a time: the site's lock is the caller's business.
"""

import json
import os
import pwd
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Self

from airpack.crypto.keys import PrivateKey
from airpack.errors import AirpackError, InputError, IntegrityError, NotFoundError, StorageError
from airpack.evidence.checkpoint import open_checkpoint, sign_checkpoint
from airpack.evidence.merkle import Frontier, Tree, leaf_hash
from airpack.evidence.records import Actor, Event, Outcome, Phase, Record, Stamp, Subject, Value
from airpack.formats.note import MAX_NOTE, Checkpoint, site_origin
from airpack.fsops import append_durable, make_dir, open_regular, read_regular, write_durable
from airpack.types import Limits

ENTRIES: Final = "entries.jsonl"
CHECKPOINT: Final = "checkpoint"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Facts = Callable[[Phase], Mapping[str, Value]]
"""Given the phase of the record that is being made, returns what its data says besides the caller's own words."""


def _no_facts(_phase: Phase) -> Mapping[str, Value]:
    return {}


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening the log had to repair.

    Attributes:
        adopted: Whole records beyond the checkpoint that were taken in.
        dropped: Bytes of a torn line that were cut off.
    """

    adopted: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest value that a fact has in the log.

    Attributes:
        value: The number, 0 where no record has the fact.
        seq: The first record that says so, -1 for none.
    """

    value: int
    seq: int


class Fact(NamedTuple):
    """What one record says: its number, what happened, and its `data`."""

    seq: int
    event: Event
    data: Mapping[str, Value]


class _Told:
    """What the records say, gathered from their lines in order; the lines are under the signed root."""

    def __init__(self) -> None:
        self.open: dict[str, bytes] = {}  # lines of the intents without result, by corr
        self.highest: dict[str, Highest] = {}
        self.newest = b""

    def take(self, seq: int, line: bytes) -> None:
        """Count in one record."""
        value = json.loads(line)
        self.newest = line
        if value["phase"] == Phase.INTENT:
            self.open[value["corr"]] = line
        elif value["phase"] == Phase.RESULT:
            self.open.pop(value["corr"], None)
        note_highest(self.highest, seq, value["data"])


NEVER: Final = Highest(0, -1)


def note_highest(highest: dict[str, Highest], seq: int, data: Mapping[str, Value]) -> None:
    """Keep `highest` as it is after record `seq`, which says `data`: of each fact that is a number."""
    for key, value in data.items():
        if isinstance(value, int) and value > highest.get(key, NEVER).value:
            highest[key] = Highest(value, seq)


class EvidenceLog:
    """The log of one site, open for appending. Made by `create` or `open`.

    Attributes:
        site_id: 32 lower-case hex digits.
        recovery: What opening had to repair.
    """

    def __init__(
        self, folder: Path, *, site_id: str, key: PrivateKey, clock: Callable[[], datetime], facts: Facts = _no_facts
    ) -> None:
        self.site_id = site_id
        self.recovery = Recovery(0, 0)
        self._entries = folder / ENTRIES
        self._checkpoint_path = folder / CHECKPOINT
        self._origin = site_origin(site_id)
        self._key = key
        self._clock = clock
        self._facts = facts
        self._frontier = Frontier()
        self._leaves: list[bytes] = []
        self._end = 0  # bytes of the records' lines: where the next one goes
        self._checkpoint = b""
        self._told: _Told | None = None  # what the records say; read when first asked for
        self._failed = False

    @classmethod
    def create(
        cls, folder: Path, *, site_id: str, key: PrivateKey, clock: Callable[[], datetime], facts: Facts = _no_facts
    ) -> Self:
        """Make an empty log.

        Args:
            folder: `SITE/evidence/log`; made when missing.
            site_id: 128 random bits as 32 lower-case hex digits.
            key: The site's Ed25519 key.
            clock: Returns the present as an aware datetime.
            facts: Returns what every record's data says besides, at the time of the append.

        Raises:
            InputError: There is a log already.
            TrustError: The key is not Ed25519.
            StorageError: It cannot be written.
        """
        log = cls(folder, site_id=site_id, key=key, clock=clock, facts=facts)
        make_dir(folder)
        if log._checkpoint_path.exists() or (log._entries.exists() and log._entries.stat().st_size):
            raise InputError(f"{folder} holds an evidence log already; a log is never begun anew", path=str(folder))
        write_durable(log._entries, b"", mode=0o600)
        log._write_checkpoint(Frontier())
        return log

    @classmethod
    def open(
        cls, folder: Path, *, site_id: str, key: PrivateKey, clock: Callable[[], datetime], facts: Facts = _no_facts
    ) -> Self:
        """Open the log, verify all of it, and repair what a crash may have left (see the module docstring).

        Args:
            folder: `SITE/evidence/log`.
            site_id: The site's id.
            key: The site's Ed25519 key.
            clock: Returns the present as an aware datetime.
            facts: Returns what every record's data says besides, at the time of the append.

        Raises:
            IntegrityError: The log is not what was signed: a file is missing, a record is edited, lost or foreign.
            TrustError: The checkpoint is not signed by `key`.
            StorageError: It cannot be read, or a repair cannot be written.
        """
        log = cls(folder, site_id=site_id, key=key, clock=clock, facts=facts)
        log._checkpoint = log._read_checkpoint()
        signed = open_checkpoint(
            log._checkpoint, origin=log._origin, key=key.public, what="the evidence log's checkpoint"
        )
        log._load(signed)
        return log

    @property
    def origin(self) -> str:
        """The log's name, `airpack/SITE_ID`."""
        return self._origin

    @property
    def key(self) -> PrivateKey:
        """The site's key: it signs checkpoints, exports and receipts. Auditors pin its public half."""
        return self._key

    @property
    def size(self) -> int:
        """Number of records."""
        return self._frontier.size

    @property
    def root(self) -> bytes:
        """RFC 6962 root hash of all records, 32 bytes."""
        return self._frontier.root()

    @property
    def checkpoint(self) -> bytes:
        """The signed checkpoint of all records, a C2SP note."""
        return self._checkpoint

    def checkpoint_at(self, size: int) -> bytes:
        """Return the signed checkpoint of the first `size` records, with the bytes it had when it was the newest.

        Raises:
            ValueError: There are fewer records.
        """
        return sign_checkpoint(Checkpoint(self._origin, size, self.tree().root(size)), self._key)

    def tree(self) -> Tree:
        """Return the log's Merkle tree, for roots and proofs at any size."""
        return Tree(self._leaves)

    def lines(self, first: int = 0) -> bytes:
        """Return the lines from record `first` on, each with its newline.

        Raises:
            ValueError: There are fewer records.
            StorageError: They cannot be read.
        """
        if not 0 <= first <= self.size:
            raise ValueError(f"the log has {self.size} records; no record {first}")
        return b"".join(line for seq, line in self._read() if seq >= first)

    def records(self, first: int = 0) -> Iterator[Record]:
        """Yield the records from number `first` on.

        Raises:
            StorageError: They cannot be read.
        """
        for seq, line in self._read():
            if seq >= first:
                yield Record.parse(line[:-1], what=f"record {seq}")

    def append(
        self,
        event: Event,
        phase: Phase,
        *,
        outcome: Outcome = Outcome.NONE,
        reason: str = "",
        subject: Sequence[Subject] = (),
        corr: str = "",
        data: Mapping[str, Value] | None = None,
    ) -> Record:
        """Append one record; when this returns, it is durable and under a signed checkpoint. O(log size).

        `intent`, `result` and `note` say the same with less to get wrong.

        Args:
            event: What happens.
            phase: Before it, after it, or the whole of it.
            outcome: How it ended.
            reason: Error code when it did not end well.
            subject: What it is about.
            corr: Ties a result to its intent.
            data: Facts; words from outside go through `records.clip` first.

        Raises:
            ValueError: The record breaks a rule of `records` (a caller's bug); nothing is written.
            StorageError: The log cannot append. The caller must not act.
            IntegrityError: The files are not as this object left them.
        """
        if self._failed:
            raise StorageError("the evidence log failed before and takes no more; open it again", path=self._path)
        record = Record(
            site=self.site_id,
            seq=self.size,
            event=event,
            phase=phase,
            actor=_actor(),
            time=_stamp(self._clock()),
            outcome=outcome,
            reason=reason,
            subject=tuple(subject),
            corr=corr,
            data={**(data or {}), **self._facts(phase)},
        )
        line = record.emit()
        self._check_unchanged()
        self._failed = True  # until all of it stands; also when the user interrupts
        try:
            append_durable(self._entries, line + b"\n", at=self._end, mode=0o600)
            self._write_checkpoint(self._frontier.append(leaf_hash(line)))
        except AirpackError as error:
            what = "the act is over, but not its result on record" if phase is Phase.RESULT else "so nothing was done"
            raise StorageError(
                f"the evidence log cannot append, {what}: {error.message}",
                hint=error.hint or "make the log's disk writable and run the same command again",
                path=self._path,
            ) from error
        self._take(line)
        if self._told is not None:
            self._told.take(record.seq, line)
        self._failed = False
        return record

    def intent(
        self,
        event: Event,
        *,
        subject: Sequence[Subject] = (),
        data: Mapping[str, Value] | None = None,
        corr: str | None = None,
    ) -> str:
        """Put on record what is about to be done, and return the `corr` that its result must give.

        Args:
            event: What is about to happen.
            subject: What it is about.
            data: Facts.
            corr: A transaction id of the caller's; random when None.

        Raises:
            ValueError: An intent with this `corr` is open (a caller's bug).
            StorageError: The log cannot append. The caller must not act.
        """
        corr = secrets.token_hex(16) if corr is None else corr
        if corr in self._read_told().open:
            raise ValueError(f"an intent {corr!r} is open already")
        self.append(event, Phase.INTENT, subject=subject, corr=corr, data=data)
        return corr

    def result(
        self,
        corr: str,
        outcome: Outcome,
        *,
        reason: str = "",
        subject: Sequence[Subject] = (),
        data: Mapping[str, Value] | None = None,
    ) -> Record:
        """Put on record how the intent `corr` ended.

        Args:
            corr: What `intent` returned, or of one of `open_intents`.
            outcome: done, refused, failed or interrupted.
            reason: Error code; needed with refused and failed.
            subject: What came of it.
            data: Facts.

        Raises:
            ValueError: No intent `corr` is open (a caller's bug).
            StorageError: The log cannot append; the intent stays open.
        """
        line = self._read_told().open.get(corr)
        if line is None:
            raise ValueError(f"no intent {corr!r} is open")
        intent = Record.parse(line, what=f"intent {corr}")
        return self.append(
            intent.event, Phase.RESULT, outcome=outcome, reason=reason, subject=subject, corr=corr, data=data
        )

    def note(
        self,
        event: Event,
        outcome: Outcome = Outcome.NONE,
        *,
        reason: str = "",
        subject: Sequence[Subject] = (),
        data: Mapping[str, Value] | None = None,
    ) -> Record:
        """Put on record an event that needs no intent, because nothing is changed by it (a probe's answer, a clock).

        Raises:
            StorageError: The log cannot append.
        """
        return self.append(event, Phase.NOTE, outcome=outcome, reason=reason, subject=subject, data=data)

    def open_intents(self) -> tuple[Record, ...]:
        """Return the intents that have no result, oldest first: what recovery must end as `interrupted`."""
        return tuple(Record.parse(line, what=f"intent {corr}") for corr, line in self._read_told().open.items())

    def highest(self, key: str) -> Highest:
        """Return the highest whole number that a record's `data` says under `key`, and the first that says so.

        Raises:
            StorageError: The records cannot be read.
        """
        return self._read_told().highest.get(key, NEVER)

    def newest(self) -> Record | None:
        """Return the last record, None for an empty log.

        Raises:
            StorageError: It cannot be read.
        """
        line = self._read_told().newest
        return Record.parse(line, what=f"record {self.size - 1}") if line else None

    def facts(self) -> Iterator[Fact]:
        """Yield what each record says, lists as tuples.

        The lines were verified against the signed root, so that they are not read strictly again.

        Raises:
            StorageError: They cannot be read.
        """
        for seq, line in self._read():
            fields = json.loads(line)
            data = {key: tuple(value) if isinstance(value, list) else value for key, value in fields["data"].items()}
            yield Fact(seq, Event(fields["event"]), data)

    def find(self, event: Event, phase: Phase) -> tuple[int, ...]:
        """Return the numbers of all records of `event` and `phase`.

        Raises:
            StorageError: They cannot be read.
        """
        return tuple(
            seq
            for seq, line in self._read()
            if (fields := json.loads(line))["event"] == event and fields["phase"] == phase
        )

    @property
    def _path(self) -> str:
        return str(self._entries)

    def _load(self, signed: Checkpoint) -> None:
        """Read all lines: those under the checkpoint by its root, those beyond it by the rules."""
        beyond: list[bytes] = []
        torn = 0
        for line in self._file_lines():
            if self.size < signed.size:
                if not line.endswith(b"\n"):
                    raise IntegrityError(f"record {self.size} of the evidence log is cut short", path=self._path)
                self._take(line[:-1])
            elif torn:
                raise IntegrityError(f"the evidence log has lines after a torn one, at {self._end}")
            elif _is_torn(line):
                torn = len(line)
            else:
                beyond.append(line[:-1])
        self._check_root(signed)
        if len(beyond) > 1:
            # Each append ends with its checkpoint, so that a crash leaves one record beyond it at most.
            raise IntegrityError(
                f"the evidence log has {len(beyond)} records beyond its checkpoint; a crash leaves one at most",
                path=self._path,
            )
        for line in beyond:
            self._adopt(line)
        if beyond:
            self._write_checkpoint(self._frontier)
        self.recovery = Recovery(len(beyond), torn)
        if beyond or torn:
            self.note(Event.RECOVER, Outcome.DONE, data={"adopted_records": len(beyond), "dropped_bytes": torn})

    def _check_root(self, signed: Checkpoint) -> None:
        if self.size < signed.size:
            raise IntegrityError(
                f"the evidence log has {self.size} records; its checkpoint says {signed.size}: records are lost",
                path=self._path,
            )
        if self.root != signed.root:
            raise IntegrityError(
                f"the evidence log's {self.size} records are not those of its checkpoint: root {self.root.hex()}, "
                f"signed {signed.root.hex()}",
                path=self._path,
            )

    def _adopt(self, line: bytes) -> None:
        """Take in a whole line that a crash left beyond the checkpoint."""
        what = f"record {self.size}, beyond the checkpoint,"
        record = Record.parse(line, what=what)
        if (record.site, record.seq) != (self.site_id, self.size):
            raise IntegrityError(f"{what} says it is record {record.seq} of site {record.site}", path=self._path)
        self._take(line)

    def _take(self, line: bytes) -> None:
        """Count in a record whose line, with a newline after it, is on disk."""
        leaf = leaf_hash(line)
        self._leaves.append(leaf)
        self._frontier = self._frontier.append(leaf)
        self._end += len(line) + 1

    def _write_checkpoint(self, frontier: Frontier) -> None:
        data = sign_checkpoint(Checkpoint(self._origin, frontier.size, frontier.root()), self._key)
        write_durable(self._checkpoint_path, data, mode=0o644)
        self._checkpoint = data

    def _check_unchanged(self) -> None:
        """Refuse to write over what another process appended since this log was opened."""
        if self._read_checkpoint() != self._checkpoint:
            raise IntegrityError(
                "the evidence log changed under this process: its checkpoint is another than when it was opened",
                hint="run the same command again; if it comes back, run `airpack fsck`",
                path=self._path,
            )

    def _read_told(self) -> "_Told":
        """Return what the records say; read once, and kept up by `append`."""
        if self._told is None:
            told = _Told()
            for seq, line in self._read():
                told.take(seq, line[:-1])
            self._told = told
        return self._told

    def _read_checkpoint(self) -> bytes:
        try:
            return read_regular(self._checkpoint_path, MAX_NOTE)
        except NotFoundError as error:
            raise IntegrityError(
                f"the evidence log has lost its file {self._checkpoint_path}", path=str(self._checkpoint_path)
            ) from error

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and line of each record, as long as they are those that were verified."""
        lines = self._file_lines()
        for seq, leaf in enumerate(self._leaves):
            line = next(lines, b"")
            if leaf_hash(line[:-1]) != leaf or not line.endswith(b"\n"):
                raise IntegrityError(f"record {seq} of the evidence log changed after it was verified", path=self._path)
            yield seq, line

    def _file_lines(self) -> Iterator[bytes]:
        """Yield the file's lines with their newlines, none longer than a record may be."""
        longest = Limits.EVIDENCE_RECORD + 1
        try:
            with os.fdopen(open_regular(self._entries), "rb") as stream:
                while line := stream.readline(longest + 1):
                    if len(line) > longest:
                        raise IntegrityError(
                            f"the evidence log has a line of more than {longest} bytes", path=self._path
                        )
                    yield line
        except NotFoundError as error:
            raise IntegrityError(f"the evidence log has lost its file {self._entries}", path=self._path) from error
        except OSError as error:
            raise StorageError(f"cannot read {self._entries}: {error.strerror}", path=self._path) from error


def _is_torn(line: bytes) -> bool:
    """Return whether a crash can have left `line`: cut short, or with blocks that never reached the disk."""
    return not line.endswith(b"\n") or b"\x00" in line


def _actor() -> Actor:
    uid = os.getuid()
    try:
        return Actor(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:  # a container may run under a number that has no name
        return Actor(uid)


def _stamp(now: datetime) -> Stamp:
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # not every sandbox shows it; the wall clock is there in any case
        boot = ""
    return Stamp(now.replace(microsecond=0), boot, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000)
