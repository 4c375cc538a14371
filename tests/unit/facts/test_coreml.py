"""Core ML specifications, pipelines inside each other, and hostile ones."""

import io
from pathlib import Path

import pytest

from airpack.facts.coreml import read
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import CoremlFacts

MODELS = Path(__file__).resolve().parents[2] / "models"


def facts(data: bytes) -> tuple[CoremlFacts, Notes]:
    notes = Notes()
    return read(Reader(io.BytesIO(data), len(data)), notes), notes


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(version: int, kind: int = 500, content: bytes = b"") -> bytes:
    return field(1, version) + field(2, b"") + field(kind, content)


def program(*opsets: str) -> bytes:
    functions = (field(2, field(1, b"main") + field(2, field(2, opset.encode()))) for opset in opsets)
    return field(1, 1) + b"".join(functions)


@pytest.mark.parametrize(
    ("kind", "name"), [(500, "neuralNetwork"), (555, "customModel"), (2000, "textClassifier"), (777, "type-777")]
)
def test_the_kind_of_a_model_is_named(kind: int, name: str) -> None:
    found, notes = facts(model(4, kind))
    assert found == CoremlFacts(4, name)
    assert notes.places == {"specification": (1, 2)}


def test_a_program_says_the_opsets_of_its_functions() -> None:
    data = model(8, 502, program("CoreML7", "CoreML6", "CoreML7"))
    found, notes = facts(data)
    assert found == CoremlFacts(8, "mlProgram", ("CoreML6", "CoreML7"))
    assert data[slice(*notes.places["opsets.CoreML6"])] == b"CoreML6"


@pytest.mark.parametrize(("kind", "wrap"), [(202, False), (200, True), (201, True)])
def test_models_of_a_pipeline_count_by_version_and_opset(kind: int, wrap: bool) -> None:
    inner = field(1, model(6)) + field(1, model(9, 502, program("CoreML8")))
    data = model(4, kind, field(1, inner) if wrap else inner)
    found, notes = facts(data)
    assert (found.specification, found.parts, found.opsets) == (9, ("mlProgram", "neuralNetwork"), ("CoreML8",))
    start, stop = notes.places["specification"]
    assert data[start:stop] == b"\x09"


def test_a_real_package_is_read() -> None:
    data = (MODELS / "tiny.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes()
    assert facts(data)[0] == CoremlFacts(8, "mlProgram", ("CoreML7",))


def nested(depth: int) -> bytes:
    data = model(4)
    for _ in range(depth):
        data = model(4, 202, field(1, data))
    return data


def test_pipelines_inside_each_other_have_a_bound() -> None:
    assert facts(nested(40))[0].specification == 4
    with pytest.raises(MalformedError, match="too many inside each other"):
        facts(nested(60))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (model(4) + field(1, 5), "two versions"),
        (model(4) + field(500, b""), "two kinds"),
        (model(1 << 40), "one that cannot be"),
        (field(1, b"4"), "one that cannot be"),
        (field(1, 0) + field(500, b""), "one that cannot be"),
        (field(1, 4) + field(500, 7), "no message"),
        (model(8, 502, program("x" * 300)), "a text of 300 bytes"),
        (model(4)[:-1] + b"\x7f", "its message at"),
        (model(4, 202, field(1, field(1, 4)) * 5000), "too many"),
    ],
)
def test_a_specification_that_cannot_be_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        facts(data)
