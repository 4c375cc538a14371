import os
import resource
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from airpack.crypto.keys import PrivateKey
from airpack.errors import InputError, IntegrityError, StorageError, TrustError
from airpack.evidence import log as log_module
from airpack.evidence.checkpoint import open_checkpoint, sign_checkpoint
from airpack.evidence.log import EvidenceLog, Highest, Recovery
from airpack.evidence.merkle import Tree, leaf_hash, verify_consistency
from airpack.evidence.records import Event, Outcome, Phase, Record, Subject
from airpack.formats.note import Checkpoint
from airpack.types import Digest, Limits


@pytest.fixture
def filled(site: Any) -> EvidenceLog:
    log: EvidenceLog = site.create()
    log.note(Event.SITE_INIT, Outcome.DONE)
    site.do(log, Event.IMPORT)
    site.do(log, Event.ACTIVATE, Outcome.FAILED)
    return log


def lines_of(site: Any) -> list[bytes]:
    content: bytes = site.entries.read_bytes()
    return content.splitlines(keepends=True)


def test_a_new_log_has_a_signed_checkpoint_of_nothing(site: Any) -> None:
    log = site.create()
    checkpoint = open_checkpoint(log.checkpoint, origin=log.origin, key=site.key.public, what="checkpoint")
    assert checkpoint == Checkpoint(f"airpack/{site.site_id}", 0, Tree([]).root(0))
    assert site.open().size == 0


def test_a_log_is_never_begun_anew(site: Any, filled: EvidenceLog) -> None:
    with pytest.raises(InputError, match="already"):
        site.create()
    site.checkpoint.unlink()
    with pytest.raises(InputError, match="already"):
        site.create()
    assert filled.size == 5


def test_a_crash_between_the_first_two_files_can_be_repeated(site: Any) -> None:
    site.folder.mkdir(parents=True)
    site.entries.write_bytes(b"")
    assert site.create().size == 0


def test_records_come_back_in_order_with_who_and_when(site: Any, filled: EvidenceLog) -> None:
    records = list(site.open().records())
    assert [record.seq for record in records] == [0, 1, 2, 3, 4]
    assert [(record.event, record.phase, record.outcome) for record in records] == [
        (Event.SITE_INIT, Phase.NOTE, Outcome.DONE),
        (Event.IMPORT, Phase.INTENT, Outcome.NONE),
        (Event.IMPORT, Phase.RESULT, Outcome.DONE),
        (Event.ACTIVATE, Phase.INTENT, Outcome.NONE),
        (Event.ACTIVATE, Phase.RESULT, Outcome.FAILED),
    ]
    assert {record.actor.uid for record in records} == {os.getuid()}
    assert records[0].time.wall == datetime(2026, 11, 23, 9, 0, 1, tzinfo=UTC)
    assert records[1].time.boottime_ms <= records[4].time.boottime_ms
    assert list(filled.records(3)) == records[3:]


def test_each_append_is_on_disk_under_a_signed_checkpoint(site: Any) -> None:
    log = site.create()
    for size in range(1, 20):
        log.note(Event.PROBE, data={"number": size})
        lines = lines_of(site)
        checkpoint = open_checkpoint(
            site.checkpoint.read_bytes(), origin=log.origin, key=site.key.public, what="checkpoint"
        )
        assert len(lines) == checkpoint.size == log.size == size
        assert checkpoint.root == log.root == Tree([leaf_hash(line[:-1]) for line in lines]).root(size)


def test_lines_are_the_bytes_on_disk(site: Any, filled: EvidenceLog) -> None:
    assert filled.lines() == site.entries.read_bytes()
    assert filled.lines(3) == b"".join(lines_of(site)[3:])
    assert filled.lines(5) == b""
    with pytest.raises(ValueError, match="no record 6"):
        filled.lines(6)


def test_find_names_the_records_of_an_event(filled: EvidenceLog) -> None:
    assert filled.find(Event.IMPORT, Phase.RESULT) == (2,)
    assert filled.find(Event.GC, Phase.NOTE) == ()


