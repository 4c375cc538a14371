import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit, parse
from airpack.formats.compat import (
    INERT,
    KINDS,
    NATIVE,
    OPAQUE,
    UNSAFE,
    CompatDoc,
    CompatFile,
    CompatRuntime,
    CompatWheel,
)
from airpack.formats.probe import Probe
from airpack.types import Limits

SCHEMA = Path(__file__).parents[3] / "manifests" / "schemas" / "compat.schema.json"
WHEEL = CompatWheel("numpy", "2.4.6", ("cp311-cp311-manylinux_2_28_x86_64",))
DOC = CompatDoc(
    product="encoder",
    version="1.2.0",
    files=(CompatFile("model/m/model.onnx", "onnx", 7),),
    runtimes=(CompatRuntime("ort", "wheels", "linux/amd64", (WHEEL,)), CompatRuntime("web", "web", "")),
    total_bytes=100,
    total_files=3,
    memory=2 << 30,
    probe=Probe(kind="onnxruntime", golden="probe/golden.npz"),
)

names = st.from_regex(r"[a-z][a-z0-9]{2,8}[xz]", fullmatch=True)
wheels = st.builds(
    CompatWheel, names, names, st.sets(names, min_size=1, max_size=3).map(lambda tags: tuple(sorted(tags)))
)
runtimes = st.one_of(
    st.builds(CompatRuntime, names, st.just("wheels"), st.just("linux/arm64"), st.lists(wheels, min_size=1).map(tuple)),
    st.builds(CompatRuntime, names, st.just("binary"), st.just("linux/amd64")),
    st.builds(CompatRuntime, names, st.sampled_from(["web", "files"]), st.sampled_from(["", "linux/amd64"])),
)
documents = st.builds(
    CompatDoc,
    names,
    names,
    st.lists(st.builds(CompatFile, names, st.sampled_from(sorted(INERT)), st.integers(0, Limits.FILE))).map(tuple),
    st.lists(runtimes).map(tuple),
    st.integers(0, 2**53 - 1),
    st.integers(1, Limits.FILES),
    st.integers(0, 1 << 50),
    st.sampled_from([None, DOC.probe, Probe(kind="command", command=("runtime/a/run", "--check"))]),
)


@given(documents)
def test_a_document_comes_back_as_it_was_and_obeys_its_schema(document: CompatDoc) -> None:
    data = document.emit()
    assert CompatDoc.parse(data) == document
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))


def test_the_schema_is_valid_and_closed() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def changed(path: list[str | int], value: Any) -> bytes:
    document = parse(DOC.emit(), what="test")
    target = document
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return emit(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], "airpack.compat/2"),
        (["schema"], ...),
        (["product"], "Encoder"),
        (["version"], "current"),
        (["more"], 1),
        (["files"], ...),
        (["files", 0, "grade"], "asserted"),
        (["files", 0, "grade"], ...),
        (["files", 0, "format"], "No Name"),
        (["files", 0, "size"], -1),
        (["files", 0, "path"], "model/../x"),
        (["files", 0, "more"], 1),
        (["runtimes", 0, "kind"], "docker"),
        (["runtimes", 0, "platform"], ...),
        (["runtimes", 0, "platform"], "linux/x86_64"),
        (["runtimes", 0, "name"], "../x"),
        (["runtimes", 0, "more"], 1),
        (["runtimes", 1, "wheels"], []),
        (["runtimes", 0, "wheels"], []),
        (["runtimes", 0, "wheels", 0, "tags"], []),
        (["runtimes", 0, "wheels", 0, "tags"], ["b", "a"]),
        (["runtimes", 0, "wheels", 0, "tags"], ["a", "a"]),
        (["runtimes", 0, "wheels", 0, "more"], 1),
        (["totals", "files"], 0),
        (["totals", "more"], 0),
        (["require"], {}),
        (["require", "memory"], 0),
        (["require", "disk"], 1),
        (["probe", "kind"], "shell"),
        (["probe", "more"], 1),
    ],
)
def test_a_document_of_another_form_is_refused(path: list[str | int], value: Any) -> None:
    with pytest.raises(IntegrityError):
        CompatDoc.parse(changed(path, value))


@pytest.mark.parametrize("path", [[], ["files", 0], ["runtimes", 0], ["runtimes", 0, "wheels", 0], ["totals"]])
def test_the_schema_refuses_unknown_fields_as_the_reader_does(path: list[str | int]) -> None:
    data = changed([*path, "more"], 1)
    with pytest.raises(IntegrityError):
        CompatDoc.parse(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))


def test_a_document_that_is_not_canonical_is_refused() -> None:
    with pytest.raises(IntegrityError):
        CompatDoc.parse(DOC.emit() + b"\n")


def test_each_format_has_one_standing() -> None:
    standings = [INERT, set(UNSAFE), set(OPAQUE)]
    assert sum(len(standing) for standing in standings) == len(set().union(*standings))


def test_kinds_that_run_on_one_platform_only_are_kinds() -> None:
    assert set(KINDS) > NATIVE
