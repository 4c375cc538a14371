"""What a site has said that it holds, from exports of its evidence that were audited.

A release counts as held once a record says that its import is done and the export carries the site's receipt of it; it
does no more once a record says that `gc` begins to remove it. Whatever an export leaves open counts as not held: then a
delta is not built that could have been, never the other way round. (And a site checks its base files anyway.)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from airpack.errors import InputError
from airpack.evidence import export
from airpack.evidence.audit import AuditorState
from airpack.evidence.records import Event, Outcome, Phase, Record
from airpack.formats import bundle, canonical
from airpack.formats.fields import Fields
from airpack.formats.names import parse_release_name
from airpack.formats.statement import PREDICATE_VSA, Statement
from airpack.types import Digest

SCHEMA: Final = "airpack.acknowledged/1"
_MOST: Final = 1000  # releases, the newest
_WHAT: Final = "what a site acknowledged"


@dataclass(frozen=True, slots=True)
class Holding:
    """A release that a site holds.

    Attributes:
        name: `product@version`.
        release: Its digest.
        record: Number of the record that says that its import is done.
    """

    name: str
    release: Digest
    record: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a site holds as of its last export that was added. Law: `parse(held.emit()) == held`.

    Attributes:
        state: What the audit of that export left to hold the next one against.
        holdings: Releases, in the order of their imports.
    """

    state: AuditorState
    holdings: tuple[Holding, ...]

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.emit(
            {
                "schema": SCHEMA,
                "state": canonical.parse_canonical(self.state.emit(), what="state"),
                "releases": [
                    {"name": each.name, "release": str(each.release), "record": each.record} for each in self.holdings
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what `emit` wrote.

        Raises:
            IntegrityError: It is not such a document.
        """
        fields = Fields(canonical.parse_canonical(data, what=_WHAT), what=_WHAT)
        fields.schema(SCHEMA)
        found = cls(
            state=AuditorState.parse(_document(fields.mapping("state"), fields)),
            holdings=tuple(_holding(each) for each in fields.tables("releases", most=_MOST)),
        )
        fields.done()
        numbers = [each.record for each in found.holdings]
        if numbers != sorted(set(numbers)) or len({each.release for each in found.holdings}) != len(numbers):
            raise fields.fail("'releases' must name each release once, by ascending record")
        return found


def _document(value: Mapping[str, Any], fields: Fields) -> bytes:
    try:
        return canonical.emit(value)
    except ValueError as error:
        raise fields.fail(f"'state' has no canonical form: {error}") from error


def _holding(fields: Fields) -> Holding:
    holding = Holding(fields.text("name"), fields.digest("release"), fields.integer("record"))
    fields.done()
    parse_release_name(holding.name)
    return holding


def follow(before: Acknowledged | None, files: Mapping[str, bytes], state: AuditorState) -> Acknowledged:
    """Return what the site holds after an export.

    Args:
        before: What it held after the export that was added before; None for the first one.
        files: The contents of the export, which has been audited against `before`.
        state: What that audit left.

    Raises:
        InputError: There is nothing before, and the export does not begin with the first record.
    """
    first = export.Manifest.parse(files[export.MANIFEST]).first
    if before is None and first:
        raise InputError(
            f"the export begins at record {first}; what the site did before is not known here",
            hint="add an export from the first record on: `airpack evidence export` without --since",
        )
    known = {each.release: each for each in before.holdings} if before else {}
    receipts = set(_receipts(files))
    done = before.state.size if before else 0
    for holding in _walk(_records(files), known, done):
        if holding.release in receipts:
            known[holding.release] = holding
    newest = sorted(known.values(), key=lambda each: each.record)[-_MOST:]
    return Acknowledged(state, tuple(newest))


def _records(files: Mapping[str, bytes]) -> Iterator[Record]:
    for line in files[export.ENTRIES].splitlines():
        yield Record.parse(line, what="record")


def _walk(records: Iterable[Record], known: dict[Digest, Holding], done: int) -> Iterator[Holding]:
    """Yield what was imported, and take out of `known` what was removed; records before `done` are counted already."""
    intents: dict[str, Record] = {}
    for record in records:
        if record.event is Event.IMPORT and record.phase is Phase.INTENT:
            intents[record.corr] = record
        elif record.seq < done:
            continue
        elif record.event is Event.IMPORT and record.outcome is Outcome.DONE:
            yield from _imported(record, intents.get(record.corr))
        elif record.event is Event.GC and record.phase is Phase.INTENT:
            _remove(record, known)


def _imported(record: Record, intent: Record | None) -> Iterator[Holding]:
    """Yield the release of an import that is done: its last subject, the first being the head file."""
    subjects = record.subject or (intent.subject if intent else ())
    if subjects and "@" in subjects[-1].name:
        yield Holding(subjects[-1].name, subjects[-1].digest, record.seq)


def _remove(record: Record, known: dict[Digest, Holding]) -> None:
    if record.data.get("releases") != len(record.subject):
        known.clear()  # more than a record has room for: it may be any of them
    for subject in record.subject:
        known.pop(subject.digest, None)


def _receipts(files: Mapping[str, bytes]) -> Iterator[Digest]:
    """Yield the releases that the site's receipts say passed; the audit has seen to their signatures."""
    for name, data in files.items():
        if export.is_receipt(name):
            statement = Statement.parse(bundle.parse(data)[0].payload)
            passed = statement.predicate.get("verificationResult") == "PASSED"
            if statement.predicate_type == PREDICATE_VSA and passed:
                yield statement.digest
