"""The document of facts: one form for one set of facts, closed and bounded."""

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from airpack.errors import IntegrityError
from airpack.formats import canonical, facts, runtimefacts
from airpack.formats.facts import (
    KINDS,
    LARGEST,
    MOST_TEXT,
    SCHEMA,
    Code,
    Count,
    Facts,
    GgufFacts,
    ModelFacts,
    OnnxFacts,
    Problem,
    TorchFacts,
    clip,
)
from airpack.formats.runtimefacts import RuntimeFacts

SCHEMAS = Path(__file__).parents[3] / "manifests" / "schemas"

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5)
NUMBERS = st.integers(-LARGEST, LARGEST)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return any value of a type that facts are made of."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return instances(kind)
    if origin is types.UnionType:
        return st.one_of(*(values(each) for each in inner))
    if origin is tuple:
        return (
            st.tuples(*map(values, inner))
            if inner[-1] is not Ellipsis
            else st.lists(values(inner[0]), max_size=3).map(tuple)
        )
    if origin is not None:
        return st.dictionaries(WORDS, values(inner[1]), max_size=3)
    plain: Mapping[Any, st.SearchStrategy[Any]] = {str: WORDS, int: NUMBERS, bool: st.booleans(), type(None): st.none()}
    return plain[kind]


def instances(cls: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{each.name: values(hints[each.name]) for each in fields(cls)})


FILES = instances(Facts)
MODELS = st.builds(
    ModelFacts, st.lists(FILES, max_size=3).map(tuple), st.lists(instances(Problem), max_size=2).map(tuple)
)


@given(MODELS)
def test_every_document_is_of_its_schema(model: ModelFacts) -> None:
    validator = Draft202012Validator(json.loads((SCHEMAS / "facts.schema.json").read_text()))
    assert [error.message for error in validator.iter_errors(json.loads(model.emit()))] == []


RUNTIMES = instances(RuntimeFacts)


@given(RUNTIMES)
def test_every_document_of_a_runtime_is_of_its_schema(runtime: RuntimeFacts) -> None:
    validator = Draft202012Validator(json.loads((SCHEMAS / "runtime-facts.schema.json").read_text()))
    assert [error.message for error in validator.iter_errors(json.loads(runtime.emit()))] == []


