from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from airpack.crypto import signing
from airpack.errors import InputError, IntegrityError, RollbackError
from airpack.evidence.acknowledged import Acknowledged, Holding, follow
from airpack.evidence.archive import read_archive
from airpack.evidence.audit import AuditorState, audit
from airpack.evidence.log import EvidenceLog
from airpack.evidence.records import Event, Outcome, Subject
from airpack.formats.statement import PREDICATE_RELEASE, PREDICATE_VSA, Resource, Statement, vsa
from airpack.types import Digest


def release(name: str) -> Digest:
    return Digest.of(name.encode())


def receipt(site: Any, name: str, result: Any = "PASSED", kind: str = PREDICATE_VSA) -> bytes:
    predicate = vsa(
        verifier_id="https://airpack.dev/site/x",
        verifier_version="0.1.0",
        time_verified=datetime(2031, 1, 1, tzinfo=UTC),
        resource_uri="airpack:main/x",
        policy=Resource(Digest.of(b""), uri="policy.json"),
        result=result,
        input_attestations=[],
        verified_levels=[],
    )
    return signing.sign_statement(site.key, Statement(name, release(name), kind, predicate))


@dataclass
class Told:
    """A site's log, and what a workspace makes of its exports."""

    site: Any
    log: EvidenceLog
    receipts: dict[str, bytes] = field(default_factory=dict)
    held: Acknowledged | None = None

    def subjects(self, name: str) -> list[Subject]:
        return [Subject("head.airpack", Digest.of(b"head")), Subject(name, release(name))]

    def imports(self, name: str, outcome: Outcome = Outcome.DONE, *, recovered: bool = False) -> None:
        corr = self.log.intent(Event.IMPORT, subject=self.subjects(name))
        reason = "" if outcome is Outcome.DONE else "integrity"
        self.log.result(corr, outcome, reason=reason, subject=[] if recovered else self.subjects(name))
        if outcome is Outcome.DONE:
            self.receipts[release(name).hex] = receipt(self.site, name)

    def collects(self, *names: str, count: int | None = None) -> str:
        subject = [Subject(name, release(name)) for name in names]
        return self.log.intent(Event.GC, subject=subject, data={"releases": len(names) if count is None else count})

    def export(self, *, since: int = 0) -> bytes:
        data: bytes = self.site.export(self.log, since=since, receipts=self.receipts)
        return data

    def add(self, data: bytes) -> list[str]:
        result = audit(data, key=self.site.key.public, state=self.held.state if self.held else None)
        if result.error:
            raise result.error
        assert result.state
        self.held = follow(self.held, read_archive(data), result.state)
        assert Acknowledged.parse(self.held.emit()) == self.held
        return [each.name for each in self.held.holdings]


@pytest.fixture
def told(site: Any) -> Told:
    return Told(site, site.create())


def test_what_was_imported_and_has_a_receipt_is_held(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.imports("other@2")
    told.imports("tool@1.1.0")
    assert told.add(told.export()) == ["tool@1.0.0", "other@2", "tool@1.1.0"]
    assert told.held
    assert told.held.holdings[0].release == release("tool@1.0.0")


def test_what_was_refused_is_not_held(told: Told) -> None:
    told.imports("tool@1.0.0", Outcome.REFUSED)
    told.log.note(Event.IMPORT, Outcome.REFUSED, reason="trust", subject=told.subjects("tool@1.1.0"))
    told.log.intent(Event.IMPORT, subject=told.subjects("tool@1.2.0"))
    told.receipts = {release(name).hex: receipt(told.site, name) for name in ("tool@1.0.0", "tool@1.1.0", "tool@1.2.0")}
    assert told.add(told.export()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _site: {},
        lambda site: {"a": receipt(site, "tool@2.0.0")},
        lambda site: {"a": receipt(site, "tool@1.0.0", "FAILED")},
        lambda site: {"a": receipt(site, "tool@1.0.0", kind=PREDICATE_RELEASE)},
    ],
)
def test_an_import_without_its_receipt_is_not_held(told: Told, spoil: Callable[[Any], dict[str, bytes]]) -> None:
    told.imports("tool@1.0.0")
    told.receipts = spoil(told.site)
    assert told.add(told.export()) == []


