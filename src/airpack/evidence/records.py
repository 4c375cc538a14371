"""The record: one closed canonical JSON document, one line of the log, one leaf of its tree.

    {"actor":{"uid":990,"user":"airpack"},"corr":"4f0c1a…","data":{"volumes":3},"event":"import","outcome":"done",
     "phase":"result","reason":"","schema":"airpack.record/1","seq":7,"site":"5f3c…",
     "subject":[{"digest":"sha256:…","name":"digits@1.1.0"}],
     "time":{"boot_id":"…","boottime_ms":86400512,"wall":"2026-11-23T09:14:07Z"}}

Rules beyond the types, so that a record cannot say two things:

- `phase` intent: nothing has happened yet, so `outcome` and `reason` are empty; `corr` is there.
- `phase` result: `outcome` and `corr` are there; the intent before it has the same `corr` and `event`.
- `phase` note: one record for the whole of an event; `outcome` where there is one to tell.
- `reason` is an error code (`integrity`, `busy`): needed with refused and failed, allowed with interrupted, else empty.

Order comes from `seq`, never from the clock. `boottime_ms` counts from the boot that `boot_id` names, through
suspend; it is in milliseconds because JSON numbers hold no more than 104 days of nanoseconds exactly.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.times import emit_time, parse_time
from airpack.types import Digest, Limits

SCHEMA: Final = "airpack.record/1"
MAX_SUBJECTS: Final = 64
MAX_DATA: Final = 64  # keys in `data`
MAX_LIST: Final = 256  # strings in one list of `data`
MAX_TEXT: Final = 1024  # characters of one string
_MAX_INTEGER: Final = 2**53 - 1
_SITE = re.compile(r"[0-9a-f]{32}\Z")
_CORR = re.compile(r"[0-9a-z][0-9a-z-]{0,63}\Z")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

Value = str | int | bool | tuple[str, ...]


class Event(StrEnum):
    """What happened."""

    SITE_INIT = "site.init"
    IMPORT = "import"
    ACTIVATE = "activate"
    ROLLBACK = "rollback"
    PROBE = "probe"
    GC = "gc"
    FSCK = "fsck"
    EXPORT = "export"
    CLOCK = "clock"
    RECOVER = "recover"
    POLICY = "policy"
    TRUST = "trust"


class Phase(StrEnum):
    """Before the act, after it, or one record for the whole."""

    INTENT = "intent"
    RESULT = "result"
    NOTE = "note"


class Outcome(StrEnum):
    """How it ended; `NONE` where there is nothing to tell yet."""

    NONE = ""
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about: a release, a file, a policy.

    Attributes:
        name: For people, at most 1024 characters.
        digest: Which bytes exactly.
    """

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Actor:
    """Who ran the program, as the kernel knows them.

    Attributes:
        uid: Real user id.
        user: The user's name; empty when the id has none.
    """

    uid: int
    user: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """When, by two clocks: one can be set, one cannot.

    Attributes:
        wall: UTC, whole seconds.
        boot_id: The kernel's random id of this boot (UUID); empty when it could not be read.
        boottime_ms: Milliseconds since that boot, suspend included.
    """

    wall: datetime
    boot_id: str = ""
    boottime_ms: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One record. Law: `Record.parse(record.emit()) == record`, and equal records have equal bytes.

    Attributes:
        site: SITE_ID, 32 lower-case hex digits.
        seq: Place in the log, from 0, without gaps.
        event: What happened.
        phase: intent, result or note.
        actor: Who did it.
        time: When.
        outcome: How it ended.
        reason: An error code when it did not end well.
        subject: What it is about, at most 64.
        corr: Ties a result to its intent; 1 to 64 of `0-9a-z-`.
        data: At most 64 facts: strings and lists of strings (1024 characters each), whole numbers, true and false.
    """

    site: str
    seq: int
    event: Event
    phase: Phase
    actor: Actor
    time: Stamp
    outcome: Outcome = Outcome.NONE
    reason: str = ""
    subject: tuple[Subject, ...] = ()
    corr: str = ""
    data: Mapping[str, Value] = field(default_factory=dict)

    def emit(self) -> bytes:
        """Return the record's canonical bytes, without a newline.

        Raises:
            ValueError: An auditor would refuse this record (a caller's bug).
        """
        line = emit(
            {
                "schema": SCHEMA,
                "site": self.site,
                "seq": self.seq,
                "event": self.event.value,
                "phase": self.phase.value,
                "outcome": self.outcome.value,
                "reason": self.reason,
                "subject": [{"name": each.name, "digest": str(each.digest)} for each in self.subject],
                "actor": {"uid": self.actor.uid, "user": self.actor.user},
                "time": {
                    "wall": emit_time(self.time.wall),
                    "boot_id": self.time.boot_id,
                    "boottime_ms": self.time.boottime_ms,
                },
                "corr": self.corr,
                "data": {key: list(value) if isinstance(value, tuple) else value for key, value in self.data.items()},
            }
        )
        try:
            same = Record.parse(line, what="record") == self
        except IntegrityError as error:
            raise ValueError(error.message) from error
        if not same:
            raise ValueError("the record would be read back differently: whole seconds and tuples only")
        return line

    @classmethod
    def parse(cls, line: bytes, *, what: str) -> Self:
        """Read one line of the log, without its newline.

        Args:
            line: Canonical JSON, at most `Limits.EVIDENCE_RECORD` bytes.
            what: What is read, for messages (`record 7`).

        Raises:
            IntegrityError: Not canonical, an unknown field or word, beyond a bound, or against this module's rules.
        """
        fields = Fields(parse_canonical(line, what=what, limit=Limits.EVIDENCE_RECORD), what=what)
        fields.schema(SCHEMA)
        record = cls(
            site=_matching(fields, "site", _SITE),
            seq=fields.integer("seq"),
            event=Event(fields.text("event", choices=_EVENTS)),
            phase=Phase(fields.text("phase", choices=_PHASES)),
            actor=_actor(fields.table("actor")),
            time=_stamp(fields.table("time")),
            outcome=Outcome(fields.text("outcome", choices=_OUTCOMES)),
            reason=_matching(fields, "reason", _REASON, empty=True),
            subject=tuple(_subject(each) for each in fields.tables("subject", most=MAX_SUBJECTS)),
            corr=_matching(fields, "corr", _CORR, empty=True),
            data=_data(fields),
        )
        fields.done()
        _check_rules(record, fields)
        return record


_EVENTS = tuple(each.value for each in Event)
_PHASES = tuple(each.value for each in Phase)
_OUTCOMES = tuple(each.value for each in Outcome)


def clip(text: str) -> str:
    """Return `text` as it may stand in a record: at most 1024 characters, the end cut off with `…` where it is longer.

    For words that come from outside (file names, messages): bytes that were no UTF-8 become `?`.
    """
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"


def _matching(fields: Fields, key: str, pattern: re.Pattern[str], *, empty: bool = False) -> str:
    text = fields.text(key)
    if not pattern.match(text) and not (empty and not text):
        raise fields.fail(f"'{key}' is not well formed: {text[:80]!r}")
    return text


def _short(fields: Fields, key: str) -> str:
    text = fields.text(key)
    if len(text) > MAX_TEXT:
        raise fields.fail(f"'{key}' is longer than {MAX_TEXT} characters")
    return text


def _actor(fields: Fields) -> Actor:
    actor = Actor(uid=fields.integer("uid"), user=_short(fields, "user"))
    fields.done()
    return actor


def _stamp(fields: Fields) -> Stamp:
    stamp = Stamp(
        wall=parse_time(fields.text("wall"), what=f"{fields.what}: 'wall'"),
        boot_id=_matching(fields, "boot_id", _BOOT, empty=True),
        boottime_ms=fields.integer("boottime_ms"),
    )
    fields.done()
    return stamp


def _subject(fields: Fields) -> Subject:
    subject = Subject(name=_short(fields, "name"), digest=fields.digest("digest"))
    fields.done()
    return subject


def _data(fields: Fields) -> Mapping[str, Value]:
    items = fields.mapping("data")
    if len(items) > MAX_DATA:
        raise fields.fail(f"'data' has {len(items)} keys; at most {MAX_DATA} are read")
    result: dict[str, Value] = {}
    for key, value in items.items():
        if not _KEY.match(key):
            raise fields.fail(f"'data' has the key {key[:80]!r}; keys are [a-z][a-z0-9_]*, at most 64 characters")
        result[key] = _value(fields, key, value)
    return MappingProxyType(result)


def _value(fields: Fields, key: str, value: Any) -> Value:
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if isinstance(value, int) and abs(value) <= _MAX_INTEGER:  # bool is an int here, and as welcome
        return value
    if isinstance(value, list) and len(value) <= MAX_LIST:
        texts = tuple(item for item in value if isinstance(item, str) and len(item) <= MAX_TEXT)
        if len(texts) == len(value):
            return texts
    raise fields.fail(
        f"'data' {key!r} is none of: a string of at most {MAX_TEXT} characters, a whole number, true, false, "
        f"a list of at most {MAX_LIST} such strings"
    )


def _check_rules(record: Record, fields: Fields) -> None:
    """Hold the rules of the module docstring."""
    if record.phase is Phase.INTENT and record.outcome is not Outcome.NONE:
        raise fields.fail("an intent has no outcome yet")
    if record.phase is Phase.RESULT and record.outcome is Outcome.NONE:
        raise fields.fail("a result has no outcome")
    if record.phase is not Phase.NOTE and not record.corr:
        raise fields.fail(f"this {record.phase.value} has no 'corr' to tie intent and result together")
    if record.outcome in {Outcome.NONE, Outcome.DONE} and record.reason:
        raise fields.fail(f"there is a reason, {record.reason!r}, but nothing was refused or failed")
    if record.outcome in {Outcome.REFUSED, Outcome.FAILED} and not record.reason:
        raise fields.fail(f"{record.outcome.value} without a reason")
