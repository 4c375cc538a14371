import base64
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airpack.crypto import signing
from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import AirpackError, IntegrityError, NotFoundError, RollbackError, TrustError
from airpack.evidence import audit as audit_module
from airpack.evidence.archive import read_archive, write_archive
from airpack.evidence.audit import AuditorState, AuditResult, audit, load_state, store_state
from airpack.evidence.checkpoint import sign_checkpoint
from airpack.evidence.export import PAYLOAD_TYPE, BundleFile, Manifest, build, emit_consistency, emit_frontier
from airpack.evidence.log import EvidenceLog
from airpack.evidence.merkle import Frontier, leaf_hash
from airpack.evidence.records import Event, Outcome
from airpack.formats import bundle as sigstore_bundle
from airpack.formats import dsse
from airpack.formats.canonical import emit
from airpack.formats.dsse import Envelope
from airpack.formats.note import Checkpoint
from airpack.formats.statement import PREDICATE_VSA, Statement
from airpack.types import Digest, Limits

NAMES = [
    "archive",
    "signature",
    "digests",
    "checkpoint",
    "records",
    "root",
    "receipts",
    "history",
    "intents",
    "clock",
]
ENTRIES = "log/entries.jsonl"
Files = dict[str, bytes]
Change = Callable[[Files], None]


@pytest.fixture
def log(site: Any) -> EvidenceLog:
    made: EvidenceLog = site.create()
    made.note(Event.SITE_INIT, Outcome.DONE)
    site.do(made, Event.IMPORT)
    site.do(made, Event.ACTIVATE)
    site.do(made, Event.IMPORT, Outcome.REFUSED)
    return made


def failed(result: AuditResult) -> str:
    """The check that failed; those before it held, those after it were not made."""
    assert [each.name for each in result.findings] == NAMES
    assert not result.ok
    assert (result.state, result.summary, result.checkpoint) == (None, None, "")
    place = [each.ok for each in result.findings].index(False)
    assert all(each.detail.startswith("not checked") for each in result.findings[place + 1 :])
    assert not any(each.ok for each in result.findings[place:])
    assert result.error
    assert result.findings[place].detail == result.error.message
    return result.findings[place].name


def finding(result: AuditResult, name: str) -> str:
    return next(each.detail for each in result.findings if each.name == name)


def seal(files: Files, key: PrivateKey, **changes: Any) -> bytes:
    """What somebody who holds `key` can make of `files`: the manifest lists what is there, and is signed."""
    manifest = Manifest.parse(files["manifest.json"])
    listed = {name: data for name, data in files.items() if not name.startswith("manifest")}
    manifest = replace(
        manifest,
        files=tuple(BundleFile(name, len(data), Digest.of(data)) for name, data in sorted(listed.items())),
        **changes,
    )
    payload = manifest.emit()
    envelope = dsse.emit(signing.sign(key, PAYLOAD_TYPE, payload))
    return write_archive(listed | {"manifest.json": payload, "manifest.dsse.json": envelope})


def relog(files: Files, lines: list[bytes], key: PrivateKey, **changes: Any) -> bytes:
    """What a dishonest site can make: other records under a new checkpoint of its own key."""
    manifest = Manifest.parse(files["manifest.json"])
    frontier = Frontier().extend(leaf_hash(line[:-1]) for line in lines)
    files = files | {
        ENTRIES: b"".join(lines),
        "log/checkpoint": sign_checkpoint(Checkpoint(manifest.origin, len(lines), frontier.root()), key),
        "log/consistency.json": emit_consistency(0, len(lines), ()),
    }
    return seal(files, key, size=len(lines), **changes)


def test_a_good_export_passes_every_check(site: Any, log: EvidenceLog) -> None:
    result = audit(site.export(log), key=site.key.public)
    assert result.ok
    assert result.exit_code == 0
    assert [(each.name, each.ok) for each in result.findings] == [(name, True) for name in NAMES]
    assert result.checkpoint == log.checkpoint_at(8).decode()
    summary = result.summary
    assert summary is not None
    assert (summary.records, summary.first, summary.size, summary.export) == (8, 0, 8, 1)
    assert (summary.imports, summary.activations, summary.rollbacks, summary.refusals) == (1, 1, 0, 1)
    assert summary.outcomes == {"done": 3, "refused": 1, "failed": 0, "interrupted": 0}
    assert result.state == AuditorState(log.origin, site.key.public.fingerprint, 8, log.tree().root(8), export=1)