def test_an_import_that_a_recovery_found_done_is_held(told: Told) -> None:
    told.imports("tool@1.0.0", recovered=True)
    assert told.add(told.export()) == ["tool@1.0.0"]


def test_an_import_repeated_is_held(told: Told) -> None:
    told.log.note(Event.IMPORT, Outcome.DONE, subject=told.subjects("tool@1.0.0"), data={"repeated": True})
    told.receipts["a"] = receipt(told.site, "tool@1.0.0")
    assert told.add(told.export()) == ["tool@1.0.0"]


def test_what_gc_removed_is_not_held_until_it_is_imported_again(told: Told) -> None:
    for name in ("tool@1.0.0", "tool@1.1.0"):
        told.imports(name)
    told.log.result(told.collects("tool@1.0.0"), Outcome.DONE)
    assert told.add(told.export()) == ["tool@1.1.0"]
    told.imports("tool@1.0.0")
    assert told.add(told.export()) == ["tool@1.1.0", "tool@1.0.0"]


def test_what_gc_began_to_remove_is_not_held(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.collects("tool@1.0.0")
    assert told.add(told.export()) == []


def test_where_gc_removed_more_than_it_could_name_nothing_is_held(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.imports("tool@1.1.0")
    told.collects("tool@1.0.0", count=65)
    assert told.add(told.export()) == []


def test_a_later_export_adds_to_what_is_known(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.add(told.export())
    assert told.held
    since = told.held.state.size
    told.imports("tool@1.1.0")
    told.receipts = {release("tool@1.1.0").hex: told.receipts[release("tool@1.1.0").hex]}
    assert told.add(told.export(since=since)) == ["tool@1.0.0", "tool@1.1.0"]
    told.collects("tool@1.0.0")
    assert told.add(told.export(since=since)) == ["tool@1.1.0"]


def test_records_that_were_counted_do_not_count_again(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.imports("tool@1.1.0")
    told.collects("tool@1.0.0")
    told.add(told.export())
    assert told.add(told.export()) == ["tool@1.1.0"]


def test_an_import_whose_intent_lies_in_the_export_before_is_held(told: Told) -> None:
    corr = told.log.intent(Event.IMPORT, subject=told.subjects("tool@1.0.0"))
    told.add(told.export())
    told.log.result(corr, Outcome.DONE)
    told.receipts["a"] = receipt(told.site, "tool@1.0.0")
    assert told.add(told.export()) == ["tool@1.0.0"]


def test_an_export_that_goes_back_behind_what_was_added_is_refused(told: Told) -> None:
    told.imports("tool@1.0.0")
    older = told.export()
    told.collects("tool@1.0.0")
    told.add(told.export())
    with pytest.raises(RollbackError):
        told.add(older)


def test_the_first_export_begins_at_the_beginning(told: Told) -> None:
    told.imports("tool@1.0.0")
    told.export()
    with pytest.raises(InputError, match="begins at record 1") as caught:
        told.add(told.export(since=1))
    assert "without --since" in caught.value.hint


STATE = AuditorState("airpack/" + "0" * 32, Digest.of(b"key"), 7, bytes(32), 1)
GOOD = Acknowledged(STATE, (Holding("tool@1", release("a"), 2), Holding("tool@2", release("b"), 4)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"airpack.acknowledged/1", b"airpack.acknowledged/2"),
        (b"airpack.auditor/1", b"airpack.auditor/2"),
        (b'"record":4', b'"record":2'),
        (b'"record":4', b'"record":1'),
        (b'"record":4', b'"more":4'),
        (b"tool@2", b"tool"),
        (release("b").hex.encode(), release("a").hex.encode()),
        (b'"size":7', b'"size":7.5'),
        (b'"size":7', b'"size":1e300'),
    ],
)
def test_a_document_that_is_not_as_it_was_written_is_refused(old: bytes, new: bytes) -> None:
    assert Acknowledged.parse(GOOD.emit()) == GOOD
    assert old in GOOD.emit()
    with pytest.raises(IntegrityError):
        Acknowledged.parse(GOOD.emit().replace(old, new))