def test_a_checkpoint_of_earlier_has_the_bytes_it_had_then(site: Any) -> None:
    log = site.create()
    written = [log.checkpoint]
    for _ in range(9):
        log.note(Event.PROBE)
        written.append(log.checkpoint)
    assert [log.checkpoint_at(size) for size in range(10)] == written
    tree = log.tree()
    assert verify_consistency(4, 9, tree.root(4), log.root, tree.consistency(4, 9))


def test_an_intent_is_open_until_its_result(site: Any, filled: EvidenceLog) -> None:
    corr = filled.intent(Event.GC, subject=[Subject("blob", Digest.of(b"x"))], data={"bytes": 12})
    (intent,) = filled.open_intents()
    assert (intent.event, intent.corr, intent.phase) == (Event.GC, corr, Phase.INTENT)
    assert site.open().open_intents() == (intent,)
    result = filled.result(corr, Outcome.REFUSED, reason="busy")
    assert (result.event, result.corr, result.reason) == (Event.GC, corr, "busy")
    assert filled.open_intents() == site.open().open_intents() == ()


def test_open_intents_of_a_crash_are_ended_as_interrupted(site: Any) -> None:
    log = site.create()
    first, second = log.intent(Event.IMPORT), log.intent(Event.ACTIVATE)
    again = site.open()
    assert [intent.corr for intent in again.open_intents()] == [first, second]
    for intent in again.open_intents():
        again.result(intent.corr, Outcome.INTERRUPTED)
    assert [record.outcome for record in again.records(2)] == [Outcome.INTERRUPTED] * 2
    assert again.open_intents() == ()


def test_the_caller_may_name_the_transaction(filled: EvidenceLog) -> None:
    assert filled.intent(Event.IMPORT, corr="tx-1") == "tx-1"
    with pytest.raises(ValueError, match="open already"):
        filled.intent(Event.IMPORT, corr="tx-1")
    filled.result("tx-1", Outcome.DONE)
    with pytest.raises(ValueError, match="no intent"):
        filled.result("tx-1", Outcome.DONE)


def test_a_record_against_the_rules_is_not_written(site: Any, filled: EvidenceLog) -> None:
    before = site.entries.read_bytes()
    with pytest.raises(ValueError, match="none of"):
        filled.note(Event.GC, data={"text": "x" * 1025})
    with pytest.raises(ValueError, match="reason"):
        filled.note(Event.GC, Outcome.FAILED)
    assert site.entries.read_bytes() == before
    assert filled.note(Event.GC).seq == 5


