"""The repair report: strict, bounded, and the same whatever way it went."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats import canonical
from airpack.formats.repair import Needed, RepairReport
from airpack.types import Digest

SCHEMA = json.loads((Path(__file__).parents[3] / "manifests/schemas/repair.schema.json").read_text())
REPORT = RepairReport(
    Digest.of(b"package"),
    Digest.of(b"release"),
    "encoder",
    "1.2.0",
    (Needed("encoder-1.2.0.0001.airvol", ((0, 128), (4096, 1 << 20))), Needed("encoder-1.2.0.0003.airvol", ((7, 1),))),
)


def changed(**fields: Any) -> bytes:
    return canonical.emit(json.loads(REPORT.emit()) | fields)


def volume(**fields: Any) -> bytes:
    return changed(volumes=[{"name": "v.airvol", "ranges": [[0, 1]]} | fields])


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    found, at = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 1 << 30), st.integers(1, 1 << 30)), min_size=1)):
        found.append((at + gap, length))
        at += gap + length
    return tuple(found)


@given(st.dictionaries(st.from_regex(r"[a-z0-9._-]{1,9}\.airvol", fullmatch=True), ranges(), min_size=1, max_size=5))
def test_what_is_emitted_is_parsed_and_of_the_schema(volumes: dict[str, tuple[tuple[int, int], ...]]) -> None:
    needed = tuple(Needed(name, places) for name, places in volumes.items())
    report = RepairReport(REPORT.package, REPORT.release, "encoder", "1.2.0", needed)
    assert RepairReport.parse(report.emit()) == report
    jsonschema.validate(json.loads(report.emit()), SCHEMA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (REPORT.emit() + b"\n", "not canonical"),
        (changed(schema="airpack.repair/2"), "schema is"),
        (changed(package="sha256:00"), "not a digest"),
        (changed(more=1), "unknown key"),
        (changed(volumes=[]), "no volume is listed"),
        (changed(volumes=[{"name": "v.airvol", "ranges": [[0, 1]]}] * 2), "or one twice"),
        (volume(name="../../etc/passwd.airvol"), "not well formed"),
        (volume(name="v.airfix"), "not well formed"),
        (volume(ranges=[]), "no range"),
        (volume(ranges=[[0, 4], [4, 1]]), "two of them touch"),
        (volume(ranges=[[9, 1], [4, 1]]), "not in order"),
        (volume(ranges=[[0, 0]]), "in no volume"),
        (volume(ranges=[[-1, 4]]), "in no volume"),
        (volume(ranges=[[1 << 41, 1]]), "in no volume"),
        (volume(ranges=[[0, 1, 2]]), "two whole numbers"),
        (volume(ranges=[[0, True]]), "two whole numbers"),
        (volume(ranges=[{"offset": 0}]), "two whole numbers"),
        (volume(ranges=[[2 * at, 1] for at in range(100_001)]), "at most 100000"),
    ],
)
def test_whatever_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        RepairReport.parse(data)


def test_all_reports_together_are_bounded() -> None:
    half = [[2 * at, 1] for at in range(60_000)]
    with pytest.raises(IntegrityError, match="more than 100000 ranges"):
        RepairReport.parse(changed(volumes=[{"name": f"{name}.airvol", "ranges": half} for name in "ab"]))
