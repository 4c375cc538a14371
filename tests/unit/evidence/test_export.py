import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.crypto import signing
from airpack.errors import InputError, IntegrityError, StorageError
from airpack.evidence import export as export_module
from airpack.evidence.archive import read_archive
from airpack.evidence.checkpoint import open_checkpoint
from airpack.evidence.export import (
    PAYLOAD_TYPE,
    BundleFile,
    Manifest,
    build,
    emit_consistency,
    emit_frontier,
    export,
    is_receipt,
    parse_consistency,
    parse_frontier,
)
from airpack.evidence.log import EvidenceLog
from airpack.evidence.merkle import Frontier, verify_consistency
from airpack.evidence.records import Event, Outcome
from airpack.formats import dsse
from airpack.formats.canonical import emit
from airpack.types import Digest, Limits

SCHEMA = Path(__file__).parents[3] / "manifests" / "schemas" / "evidence-manifest.schema.json"
EXAMPLE: dict[str, Any] = {
    "schema": "airpack.evidence/1",
    "site": "5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40",
    "origin": "airpack/5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40",
    "export": 2,
    "previous": 4,
    "first": 4,
    "size": 9,
    "exported": "2026-11-23T09:14:07Z",
    "files": [{"name": "log/checkpoint", "size": 3, "digest": str(Digest.of(b"abc"))}],
}


def valid_for_schema(value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes())).is_valid(value))


@pytest.fixture
def log(site: Any) -> EvidenceLog:
    made: EvidenceLog = site.create()
    made.note(Event.SITE_INIT, Outcome.DONE)
    site.do(made, Event.IMPORT)
    return made


def test_an_export_is_a_zip_that_anything_opens(site: Any, log: EvidenceLog, tmp_path: Path) -> None:
    log.intent(Event.EXPORT)
    out = tmp_path / "evidence.zip"
    made = export(log, out)
    assert (made.path, made.number, made.records, made.first, made.size) == (out, 1, 4, 0, 4)
    assert made.checkpoint == log.checkpoint.decode()
    assert made.digest == Digest.of(out.read_bytes())
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "log/checkpoint",
            "log/consistency.json",
            "log/entries.jsonl",
            "log/frontier.prev",
            "manifest.dsse.json",
            "manifest.json",
        ]
        assert archive.read("log/entries.jsonl") == site.entries.read_bytes()
        assert archive.read("log/checkpoint") == log.checkpoint


def test_the_manifest_names_every_file_and_is_signed(site: Any, log: EvidenceLog) -> None:
    data = site.export(log)
    files = read_archive(data)
    manifest = Manifest.parse(files["manifest.json"])
    assert {each.name: each.digest for each in manifest.files} == {
        name: Digest.of(content) for name, content in files.items() if not name.startswith("manifest")
    }
    envelope = dsse.parse(files["manifest.dsse.json"])
    signed = signing.verify([envelope], keys=[site.key.public], threshold=1, payload_type=PAYLOAD_TYPE)
    assert signed == files["manifest.json"]
    assert valid_for_schema(json.loads(signed))


def test_the_same_log_gives_the_same_bytes(site: Any, log: EvidenceLog) -> None:
    log.intent(Event.EXPORT)
    _, first = build(log)
    _, second = build(site.open())
    assert first == second


def test_exports_are_numbered_by_their_intents(site: Any, log: EvidenceLog) -> None:
    def number() -> int:
        return Manifest.parse(read_archive(site.export(log))["manifest.json"]).export

    assert [number(), number()] == [1, 2]
    log.result(log.intent(Event.EXPORT), Outcome.FAILED, reason="storage")
    assert number() == 4


def test_the_manifest_carries_the_time_of_the_intent(site: Any, log: EvidenceLog) -> None:
    log.intent(Event.EXPORT)
    when = site.now
    site.now = datetime(2030, 1, 1, tzinfo=UTC)
    manifest, _ = build(log)
    assert manifest.exported == when