def test_a_user_id_without_a_name_is_recorded_as_a_number(filled: EvidenceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    record = filled.note(Event.PROBE)
    assert (record.actor.uid, record.actor.user) == (4_000_000_000, "")


def test_a_host_that_hides_its_boot_id_still_logs(filled: EvidenceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_BOOT_ID", Path("/nonexistent/boot_id"))
    assert filled.note(Event.PROBE).time.boot_id == ""


# What a crash leaves, and what it does not.


@pytest.mark.parametrize("cut", [1, 2, 50, -1])
def test_a_torn_last_line_is_dropped_and_said(site: Any, filled: EvidenceLog, cut: int) -> None:
    whole = site.entries.read_bytes()
    checkpoint = site.checkpoint.read_bytes()
    filled.note(Event.PROBE)
    line = lines_of(site)[-1]
    site.entries.write_bytes(whole + line[:cut])
    site.checkpoint.write_bytes(checkpoint)
    log = site.open()
    assert log.recovery == Recovery(adopted=0, dropped=len(line[:cut]))
    (said,) = log.records(5)
    assert (said.event, said.outcome) == (Event.RECOVER, Outcome.DONE)
    assert said.data == {"adopted_records": 0, "dropped_bytes": len(line[:cut])}
    assert site.open().recovery == Recovery(0, 0)


def test_blocks_that_never_reached_the_disk_are_a_torn_line(site: Any, filled: EvidenceLog) -> None:
    site.entries.write_bytes(filled.lines() + bytes(100) + b'"}\n')
    log = site.open()
    assert log.recovery.dropped == 103
    assert log.size == 6


def test_a_whole_record_beyond_the_checkpoint_is_adopted_and_said(site: Any, filled: EvidenceLog) -> None:
    checkpoint = site.checkpoint.read_bytes()
    corr = filled.intent(Event.IMPORT)
    newest = site.checkpoint.read_bytes()
    site.checkpoint.write_bytes(checkpoint)
    log = site.open()
    assert log.recovery == Recovery(adopted=1, dropped=0)
    assert log.checkpoint_at(6) == newest, "no second checkpoint is ever signed over the same records"
    assert [record.event for record in log.records(5)] == [Event.IMPORT, Event.RECOVER]
    assert [intent.corr for intent in log.open_intents()] == [corr]


def test_an_adopted_record_and_a_torn_line_come_together(site: Any, filled: EvidenceLog) -> None:
    checkpoint = site.checkpoint.read_bytes()
    filled.note(Event.PROBE)
    filled.note(Event.PROBE)
    site.entries.write_bytes(site.entries.read_bytes()[:-1])
    site.checkpoint.write_bytes(checkpoint)
    log = site.open()
    assert log.recovery.adopted == 1
    assert log.recovery.dropped > 0
    assert site.open().size == 7


@pytest.mark.parametrize(
    "tail",
    [
        b"{}\n",
        b"not a record\n",
        b"\n",
        b"torn\x00\nmore\n",
        b"x" * (Limits.EVIDENCE_RECORD + 2) + b"\n",
        b"x" * (Limits.EVIDENCE_RECORD + 2),
    ],
)
def test_what_no_crash_leaves_beyond_the_checkpoint_is_refused(site: Any, filled: EvidenceLog, tail: bytes) -> None:
    site.entries.write_bytes(filled.lines() + tail)
    with pytest.raises(IntegrityError):
        site.open()


def test_a_record_of_another_place_or_site_is_not_adopted(
    site: Any, filled: EvidenceLog, make_site: Callable[..., Any]
) -> None:
    whole = filled.lines()
    site.entries.write_bytes(whole + lines_of(site)[0])
    with pytest.raises(IntegrityError, match="says it is record 0"):
        site.open()
    other = make_site("other", site_id="0" * 32).create()
    for _ in range(6):
        other.note(Event.PROBE)
    site.entries.write_bytes(whole + other.lines(5))
    with pytest.raises(IntegrityError, match="of site 0000"):
        site.open()


# What somebody else did.


def edit(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"volumes":1', b'"volumes":2'), *lines[3:]]


TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": edit,
    "first dropped": lambda lines: lines[1:],
    "one dropped": lambda lines: [*lines[:2], *lines[3:]],
    "last dropped": lambda lines: lines[:-1],
    "all dropped": lambda _: [],
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
    "doubled": lambda lines: [lines[0], *lines],
    "last cut short": lambda lines: [*lines[:-1], lines[-1][:-2]],
    "last newline gone": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "empty line added": lambda lines: [lines[0], b"\n", *lines[1:]],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_log_is_not_opened(site: Any, filled: EvidenceLog, name: str) -> None:
    lines = TAMPERINGS[name](lines_of(site))
    assert lines != lines_of(site)
    site.entries.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError):
        site.open()
    assert filled.size == 5


def test_every_flipped_byte_of_the_records_is_found(site: Any, filled: EvidenceLog) -> None:
    content = filled.lines()
    for position in range(0, len(content), 7):
        site.entries.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(IntegrityError):
            site.open()


def test_a_truncated_log_with_its_old_checkpoint_opens_which_only_auditors_can_see(site: Any) -> None:
    log = site.create()
    log.note(Event.SITE_INIT)
    entries, checkpoint = site.entries.read_bytes(), site.checkpoint.read_bytes()
    log.note(Event.PROBE)
    site.entries.write_bytes(entries)
    site.checkpoint.write_bytes(checkpoint)
    assert site.open().size == 1


def test_a_missing_file_is_a_broken_log(site: Any, filled: EvidenceLog) -> None:
    content = filled.checkpoint
    site.checkpoint.unlink()
    with pytest.raises(IntegrityError, match="lost its file"):
        site.open()
    site.checkpoint.write_bytes(content)
    site.entries.unlink()
    with pytest.raises(IntegrityError, match="lost its file"):
        site.open()


def test_a_link_in_place_of_the_log_is_refused(site: Any, filled: EvidenceLog, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(filled.lines())
    site.entries.unlink()
    site.entries.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="not a regular file"):
        site.open()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"a\n1\nb\n\n"])