def test_without_a_state_the_history_is_said_not_to_be_checked(site: Any, log: EvidenceLog) -> None:
    result = audit(site.export(log), key=site.key.public)
    assert finding(result, "history").startswith("not checked")
    assert result.ok


def test_a_file_is_audited_as_its_bytes_are(site: Any, log: EvidenceLog, tmp_path: Path) -> None:
    data, path = site.export(log), tmp_path / "evidence.zip"
    path.write_bytes(data)
    assert audit(path, key=site.key.public) == audit(data, key=site.key.public)


def test_no_file_is_not_found_rather_than_bad_evidence(site: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        audit(tmp_path / "nothing.zip", key=site.key.public)


def test_a_link_in_place_of_the_file_is_refused(site: Any, log: EvidenceLog, tmp_path: Path) -> None:
    real, link = tmp_path / "real.zip", tmp_path / "link.zip"
    real.write_bytes(site.export(log))
    link.symlink_to(real)
    assert failed(audit(link, key=site.key.public)) == "archive"


# Keys.


def test_an_export_by_another_key_is_refused_even_when_it_is_perfect(
    site: Any, make_site: Callable[..., Any], log: EvidenceLog
) -> None:
    forger = make_site("forger")
    forged = forger.create()
    forged.note(Event.SITE_INIT, Outcome.DONE)
    data = forger.export(forged)
    assert audit(data, key=forger.key.public).ok
    result = audit(data, key=site.key.public)
    assert failed(result) == "signature"
    assert (result.exit_code, type(result.error)) == (11, TrustError)
    assert log.size


def test_a_key_in_the_export_is_no_key(site: Any, log: EvidenceLog) -> None:
    forger = PrivateKey.generate("ed25519")
    files = read_archive(site.export(log))
    data = seal(files | {"site.pub": forger.public.pem}, forger)
    assert failed(audit(data, key=site.key.public)) == "signature"


def test_a_pinned_key_of_another_kind_is_refused(site: Any, log: EvidenceLog) -> None:
    result = audit(site.export(log), key=PrivateKey.generate("ecdsa-p256").public)
    assert failed(result) == "signature"
    assert result.exit_code == 11


def test_a_checkpoint_by_another_key_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    forger = PrivateKey.generate("ed25519")
    files["log/checkpoint"] = sign_checkpoint(Checkpoint(log.origin, 8, log.tree().root(8)), forger)
    result = audit(seal(files, site.key), key=site.key.public)
    assert failed(result) == "checkpoint"
    assert result.exit_code == 11


def test_a_checkpoint_of_another_log_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    other = f"airpack/{'0' * 32}"
    files["log/checkpoint"] = sign_checkpoint(Checkpoint(other, 8, log.tree().root(8)), site.key)
    result = audit(seal(files, site.key), key=site.key.public)
    assert failed(result) == "checkpoint"
    assert result.exit_code == 11


def test_a_checkpoint_signed_under_another_origin_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    note = files["log/checkpoint"]
    text = f"airpack/{'0' * 32}\n8\n".encode() + note.split(b"\n")[2] + b"\n"
    name_and_id = note.split(b"\n")[4].rsplit(b" ", 1)
    identity = base64.b64decode(name_and_id[1])[:4]
    line = name_and_id[0] + b" " + base64.b64encode(identity + site.key.sign(text))
    files["log/checkpoint"] = text + b"\n" + line + b"\n"
    result = audit(seal(files, site.key), key=site.key.public)
    assert failed(result) == "checkpoint"
    assert result.exit_code == 11
    assert "expected 'airpack/5f3c" in finding(result, "checkpoint")


def test_the_manifest_beside_the_signed_one_must_be_the_same(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    files["manifest.json"] = files["manifest.json"].replace(b'"export":1', b'"export":2')
    result = audit(write_archive(files), key=site.key.public)
    assert failed(result) == "signature"
    assert result.exit_code == 10


def test_a_manifest_signed_as_another_kind_of_document_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    files["manifest.dsse.json"] = dsse.emit(signing.sign(site.key, "application/json", files["manifest.json"]))
    assert failed(audit(write_archive(files), key=site.key.public)) == "signature"


def test_what_the_envelope_says_beside_the_signature_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    envelope = dsse.parse(files["manifest.dsse.json"])
    spaced = json.dumps(json.loads(files["manifest.dsse.json"])).encode()
    twice = dsse.emit(Envelope(envelope.payload, envelope.payload_type, (*envelope.signatures, b"more")))
    for other in (spaced, twice):
        result = audit(write_archive(files | {"manifest.dsse.json": other}), key=site.key.public)
        assert failed(result) == "signature"
        assert result.exit_code == 10


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"payload":1}'])
def test_an_envelope_that_is_none_is_refused(site: Any, log: EvidenceLog, content: bytes) -> None:
    files = read_archive(site.export(log)) | {"manifest.dsse.json": content}
    assert failed(audit(write_archive(files), key=site.key.public)) == "signature"


# Files, by somebody without the key: whatever is changed, the digests or the signature do not hold.


WITHOUT_KEY: dict[str, Change] = {
    "record edited": lambda files: files.update({ENTRIES: files[ENTRIES].replace(b"refused", b"done")}),
    "record dropped": lambda files: files.update({ENTRIES: b"".join(files[ENTRIES].splitlines(True)[:-1])}),
    "records emptied": lambda files: files.update({ENTRIES: b""}),
    "records gone": lambda files: files.__delitem__(ENTRIES),
    "checkpoint gone": lambda files: files.__delitem__("log/checkpoint"),
    "proof changed": lambda files: files.update({"log/consistency.json": emit_consistency(0, 8, (bytes(32),))}),
    "file added": lambda files: files.update({"readme.txt": b"please run me"}),
    "receipt added": lambda files: files.update({"attestations/receipts/1.json": b"{}"}),
}


@pytest.mark.parametrize("name", WITHOUT_KEY)
def test_without_the_key_no_file_can_be_changed(site: Any, log: EvidenceLog, name: str) -> None:
    files = read_archive(site.export(log))
    WITHOUT_KEY[name](files)
    result = audit(write_archive(files), key=site.key.public)
    assert failed(result) == "digests"
    assert (result.exit_code, type(result.error)) == (10, IntegrityError)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.dsse.json"])
def test_an_export_without_its_manifest_is_none(site: Any, log: EvidenceLog, name: str) -> None:
    files = read_archive(site.export(log))
    del files[name]
    assert failed(audit(write_archive(files), key=site.key.public)) == "archive"


# Records, by a dishonest site that holds the key and signs whatever it makes.


def edited(lines: list[bytes]) -> list[bytes]:
    return [
        *lines[:6],
        lines[6].replace(b'"outcome":"refused","phase":"result","reason":"integrity"', DONE),
        *lines[7:],
    ]


DONE = b'"outcome":"done","phase":"result","reason":""'
REWRITES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "one dropped": lambda lines: [*lines[:3], *lines[4:]],
    "first dropped": lambda lines: lines[1:],
    "two swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "one twice": lambda lines: [lines[0], *lines],
    "cut in a line": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "no record at all": lambda lines: [b"\n", *lines],
    "other field": lambda lines: [lines[0].replace(b'"corr":""', b'"corr":"","extra":1'), *lines[1:]],
    "other site": lambda lines: [lines[0].replace(b"5f3c0e7a", b"5f3c0e7b"), *lines[1:]],
    "result before its intent": lambda lines: [
        lines[0],
        lines[2].replace(b'"seq":2', b'"seq":1'),
        lines[1].replace(b'"seq":1', b'"seq":2'),
        *lines[3:],
    ],
    "result of another event": lambda lines: [
        *lines[:2],
        lines[2].replace(b'"event":"import"', b'"event":"rollback"'),
        *lines[3:],
    ],
}


