import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.evidence.records import (
    MAX_DATA,
    MAX_LIST,
    MAX_SUBJECTS,
    MAX_TEXT,
    Actor,
    Event,
    Outcome,
    Phase,
    Record,
    Stamp,
    Subject,
    clip,
)
from airpack.formats.canonical import emit
from airpack.types import Digest, Limits

SCHEMA = Path(__file__).parents[3] / "manifests" / "schemas" / "evidence-record.schema.json"
WHEN = datetime(2026, 11, 23, 9, 14, 7, tzinfo=UTC)
BOOT = "0f3b0f4e-90a1-4c5f-9d5c-3f2a1b0c9d8e"
EXAMPLE: dict[str, Any] = {
    "schema": "airpack.record/1",
    "site": "5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40",
    "seq": 7,
    "event": "import",
    "phase": "result",
    "outcome": "refused",
    "reason": "integrity",
    "subject": [{"name": "digits@1.1.0", "digest": str(Digest.of(b"release"))}],
    "actor": {"uid": 990, "user": "airpack"},
    "time": {"wall": "2026-11-23T09:14:07Z", "boot_id": BOOT, "boottime_ms": 86400512},
    "corr": "4f0c1a77",
    "data": {"volumes": 3, "again": False, "file": "digits.0001.airvol", "missing": ["a", "b"]},
}


def changed(**changes: Any) -> dict[str, Any]:
    return EXAMPLE | changes


def valid_for_schema(value: Any) -> bool:
    schema = json.loads(SCHEMA.read_bytes())
    validator = jsonschema.Draft202012Validator(schema)
    return bool(validator.is_valid(value))


def test_the_example_is_read() -> None:
    record = Record.parse(emit(EXAMPLE), what="record")
    assert record == Record(
        site="5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40",
        seq=7,
        event=Event.IMPORT,
        phase=Phase.RESULT,
        actor=Actor(990, "airpack"),
        time=Stamp(WHEN, BOOT, 86400512),
        outcome=Outcome.REFUSED,
        reason="integrity",
        subject=(Subject("digits@1.1.0", Digest.of(b"release")),),
        corr="4f0c1a77",
        data={"volumes": 3, "again": False, "file": "digits.0001.airvol", "missing": ("a", "b")},
    )
    assert record.emit() == emit(EXAMPLE)
    assert valid_for_schema(EXAMPLE)


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
RECORDS = st.builds(
    Record,
    site=st.text("0123456789abcdef", min_size=32, max_size=32),
    seq=st.integers(0, 2**53 - 1),
    event=st.sampled_from(list(Event)),
    phase=st.just(Phase.NOTE),
    actor=st.builds(Actor, st.integers(0, 2**32), TEXT),
    time=st.builds(
        Stamp,
        st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001, hypothesis adds UTC
            lambda moment: moment.replace(microsecond=0)
        ),
        st.sampled_from(["", BOOT]),
        st.integers(0, 2**53 - 1),
    ),
    outcome=st.just(Outcome.FAILED),
    reason=st.text("abc_", max_size=8).map(lambda text: "e" + text),
    subject=st.lists(st.builds(Subject, TEXT, st.binary().map(Digest.of)), max_size=3).map(tuple),
    corr=st.text("0123456789abcdef", max_size=32),
    data=st.dictionaries(
        st.text("abc_0", max_size=5).map(lambda text: "k" + text),
        st.one_of(TEXT, st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.lists(TEXT, max_size=3).map(tuple)),
        max_size=4,
    ),
)


@given(RECORDS)
def test_records_round_trip_in_one_line_and_fit_the_schema(record: Record) -> None:
    line = record.emit()
    assert Record.parse(line, what="record") == record
    assert b"\n" not in line
    assert valid_for_schema(json.loads(line))