def test_a_damaged_checkpoint_is_a_broken_log(site: Any, filled: EvidenceLog, content: bytes) -> None:
    assert filled.size
    site.checkpoint.write_bytes(content)
    with pytest.raises(IntegrityError):
        site.open()


def test_a_checkpoint_by_another_key_is_refused(site: Any, filled: EvidenceLog) -> None:
    forged = sign_checkpoint(Checkpoint(filled.origin, 5, filled.root), PrivateKey.generate("ed25519"))
    site.checkpoint.write_bytes(forged)
    with pytest.raises(TrustError, match="not signed by the key"):
        site.open()


def test_a_checkpoint_whose_text_was_changed_is_refused(site: Any, filled: EvidenceLog) -> None:
    site.checkpoint.write_bytes(filled.checkpoint.replace(b"\n5\n", b"\n4\n"))
    with pytest.raises(TrustError, match="does not hold"):
        site.open()


def test_a_log_of_another_site_is_refused(filled: EvidenceLog, site: Any) -> None:
    assert filled.size
    site.site_id = "0" * 32
    with pytest.raises(TrustError, match="not signed by the key of airpack/0000"):
        site.open()


def test_a_key_that_is_not_ed25519_makes_no_log(make_site: Callable[..., Any]) -> None:
    with pytest.raises(TrustError, match="Ed25519"):
        make_site(key=PrivateKey.generate("ecdsa-p256")).create()


# When the log cannot append.


def test_without_an_append_there_is_no_corr_to_act_under(
    filled: EvidenceLog, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.entries.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot append: No space left on device", hint="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "append_durable", full)
        with pytest.raises(StorageError, match="cannot append, so nothing was done") as caught:
            filled.intent(Event.ACTIVATE)
    assert caught.value.hint == "free some space"
    assert site.entries.read_bytes() == before
    with pytest.raises(StorageError, match="open it again"):
        filled.note(Event.PROBE)
    assert site.open().size == 5


def test_a_checkpoint_that_cannot_be_written_refuses_and_is_made_good_on_opening(
    filled: EvidenceLog, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot write checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "write_durable", full)
        with pytest.raises(StorageError, match="nothing was done"):
            filled.intent(Event.ACTIVATE, corr="never-begun")
    log = site.open()
    assert log.recovery == Recovery(adopted=1, dropped=0)
    assert [intent.corr for intent in log.open_intents()] == ["never-begun"]