@pytest.mark.parametrize("name", REWRITES)
def test_a_signed_log_with_a_gap_or_against_the_rules_is_refused(site: Any, log: EvidenceLog, name: str) -> None:
    files = read_archive(site.export(log))
    lines = files[ENTRIES].splitlines(keepends=True)
    rewritten = REWRITES[name](lines)
    assert rewritten != lines
    result = audit(relog(files, rewritten, site.key), key=site.key.public)
    assert failed(result) == "records"
    assert result.exit_code == 10


def test_two_open_intents_may_not_share_a_corr(site: Any) -> None:
    log = site.create()
    log.intent(Event.IMPORT, corr="a")
    log.intent(Event.IMPORT, corr="b")
    files = read_archive(site.export(log))
    lines = files[ENTRIES].replace(b'"corr":"b"', b'"corr":"a"').splitlines(keepends=True)
    result = audit(relog(files, lines, site.key), key=site.key.public)
    assert failed(result) == "records"
    assert "still open" in finding(result, "records")


@pytest.mark.parametrize("rewrite", [edited, lambda lines: [*lines[:-1], lines[-1].replace(b":00:08Z", b":00:09Z")]])
def test_records_that_are_not_those_of_the_checkpoint_are_refused(
    site: Any, log: EvidenceLog, rewrite: Callable[[list[bytes]], list[bytes]]
) -> None:
    files = read_archive(site.export(log))
    lines = rewrite(files[ENTRIES].splitlines(keepends=True))
    assert b"".join(lines) != files[ENTRIES]
    files[ENTRIES] = b"".join(lines)
    exported = Manifest.parse(files["manifest.json"]).exported
    exported += timedelta(seconds=b":00:09Z" in lines[-1])
    result = audit(seal(files, site.key, exported=exported), key=site.key.public)
    assert failed(result) == "root"
    assert result.exit_code == 10