def test_an_incremental_export_begins_where_the_last_one_ended(site: Any, log: EvidenceLog) -> None:
    site.export(log)
    site.do(log, Event.ACTIVATE)
    data = site.export(log, since=4)
    files = read_archive(data)
    manifest = Manifest.parse(files["manifest.json"])
    assert (manifest.export, manifest.previous, manifest.first, manifest.size) == (2, 4, 4, 8)
    assert files["log/entries.jsonl"] == b"".join(log.lines().splitlines(keepends=True)[4:8])
    old = open_checkpoint(files["log/checkpoint.prev"], origin=log.origin, key=site.key.public, what="checkpoint")
    new = open_checkpoint(files["log/checkpoint"], origin=log.origin, key=site.key.public, what="checkpoint")
    frontier = parse_frontier(files["log/frontier.prev"])
    assert (old.size, old.root) == (frontier.size, frontier.root()) == (4, log.tree().root(4))
    start, size, proof = parse_consistency(files["log/consistency.json"])
    assert (start, size) == (4, 8)
    assert verify_consistency(4, 8, old.root, new.root, proof)


def test_a_full_export_proves_that_it_continues_the_one_before(site: Any, log: EvidenceLog) -> None:
    site.export(log)
    files = read_archive(site.export(log))
    old, size, proof = parse_consistency(files["log/consistency.json"])
    assert (old, size) == (4, 6)
    tree = log.tree()
    assert proof == tree.consistency(4, 6)
    assert "log/checkpoint.prev" not in files


@pytest.mark.parametrize("since", [-1, 5, 6, 100])
def test_an_export_cannot_begin_beyond_the_one_before(site: Any, log: EvidenceLog, since: int) -> None:
    site.export(log)
    log.intent(Event.EXPORT)
    with pytest.raises(InputError, match="ended with 4 records"):
        build(log, since=since)


def test_an_export_that_is_not_on_record_is_not_made(site: Any, log: EvidenceLog) -> None:
    with pytest.raises(ValueError, match="on record"):
        build(log)
    site.export(log)
    with pytest.raises(ValueError, match="on record"):
        build(log)


def test_receipts_travel_under_their_names(site: Any, log: EvidenceLog) -> None:
    files = read_archive(site.export(log, receipts={"0001": b"one", "0002": b"two"}))
    assert files["attestations/receipts/0001.json"] == b"one"
    assert files["attestations/receipts/0002.json"] == b"two"


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "a b", "x" * 124])
def test_a_name_that_no_receipt_can_have_is_refused(log: EvidenceLog, name: str) -> None:
    log.intent(Event.EXPORT)
    with pytest.raises(InputError, match="receipt"):
        build(log, receipts={name: b""})


def test_receipts_lie_in_one_folder() -> None:
    assert is_receipt("attestations/receipts/" + "x" * 123 + ".json")
    for name in ("attestations/receipts/x", "attestations/x.json", "receipts/x.json", "attestations/receipts/x/y.json"):
        assert not is_receipt(name)