@pytest.mark.parametrize("name", ["facts", "runtime-facts"])
def test_a_schema_knows_the_fields_that_there_are_and_no_others(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    for each, table in schema["$defs"].items():
        if each == "number":
            continue
        cls = getattr(runtimefacts, each, None) or getattr(facts, each)
        names = {field.name for field in fields(cls)} | (KINDS.keys() if cls is Facts else set())
        assert table["properties"].keys() == names - {"says"}, each
        assert table["additionalProperties"] is False, each


@given(MODELS)
def test_what_is_emitted_is_read_again(model: ModelFacts) -> None:
    assert ModelFacts.parse(model.emit()) == model
    assert canonical.parse_canonical(model.emit(), what="facts")["schema"] == SCHEMA


@given(st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_facts_stand_under_their_kind(kind: str, data: st.DataObject) -> None:
    file = Facts("a", 1, "data", says=data.draw(instances(KINDS[kind])))
    assert file.kind == kind
    assert set(file.document()) == {"path", "size", "format", kind}


GGUF = Facts(
    "m.gguf",
    100,
    "gguf",
    "version 3",
    reader="gguf/1",
    says=GgufFacts(3, 1, architecture="llama", tensor_types={"F32": Count(1, 60)}, settings={"a": True, "b": (1, 2)}),
    places={"architecture": (64, 69)},
    code=(Code("jinja", "tokenizer.chat_template", text="{{ x }}", place=(70, 77)),),
)
DOCUMENT = {
    "files": [
        {
            "code": [{"kind": "jinja", "place": [70, 77], "text": "{{ x }}", "where": "tokenizer.chat_template"}],
            "detail": "version 3",
            "format": "gguf",
            "gguf": {
                "architecture": "llama",
                "settings": {"a": True, "b": [1, 2]},
                "tensor_types": {"F32": {"bytes": 60, "tensors": 1}},
                "tensors": 1,
                "version": 3,
            },
            "path": "m.gguf",
            "places": {"architecture": [64, 69]},
            "reader": "gguf/1",
            "size": 100,
        }
    ],
    "schema": SCHEMA,
}


def test_a_document_looks_like_this() -> None:
    assert ModelFacts((GGUF,)).document() == DOCUMENT


def emitted(change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = canonical.parse(canonical.emit(DOCUMENT), what="it")
    change(document["files"][0])
    return canonical.emit(document)


def put(**more: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda file: file.update(more)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(more=1), "unknown key 'more'"),
        (put(says={}), "of one kind"),
        (put(pte={"identifier": "ET12"}), "of one kind"),
        (put(path=1), "path is no str"),
        (put(size=True), "size is no int"),
        (put(size=1.5), "size is no int"),
        (put(size="1"), "size is no int"),
        (put(path="x" * (MOST_TEXT + 1)), "longer than"),
        (put(places=[]), "places is not a table"),
        (put(places={"a": [1]}), "is not 2 items"),
        (put(places={"a": [1, 2, 3]}), "is not 2 items"),
        (put(places={"a": ["1", "2"]}), "is no int"),
        (put(code={}), "code is not a list"),
        (put(code=[1]), "code is not a table"),
        (put(code=[{}]), "'kind' is missing"),
        (put(code=[{"kind": "x", "more": 1}]), "unknown key 'more'"),
        (put(gguf=[]), "gguf is not a table"),
        (put(gguf={}), "'version' is missing"),
        (put(gguf={"version": 3, "heads": [True]}), "heads is no int"),
        (put(gguf={"version": 3, "settings": {"a": None}}), "settings a is no"),
        (put(gguf={"version": 3, "settings": {"a": [[1]]}}), "is no int"),
        (put(gguf={"version": 3, "context": "1"}), "context is no int"),
        (put(gguf={"version": 3, "alignment": 32}), "in their one form"),
        (put(gguf={"version": 3, "context": None}), "in their one form|is no int"),
        (put(detail=""), "in their one form"),
        (put(code=[]), "in their one form"),
        (lambda file: file.pop("path"), "'path' is missing"),
    ],
)
def test_a_document_that_is_not_one_is_refused(change: Callable[[dict[str, Any]], Any], reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        ModelFacts.parse(emitted(change))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{}", "schema"),
        (canonical.emit({"schema": "airpack.facts/2", "files": []}), "airpack.facts/1"),
        (canonical.emit({"schema": SCHEMA}), "'files' is missing"),
        (canonical.emit({"schema": SCHEMA, "files": {}}), "must be a list"),
        (canonical.emit({"schema": SCHEMA, "files": [1]}), "not a table"),
        (canonical.emit({"schema": SCHEMA, "files": [], "more": 1}), "unknown key"),
        (canonical.emit({"schema": SCHEMA, "files": [], "problems": []}), "in their one form"),
        (canonical.emit({"schema": SCHEMA, "files": [], "problems": [{"reason": 1}]}), "reason is no str"),
        (b'{"files": [], "schema": "airpack.facts/1"}', "not canonical"),
    ],
)
def test_a_document_of_another_form_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        ModelFacts.parse(data)


def test_numbers_that_others_would_round_are_refused() -> None:
    with pytest.raises(ValueError, match=r"safe|range|exceed|integer"):
        ModelFacts((replace(GGUF, size=LARGEST + 1),)).emit()


def test_problems_of_files_are_named_with_their_path() -> None:
    model = ModelFacts((replace(GGUF, problems=(Problem("bad", 7),)),), (Problem("missing", None, "b"),))
    assert model.all_problems == (Problem("bad", 7, "m.gguf"), Problem("missing", None, "b"))


def test_texts_are_clipped_to_what_json_can_hold() -> None:
    assert clip("x" * (MOST_TEXT + 5)) == "x" * MOST_TEXT
    assert clip("a\ud800b") == "a?b"


def test_the_same_facts_are_equal_and_others_are_not() -> None:
    assert OnnxFacts(8, operators={"a": 1}) == OnnxFacts(8, operators={"a": 1}) != OnnxFacts(8, operators={"a": 2})
    assert TorchFacts("pickled").storages == Count(0, 0)