def test_fewer_or_more_records_than_the_checkpoint_says_are_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    files[ENTRIES] = b"".join(files[ENTRIES].splitlines(keepends=True)[:-1])
    assert failed(audit(seal(files, site.key), key=site.key.public)) == "records"
    result = audit(seal(files, site.key, size=7), key=site.key.public)
    assert failed(result) == "checkpoint"
    assert "is of 8 records; the manifest says 7" in finding(result, "checkpoint")


@pytest.mark.parametrize("changes", [{"export": 2}, {"exported": timedelta(seconds=1)}, {"previous": 1}])
def test_number_time_and_range_are_those_on_record(site: Any, log: EvidenceLog, changes: dict[str, Any]) -> None:
    files = read_archive(site.export(log))
    if "exported" in changes:
        changes = {"exported": Manifest.parse(files["manifest.json"]).exported + changes["exported"]}
    result = audit(seal(files, site.key, **changes), key=site.key.public)
    assert failed(result) == "records"


def test_an_export_that_no_record_announces_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    result = audit(relog(files, files[ENTRIES].splitlines(keepends=True)[:-1], site.key), key=site.key.public)
    assert failed(result) == "records"
    assert "no record announces" in finding(result, "records")


def test_a_false_consistency_proof_is_refused(site: Any, log: EvidenceLog) -> None:
    site.export(log)
    files = read_archive(site.export(log))
    assert json.loads(files["log/consistency.json"])["old"] == 8
    for other in (
        emit_consistency(8, 10, ()),
        emit_consistency(7, 10, log.tree().consistency(7, 10)),
        emit_consistency(8, 9, log.tree().consistency(8, 9)),
    ):
        result = audit(seal(files | {"log/consistency.json": other}, site.key), key=site.key.public)
        assert failed(result) == "root"
        assert result.exit_code == 10


@pytest.mark.parametrize("name", [ENTRIES, "log/checkpoint", "log/frontier.prev", "log/consistency.json"])
def test_each_part_of_the_log_is_needed(site: Any, log: EvidenceLog, name: str) -> None:
    files = read_archive(site.export(log))
    del files[name]
    result = audit(seal(files, site.key), key=site.key.public)
    assert failed(result) == "digests"
    assert name in finding(result, "digests")


@pytest.mark.parametrize("name", ["log/checkpoint.prev", "notes.txt", "attestations/x.json", "log/entries2.jsonl"])
def test_signed_files_of_no_known_kind_are_refused(site: Any, log: EvidenceLog, name: str) -> None:
    files = read_archive(site.export(log)) | {name: b"covert"}
    result = audit(seal(files, site.key), key=site.key.public)
    assert failed(result) == "digests"
    assert name in finding(result, "digests")


# Receipts.


def receipt(key: PrivateKey) -> bytes:
    return signing.sign_statement(key, Statement("digits@1.0.0", Digest.of(b"digits"), PREDICATE_VSA, {}))