def test_an_interrupted_append_stops_the_log_until_it_is_opened_again(
    filled: EvidenceLog, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "write_durable", interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled.intent(Event.ACTIVATE)
    with pytest.raises(StorageError, match="open it again"):
        filled.note(Event.PROBE)
    assert site.open().recovery.adopted == 1


def test_a_file_that_may_not_grow_refuses_and_leaves_a_torn_line_at_most(filled: EvidenceLog, site: Any) -> None:
    limit = len(site.entries.read_bytes()) + 100
    old, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        with pytest.raises(StorageError, match="cannot append, so nothing was done"):
            filled.intent(Event.IMPORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, action)
    assert site.entries.stat().st_size == limit
    log = site.open()
    assert log.recovery == Recovery(adopted=0, dropped=100)
    assert log.open_intents() == ()


def test_a_stale_log_never_writes_over_what_another_process_appended(filled: EvidenceLog, site: Any) -> None:
    other = site.open()
    other.note(Event.GC)
    content = site.entries.read_bytes()
    with pytest.raises(IntegrityError, match="changed under this process"):
        filled.note(Event.PROBE)
    assert site.entries.read_bytes() == content
    assert site.open().size == 6


def test_a_disk_that_fails_is_no_broken_evidence(filled: EvidenceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def readline(self, _: int) -> bytes:
            raise OSError(5, "Input/output error")

    def fdopen(descriptor: int, _: str) -> Failing:
        os.close(descriptor)
        return Failing()

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(StorageError, match="Input/output error"):
        filled.lines()


def test_records_that_change_while_the_log_is_open_are_not_handed_out(filled: EvidenceLog, site: Any) -> None:
    lines = lines_of(site)
    for content in (b"".join(edit(lines)), b"".join(lines[:-1]), b"".join(lines)[:-1]):
        site.entries.write_bytes(content)
        with pytest.raises(IntegrityError, match="changed after it was verified"):
            filled.lines()


@pytest.mark.parametrize("stop", range(8))
def test_a_crash_at_any_step_of_an_append_loses_nothing_acknowledged(
    site: Any, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the Nth system call that changes the disk, as a killed process would, and open again."""
    log = site.create()
    log.note(Event.SITE_INIT)
    acknowledged = log.lines()
    calls = 0

    class Killed(BaseException):
        pass

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal calls
            if calls == stop:
                raise Killed
            calls += 1
            return function(*args, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("ftruncate", "pwrite", "write", "fsync", "rename", "fchmod"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with pytest.raises(Killed):
            log.intent(Event.IMPORT)
    again = site.open()
    assert again.lines().startswith(acknowledged)
    records: list[Record] = list(again.records(1))
    assert [record.event for record in records] in ([], [Event.IMPORT], [Event.IMPORT, Event.RECOVER])
    assert len(again.open_intents()) == (Event.IMPORT in [record.event for record in records])


def test_every_record_says_the_facts_of_its_time(tmp_path: Path) -> None:
    key, told = PrivateKey.generate("ed25519"), iter(range(1, 9))

    def clock() -> datetime:
        return datetime(2031, 1, 1, tzinfo=UTC)

    def facts(phase: Phase) -> dict[str, Any]:
        return {"count": next(told), "phase": phase.value}

    log = EvidenceLog.create(tmp_path / "log", site_id="0" * 32, key=key, clock=clock, facts=facts)
    corr = log.intent(Event.IMPORT, data={"bytes": 7})
    log.result(corr, Outcome.DONE)
    assert [dict(record.data) for record in log.records()] == [
        {"bytes": 7, "count": 1, "phase": "intent"},
        {"count": 2, "phase": "result"},
    ]
    again = EvidenceLog.open(tmp_path / "log", site_id="0" * 32, key=key, clock=clock)
    assert [data["count"] for _, _, data in again.facts()] == [1, 2]


def test_facts_that_cannot_be_told_leave_the_log_as_it_was(tmp_path: Path) -> None:
    def facts(_phase: Phase) -> dict[str, Any]:
        raise StorageError("no facts")

    log = EvidenceLog.create(
        tmp_path / "log",
        site_id="0" * 32,
        key=PrivateKey.generate("ed25519"),
        clock=lambda: datetime(2031, 1, 1, tzinfo=UTC),
        facts=facts,
    )
    before = (tmp_path / "log/entries.jsonl").read_bytes()
    with pytest.raises(StorageError, match="no facts"):
        log.note(Event.GC)
    assert (tmp_path / "log/entries.jsonl").read_bytes() == before


def test_the_highest_value_of_a_fact_is_that_of_the_first_record_that_has_it(site: Any) -> None:
    log = site.create()
    assert log.highest("catalog") == Highest(0, -1)
    assert log.newest() is None
    for value in (3, 9, 9, 4, True, "12"):
        log.note(Event.GC, data={"catalog": value})
    for opened in (log, site.open()):
        assert opened.highest("catalog") == Highest(9, 1)
        assert opened.highest("other") == Highest(0, -1)
        newest = opened.newest()
        assert newest is not None
        assert newest.seq == 5