@pytest.mark.parametrize(
    "value",
    [
        changed(schema="airpack.record/2"),
        changed(site="5F3C0E7A9B1D4C2F8E6A7B0C1D2E3F40"),
        changed(site="5f3c"),
        changed(seq=-1),
        changed(seq=True),
        changed(seq="7"),
        changed(seq=7.5),
        changed(event="imports"),
        changed(event=""),
        changed(phase="after"),
        changed(outcome="good"),
        changed(reason="Not Found"),
        changed(reason="x" * 41),
        changed(subject={}),
        changed(subject=[{"name": "a"}]),
        changed(subject=[{"name": "a", "digest": "sha256:00"}]),
        changed(subject=[EXAMPLE["subject"][0] | {"size": 3}]),
        changed(subject=[EXAMPLE["subject"][0] | {"name": "x" * (MAX_TEXT + 1)}]),
        changed(subject=EXAMPLE["subject"] * (MAX_SUBJECTS + 1)),
        changed(actor={"uid": 0}),
        changed(actor={"uid": -1, "user": ""}),
        changed(actor={"uid": 0, "user": "root", "role": "admin"}),
        changed(actor={"uid": 0, "user": "x" * (MAX_TEXT + 1)}),
        changed(time=EXAMPLE["time"] | {"wall": "2026-11-23T09:14:07+00:00"}),
        changed(time=EXAMPLE["time"] | {"wall": "2026-11-23T09:14:07.5Z"}),
        changed(time=EXAMPLE["time"] | {"wall": "2026-11-23 09:14:07Z"}),
        changed(time=EXAMPLE["time"] | {"wall": "2026-02-30T09:14:07Z"}),
        changed(time=EXAMPLE["time"] | {"boot_id": "boot"}),
        changed(time=EXAMPLE["time"] | {"boottime_ms": -1}),
        changed(time=EXAMPLE["time"] | {"anchor": ""}),
        changed(corr="../x"),
        changed(corr="x" * 65),
        changed(corr=""),
        changed(data=[]),
        changed(data={"Key": 1}),
        changed(data={"": 1}),
        changed(data={"k" * 65: 1}),
        changed(data={"key": None}),
        changed(data={"key": 1.5}),
        changed(data={"key": {"nested": 1}}),
        changed(data={"key": [1]}),
        changed(data={"key": [["a"]]}),
        changed(data={"key": "x" * (MAX_TEXT + 1)}),
        changed(data={"key": ["x" * (MAX_TEXT + 1)]}),
        changed(data={"key": ["x"] * (MAX_LIST + 1)}),
        changed(data={f"k{number}": 1 for number in range(MAX_DATA + 1)}),
        changed(extra=""),
        changed(phase="intent"),
        changed(phase="result", outcome="", reason=""),
        changed(outcome="done"),
        changed(phase="note", outcome="", reason="integrity"),
        changed(reason=""),
        changed(outcome="failed", reason=""),
    ],
)
def test_what_is_no_record_is_refused_by_reader_and_schema(value: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="record 7"):
        Record.parse(emit(value), what="record 7")
    # What JSON Schema cannot say about dates is left to the reader.
    assert not valid_for_schema(value) or value["time"]["wall"] == "2026-02-30T09:14:07Z"


@pytest.mark.parametrize("key", sorted(EXAMPLE))
def test_every_field_is_needed(key: str) -> None:
    value = {name: each for name, each in EXAMPLE.items() if name != key}
    with pytest.raises(IntegrityError):
        Record.parse(emit(value), what="record")
    assert not valid_for_schema(value)


@pytest.mark.parametrize(
    "value",
    [
        changed(phase="intent", outcome="", reason=""),
        changed(phase="note", outcome="", reason="", corr=""),
        changed(phase="note", outcome="done", reason=""),
        changed(outcome="interrupted", reason=""),
        changed(outcome="interrupted", reason="storage"),
        changed(subject=EXAMPLE["subject"] * MAX_SUBJECTS),
        changed(data={"key": "x" * MAX_TEXT, "list": [], "no": False, "low": -(2**53) + 1}),
        changed(data={}, actor={"uid": 4_000_000, "user": ""}),
    ],
)
def test_what_the_rules_allow_is_read_by_reader_and_schema(value: dict[str, Any]) -> None:
    assert Record.parse(emit(value), what="record").emit() == emit(value)
    assert valid_for_schema(value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        json.dumps(EXAMPLE).encode(),
        emit(EXAMPLE) + b"\n",
        emit(EXAMPLE)[:-1] + b',"seq":8}',
        emit(EXAMPLE).replace(b'"volumes":3', b'"volumes":NaN'),
        emit(EXAMPLE).replace(b'"volumes":3', b'"volumes":3.0'),
    ],
)
def test_what_is_not_canonical_is_refused(line: bytes) -> None:
    with pytest.raises(IntegrityError):
        Record.parse(line, what="record")


def test_a_record_is_at_most_what_a_log_entry_may_be() -> None:
    data = {f"k{number}": ["x" * MAX_TEXT] * 2 for number in range(MAX_DATA)}
    line = emit(changed(data=data))
    assert len(line) > Limits.EVIDENCE_RECORD
    with pytest.raises(IntegrityError, match="at most 65535"):
        Record.parse(line, what="record")


def record(**fields: Any) -> Record:
    return Record(
        **{
            "site": EXAMPLE["site"],
            "seq": 0,
            "event": Event.GC,
            "phase": Phase.NOTE,
            "actor": Actor(0),
            "time": Stamp(WHEN),
        }
        | fields
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": Phase.INTENT},
        {"phase": Phase.INTENT, "corr": "a", "outcome": Outcome.DONE},
        {"phase": Phase.RESULT, "corr": "a"},
        {"outcome": Outcome.FAILED},
        {"reason": "integrity"},
        {"seq": -1},
        {"site": "here"},
        {"data": {"key": 1.5}},
        {"data": {"key": "x" * (MAX_TEXT + 1)}},
        {"data": {"key": 2**53}},
        {"data": {"key": Path("x")}},
        {"time": Stamp(WHEN.replace(tzinfo=None))},
        {"time": Stamp(WHEN.replace(microsecond=1))},
    ],
)
def test_what_an_auditor_would_refuse_is_never_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        record(**fields).emit()


@given(st.text(max_size=MAX_TEXT * 2))
def test_clipped_words_may_stand_in_a_record(text: str) -> None:
    assert record(data={"text": clip(text)}).emit()


def test_clip_keeps_what_fits_and_marks_what_does_not() -> None:
    assert clip("é" * MAX_TEXT) == "é" * MAX_TEXT
    assert clip("x" * (MAX_TEXT + 1)) == "x" * (MAX_TEXT - 1) + "…"
    assert clip("bad\udcffname") == "bad?name"