def test_receipts_signed_by_the_site_pass(site: Any, log: EvidenceLog) -> None:
    result = audit(site.export(log, receipts={"1": receipt(site.key)}), key=site.key.public)
    assert result.ok
    assert finding(result, "receipts").startswith("1 receipts")


def test_receipts_by_another_key_are_refused(site: Any, log: EvidenceLog) -> None:
    forged = receipt(PrivateKey.generate("ed25519"))
    result = audit(site.export(log, receipts={"1": receipt(site.key), "2": forged}), key=site.key.public)
    assert failed(result) == "receipts"
    assert result.exit_code == 11
    assert "attestations/receipts/2.json" in finding(result, "receipts")


def test_a_receipt_is_signed_as_a_statement(site: Any, log: EvidenceLog) -> None:
    envelope = signing.sign(site.key, PAYLOAD_TYPE, b"{}")
    data = sigstore_bundle.emit(envelope, site.key.public.hint)
    assert failed(audit(site.export(log, receipts={"1": data}), key=site.key.public)) == "receipts"
    assert failed(audit(site.export(log, receipts={"1": b"{}"}), key=site.key.public)) == "receipts"


# History.


@pytest.fixture
def held(site: Any, log: EvidenceLog) -> AuditorState:
    state = audit(site.export(log), key=site.key.public).state
    assert state is not None
    return state


def test_the_next_export_continues_what_is_held(site: Any, log: EvidenceLog, held: AuditorState) -> None:
    site.do(log, Event.ROLLBACK)
    result = audit(site.export(log), key=site.key.public, state=held)
    assert result.ok
    assert finding(result, "history") == "continues export 1: 8 records as held, 4 new"


def test_the_same_export_again_is_still_good(site: Any, log: EvidenceLog) -> None:
    data = site.export(log)
    state = audit(data, key=site.key.public).state
    assert audit(data, key=site.key.public, state=state).state == state


def test_incremental_exports_chain(site: Any, log: EvidenceLog, held: AuditorState) -> None:
    state, total = held, 0
    for _ in range(4):
        site.do(log, Event.IMPORT)
        result = audit(site.export(log, since=state.size), key=site.key.public, state=state)
        assert result.ok
        assert result.summary is not None
        assert (result.summary.first, result.summary.imports) == (state.size, 1)
        assert result.state is not None
        assert result.state.root == log.tree().root(result.state.size)
        total += result.summary.records
        state = result.state
    assert (state.export, state.size) == (5, held.size + total)


def test_a_lost_export_is_no_gap_when_the_next_begins_early_enough(
    site: Any, log: EvidenceLog, held: AuditorState
) -> None:
    site.export(log, since=held.size)
    result = audit(site.export(log, since=held.size), key=site.key.public, state=held)
    assert result.ok
    assert result.state is not None
    assert result.state.export == 3


def test_an_incremental_export_needs_no_state_but_says_so(site: Any, log: EvidenceLog, held: AuditorState) -> None:
    result = audit(site.export(log, since=held.size), key=site.key.public)
    assert result.ok
    assert finding(result, "history").startswith("not checked")


def contradicted(result: AuditResult) -> str:
    assert failed(result) == "history"
    assert (result.exit_code, type(result.error)) == (13, RollbackError)
    return finding(result, "history")


def test_an_older_export_again_contradicts(site: Any, log: EvidenceLog) -> None:
    old = site.export(log)
    state = audit(site.export(log), key=site.key.public).state
    assert "an older export again" in contradicted(audit(old, key=site.key.public, state=state))


def test_records_missing_between_what_is_held_and_the_export_contradict(
    site: Any, log: EvidenceLog, held: AuditorState
) -> None:
    site.export(log)
    size = log.size - 1
    result = audit(site.export(log, since=size), key=site.key.public, state=held)
    assert "records between are missing" in contradicted(result)
    assert result.error is not None
    assert f"one since {held.size} records" in result.error.hint


def test_a_forked_log_contradicts(
    site: Any, log: EvidenceLog, held: AuditorState, make_site: Callable[..., Any]
) -> None:
    """The site keeps its key and its id and writes another history, of the same length or longer."""
    fork_site = make_site("fork", key=site.key)
    fork = fork_site.create()
    for _ in range(log.size + 3):
        fork.note(Event.PROBE)
    data = fork_site.export(fork)
    assert audit(data, key=site.key.public).ok, "without a state nobody can tell"
    assert "rewritten" in contradicted(audit(data, key=site.key.public, state=held))