def test_an_export_beyond_the_bound_says_how_to_make_a_smaller_one(
    site: Any, log: EvidenceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.export(log)
    log.intent(Event.EXPORT)
    monkeypatch.setattr(Limits, "EVIDENCE_BUNDLE", Limits.DOCUMENT * 2 + 100)
    with pytest.raises(InputError, match="at most 9998 files of 100 bytes") as caught:
        build(log)
    assert "since 4 records" in caught.value.hint


def test_an_existing_file_is_replaced_only_when_asked(site: Any, log: EvidenceLog, tmp_path: Path) -> None:
    log.intent(Event.EXPORT)
    out = tmp_path / "evidence.zip"
    out.write_bytes(b"something of value")
    with pytest.raises(StorageError):
        export(log, out)
    assert out.read_bytes() == b"something of value"
    assert export(log, out, replace=True).digest == Digest.of(out.read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence.zip", "site"]
    assert site.folder.is_dir()


def test_a_failed_write_leaves_no_file(log: EvidenceLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("disk full")

    log.intent(Event.EXPORT)
    monkeypatch.setattr(export_module, "write_durable", full)
    with pytest.raises(StorageError):
        export(log, tmp_path / "evidence.zip")
    assert not (tmp_path / "evidence.zip").exists()


def test_the_example_manifest_is_read() -> None:
    manifest = Manifest.parse(emit(EXAMPLE))
    assert manifest == Manifest(
        site=EXAMPLE["site"],
        export=2,
        previous=4,
        first=4,
        size=9,
        exported=datetime(2026, 11, 23, 9, 14, 7, tzinfo=UTC),
        files=(BundleFile("log/checkpoint", 3, Digest.of(b"abc")),),
    )
    assert manifest.emit() == emit(EXAMPLE)
    assert valid_for_schema(EXAMPLE)


@pytest.mark.parametrize(
    ("changes", "schema_sees_it"),
    [
        ({"schema": "airpack.evidence/2"}, True),
        ({"site": "here"}, True),
        ({"origin": "airpack/00000000000000000000000000000000"}, False),
        ({"export": 0}, True),
        ({"export": "2"}, True),
        ({"previous": 3}, False),
        ({"previous": 9}, False),
        ({"first": 5}, False),
        ({"first": -1}, True),
        ({"size": 4}, False),
        ({"exported": "2026-11-23T09:14:07"}, True),
        ({"files": {}}, True),
        ({"files": EXAMPLE["files"] * 2}, False),
        ({"files": [EXAMPLE["files"][0] | {"name": "x"}, EXAMPLE["files"][0]]}, True),
        ({"files": [EXAMPLE["files"][0] | {"size": -1}]}, True),
        ({"files": [EXAMPLE["files"][0] | {"mode": 1}]}, True),
        ({"files": [EXAMPLE["files"][0] | {"digest": "sha256:0"}]}, True),
        ({"media": "stick 7"}, True),
    ],
)
def test_what_is_no_manifest_is_refused(changes: dict[str, Any], schema_sees_it: bool) -> None:
    with pytest.raises(IntegrityError):
        Manifest.parse(emit(EXAMPLE | changes))
    assert valid_for_schema(EXAMPLE | changes) != schema_sees_it


@pytest.mark.parametrize("key", sorted(EXAMPLE))
def test_every_field_of_the_manifest_is_needed(key: str) -> None:
    value = {name: each for name, each in EXAMPLE.items() if name != key}
    with pytest.raises(IntegrityError):
        Manifest.parse(emit(value))
    assert not valid_for_schema(value)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=50))
def test_frontiers_and_proofs_round_trip(hashes: list[bytes]) -> None:
    frontier = Frontier((1 << len(hashes)) - 1, tuple(hashes))
    assert parse_frontier(emit_frontier(frontier)) == frontier
    assert parse_consistency(emit_consistency(3, 9, tuple(hashes))) == (3, 9, tuple(hashes))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2},
        {"size": -1},
        {"hashes": []},
        {"hashes": ["AAAA"]},
        {"hashes": ["?"]},
        {"schema": "airpack.frontier/2"},
        {"extra": 1},
    ],
)
def test_what_is_no_frontier_is_refused(changes: dict[str, Any]) -> None:
    value = json.loads(emit_frontier(Frontier(5, (bytes(32), bytes(32)))))
    assert parse_frontier(emit(value)).size == 5
    with pytest.raises(IntegrityError):
        parse_frontier(emit(value | changes))


@pytest.mark.parametrize("changes", [{"old": -1}, {"hashes": ["?"]}, {"hashes": ["AAAA"] * 129}, {"extra": 1}])
def test_what_is_no_consistency_proof_is_refused(changes: dict[str, Any]) -> None:
    value = json.loads(emit_consistency(1, 2, (bytes(32),)))
    with pytest.raises(IntegrityError):
        parse_consistency(emit(value | changes))


def test_the_text_of_an_export_can_be_searched_as_it_lies(site: Any, log: EvidenceLog) -> None:
    assert site.export(log).count(b"digits@1.0.0") == 1