def test_a_log_cut_short_and_grown_again_contradicts(site: Any, log: EvidenceLog) -> None:
    backup_entries, backup_checkpoint = site.entries.read_bytes(), site.checkpoint.read_bytes()
    state = audit(site.export(log), key=site.key.public).state
    site.entries.write_bytes(backup_entries)
    site.checkpoint.write_bytes(backup_checkpoint)
    restored = site.open()
    for _ in range(9):
        restored.note(Event.PROBE)
    assert "rewritten" in contradicted(audit(site.export(restored), key=site.key.public, state=state))


def test_a_fork_inside_an_incremental_export_contradicts(
    site: Any, log: EvidenceLog, held: AuditorState, make_site: Callable[..., Any]
) -> None:
    fork_site = make_site("fork", key=site.key)
    fork = fork_site.create()
    for _ in range(4):
        fork.note(Event.PROBE)
    fork_site.export(fork)
    for _ in range(4):
        fork.note(Event.PROBE)
    data = fork_site.export(fork, since=3)
    assert "rewritten" in contradicted(audit(data, key=site.key.public, state=held))
    assert log.size


def test_the_frontier_cannot_be_another_tree(site: Any, log: EvidenceLog, held: AuditorState) -> None:
    files = read_archive(site.export(log, since=held.size))
    false = Frontier().extend(leaf_hash(b"%d" % number) for number in range(held.size))
    files["log/frontier.prev"] = emit_frontier(false)
    result = audit(seal(files, site.key), key=site.key.public, state=held)
    assert failed(result) == "checkpoint"
    files["log/checkpoint.prev"] = sign_checkpoint(Checkpoint(log.origin, held.size, false.root()), site.key)
    assert failed(audit(seal(files, site.key), key=site.key.public, state=held)) == "root"
    files["log/frontier.prev"] = emit_frontier(Frontier())
    assert failed(audit(seal(files, site.key), key=site.key.public, state=held)) == "checkpoint"


def test_another_site_or_key_than_held_contradicts(site: Any, log: EvidenceLog, held: AuditorState) -> None:
    data = site.export(log)
    for other in (
        replace(held, origin=f"airpack/{'0' * 32}"),
        replace(held, key=PrivateKey.generate("ed25519").public.fingerprint),
    ):
        assert "what is held is of" in contradicted(audit(data, key=site.key.public, state=other))


def test_an_export_number_that_the_records_do_not_make_contradicts(
    site: Any, log: EvidenceLog, held: AuditorState
) -> None:
    data = site.export(log, since=held.size)
    for number in (2, 9):
        result = audit(data, key=site.key.public, state=replace(held, export=number))
        assert "the records make it" in contradicted(result)
    files = read_archive(data)
    skipped = seal(files, site.key, export=7)
    assert audit(skipped, key=site.key.public).ok, "without a state nobody can tell"
    assert "the records make it 2" in contradicted(audit(skipped, key=site.key.public, state=held))


# What is said and not refused.


def test_intents_without_a_result_are_said(site: Any, log: EvidenceLog) -> None:
    log.intent(Event.ACTIVATE)
    result = audit(site.export(log), key=site.key.public)
    assert result.ok
    assert finding(result, "intents") == "1 without a result: record 7 (activate)"


def test_results_of_intents_before_an_incremental_export_are_said(
    site: Any, log: EvidenceLog, held: AuditorState
) -> None:
    result = audit(site.export(log, since=held.size), key=site.key.public)
    assert "results of intents before record 8: 1" in finding(result, "intents")


def test_a_clock_that_steps_back_is_said(site: Any, log: EvidenceLog) -> None:
    site.now -= timedelta(days=3)
    log.note(Event.PROBE)
    result = audit(site.export(log), key=site.key.public)
    assert result.ok
    assert finding(result, "clock") == "stepped back 1 times: before record 7"


def test_a_boot_clock_that_steps_back_within_one_boot_is_said(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    lines = files[ENTRIES].splitlines(keepends=True)
    values = [json.loads(line) for line in lines]
    for value in values:
        value["time"] |= {"boot_id": "0f3b0f4e-90a1-4c5f-9d5c-3f2a1b0c9d8e", "boottime_ms": 1000 + value["seq"]}
    values[3]["time"]["boottime_ms"] = 5
    values[5]["time"] |= {"boot_id": "1f3b0f4e-90a1-4c5f-9d5c-3f2a1b0c9d8e", "boottime_ms": 1}
    rewritten = [emit(value) + b"\n" for value in values]
    result = audit(relog(files, rewritten, site.key), key=site.key.public)
    assert result.ok
    assert finding(result, "clock") == "stepped back 1 times: before record 3"


def test_a_long_list_is_cut_off_and_counted(site: Any) -> None:
    log = site.create()
    for _ in range(11):
        log.intent(Event.IMPORT)
    text = finding(audit(site.export(log), key=site.key.public), "intents")
    assert text.startswith("11 without a result: record 0 (import)")
    assert text.endswith("record 7 (import) and 3 more")


# The file itself.


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x00" * 1000])
def test_what_is_no_archive_is_refused(site: Any, data: bytes) -> None:
    result = audit(data, key=site.key.public)
    assert failed(result) == "archive"
    assert result.exit_code == 10


def test_a_repacked_archive_is_refused(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log))
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        assert failed(audit(out.getvalue(), key=site.key.public)) == "archive"


def test_a_bomb_is_refused_unopened(site: Any) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(64 << 20))
    assert failed(audit(out.getvalue(), key=site.key.public)) == "archive"


def test_a_file_beyond_the_bound_is_refused(
    site: Any, log: EvidenceLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = site.export(log), tmp_path / "evidence.zip"
    path.write_bytes(data)
    monkeypatch.setattr(audit_module, "MOST", len(data) - 1)
    for bundle in (data, path):
        assert failed(audit(bundle, key=site.key.public)) == "archive"


def test_the_bound_holds_the_largest_export_there_can_be() -> None:
    names_and_headers = 10_000 * (2 * 150 + 30 + 46) + 22
    assert Limits.EVIDENCE_BUNDLE + names_and_headers <= audit_module.MOST


@pytest.mark.parametrize("step", [1, 0x20, 0x80])
def test_every_changed_byte_of_an_export_is_found(site: Any, log: EvidenceLog, step: int) -> None:
    data = site.export(log, receipts={"1": receipt(site.key)})
    for position in range(0, len(data), 5):
        changed = data[:position] + bytes([data[position] ^ step]) + data[position + 1 :]
        assert not audit(changed, key=site.key.public).ok


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 1 << 20), change=st.integers(1, 255), cut=st.booleans())
def test_no_changed_export_ever_passes(good: tuple[bytes, PublicKey], position: int, change: int, cut: bool) -> None:
    data, key = bytearray(good[0]), good[1]
    place = position % len(data)
    if cut:
        del data[place]
    else:
        data[place] ^= change
    result = audit(bytes(data), key=key)
    assert not result.ok
    assert isinstance(result.error, AirpackError)
    assert result.exit_code in {10, 11}


@pytest.fixture
def good(site: Any, log: EvidenceLog) -> tuple[bytes, PublicKey]:
    return site.export(log, receipts={"1": receipt(site.key)}), site.key.public


# The auditor's own file.


def test_the_state_round_trips_through_its_file(tmp_path: Path, held: AuditorState) -> None:
    path = tmp_path / "auditor.json"
    assert load_state(path) is None
    store_state(path, held)
    assert load_state(path) == held
    assert AuditorState.parse(held.emit()) == held


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "airpack.auditor/2"},
        {"size": 0},
        {"export": 0},
        {"root": "AAAA"},
        {"root": "?"},
        {"key": "x"},
        {"x": 1},
    ],
)
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, held: AuditorState, changes: dict[str, Any]) -> None:
    path = tmp_path / "auditor.json"
    path.write_bytes(emit(json.loads(held.emit()) | changes))
    with pytest.raises(IntegrityError, match="auditor state"):
        load_state(path)


def test_a_damaged_state_is_never_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "auditor.json"
    path.write_bytes(b"")
    with pytest.raises(IntegrityError):
        load_state(path)


def test_build_is_what_audit_reads(site: Any, log: EvidenceLog) -> None:
    log.intent(Event.EXPORT)
    manifest, data = build(log)
    result = audit(data, key=site.key.public)
    assert result.summary is not None
    assert (result.summary.export, result.summary.size) == (manifest.export, manifest.size)
