"""JSON beside Hugging Face weights: what is read, what is passed over, and JSON that is none."""

import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts import jsonwalk
from airpack.facts.hf import read
from airpack.facts.jsonwalk import Json
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import (
    HfConfigFacts,
    HfIndexFacts,
    HfTokenizerConfigFacts,
    HfTokenizerFacts,
)


def reader(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), len(data))


def facts(value: Any, *, indent: int | None = None) -> tuple[Any, Notes]:
    data = value if isinstance(value, bytes) else json.dumps(value, indent=indent).encode()
    notes = Notes()
    return read(reader(data), notes), notes


# --- config -----------------------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModel": "modeling_x.X", "AutoTokenizer": ["slow.T", None]},
    "hidden_act": "silu",
    "model_type": "llama",
    "num_hidden_layers": 32,
    "quantization_config": {"bits": 4, "quant_method": "awq", "modules": ["a"]},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "text_config": {"num_attention_heads": 8},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_config_says_what_loads_it(indent: int | None) -> None:
    found, notes = facts(CONFIG, indent=indent)
    assert found == HfConfigFacts(
        architectures=("LlamaForCausalLM",),
        model_type="llama",
        dtype="bfloat16",
        quantization="awq",
        rope_scaling=("factor", "rope_type"),
        transformers="4.51.0",
        remote_code={"AutoModel": "modeling_x.X", "AutoTokenizer": "slow.T"},
        settings={
            "hidden_act": "silu",
            "num_hidden_layers": 32,
            "quantization_config.bits": 4,
            "quantization_config.quant_method": "awq",
            "rope_scaling.rope_type": "llama3",
            "text_config.num_attention_heads": 8,
            "tie_word_embeddings": False,
        },
    )
    data = json.dumps(CONFIG, indent=indent).encode()
    assert json.loads(data[slice(*notes.places["model_type"])]) == "llama"
    (code,) = notes.code
    assert (code.kind, code.names) == ("remote-code", ("modeling_x.X", "slow.T"))
    assert json.loads(data[slice(*code.place or ())]) == CONFIG["auto_map"]


def test_quantisation_without_a_name_is_said_to_be_there() -> None:
    assert facts({"model_type": "x", "quantization_config": {"bits": 4}})[0].quantization == "unnamed"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"model_type": "x", "architectures": [1]}, "architectures holds"),
        ({"model_type": "x", "architectures": ["a"] * 300}, "architectures holds"),
        ({"model_type": "x", "auto_map": {"a": 1}}, "auto_map holds"),
        ({"model_type": "x", "auto_map": {"a": [["b"]]}}, "auto_map holds"),
        ({"model_type": "x", "auto_map": {"a": "b" * 300}}, "auto_map holds"),
        (b'{"model_type":"x","model_type":"y"}', "'model_type' occurs twice"),
        (b'{"model_type":"x"', "neither another nor the end"),
        (b'{"model_type":"x",}', "no value|ends|strict|expected"),
        (b'{"model_type":}', "no value of JSON"),
        (b'{"model_type" "x"}', "expected ':'"),
        (b'{"model_type":"x" "y":1}', "neither another nor the end"),
        (b'{"model_type":"x', "ends within a value"),
        (b'{"model_type":[[1,2}', "ends within a value"),
        (b'{"model_type":' + b"[" * 200 + b"]" * 200 + b"}", "deeper than 64"),
        (b'{"\xff":1}', "strict JSON"),
    ],
)
def test_what_decides_and_cannot_be_says_why(value: Any, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        facts(value)


# --- tokenizer --------------------------------------------------------------------------------------------------------


def tokenizer(merges: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>"}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {'a"}]': 0, "b\\": 1}, "merges": merges},
        **more,
    }


@pytest.mark.parametrize(("merges", "form"), [(["a b"], "texts"), ([["a", "b"]], "pairs"), ([], "")])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_tokenizer_says_its_parts_and_how_merges_are_written(
    merges: list[Any], form: str, indent: int | None
) -> None:
    found, notes = facts(tokenizer(merges), indent=indent)
    assert found == HfTokenizerFacts(
        "1.0", "BPE", form, {"pre_tokenizer": ("Sequence", "Split", "ByteLevel"), "decoder": ("ByteLevel",)}
    )
    assert notes.code == []


def test_a_large_vocabulary_is_passed_over() -> None:
    value = tokenizer([[f"w{number}", "x"] for number in range(20_000)])
    value["model"]["vocab"] = {f'w"{number}\\': number for number in range(20_000)}
    found, _ = facts(value)
    assert (found.model, found.merges) == ("BPE", "pairs")


def test_a_tokenizer_without_a_type_of_model_has_none() -> None:
    value = tokenizer([])
    del value["model"]["type"]
    assert facts(value)[0].model == ""
    assert facts({**value, "model": "x"})[0].model == ""


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{{ x }}", ("default",)),
        (
            [{"name": "default", "template": "{{ x }}"}, {"name": "tool_use", "template": "{{ y }}"}],
            ("default", "tool_use"),
        ),
        ({"a": "{{ x }}"}, ("a",)),
        ([], ()),
    ],
)
def test_chat_templates_are_code(template: Any, names: tuple[str, ...]) -> None:
    found, notes = facts({"tokenizer_class": "T", "chat_template": template})
    assert found == HfTokenizerConfigFacts("T", {}, names)
    assert tuple(code.where.removeprefix("chat_template ") for code in notes.code) == names
    assert all(code.text.startswith("{{") for code in notes.code)


@pytest.mark.parametrize("template", [7, [1], [{"name": "a"}], ["x"], [{"name": "a", "template": "b"}] * 300])
def test_a_chat_template_that_is_none_is_malformed(template: Any) -> None:
    with pytest.raises(MalformedError, match="chat_template holds something else"):
        facts({"chat_template": template})


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "x"},
        {"weight_map": {"a": "b"}},
        {"model": {"type": "BPE"}, "added_tokens": []},
        {"tokenizer_class": "T"},
        {"auto\\u005fmap": 1},
    ],
)
def test_code_is_noted_whatever_else_a_file_says(more: dict[str, Any]) -> None:
    _, notes = facts({**more, "auto_map": {"AutoModel": "m.X"}, "chat_template": "{{ x }}"})
    assert [code.kind for code in notes.code] == ["remote-code", "jinja"]


def test_an_escaped_key_is_the_key() -> None:
    assert facts(b'{"auto\\u005fmap": {"AutoModel": "m.X"}}')[0].remote_code == {"AutoModel": "m.X"}


# --- index ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("count", [1, 3, 20_000])
def test_an_index_is_counted_by_file(count: int, indent: int | None) -> None:
    table = {f'model.layers.{number}."w"\\': f"m-{number % 3}.safetensors" for number in range(count)}
    found, _ = facts({"metadata": {"total_size": 7.0}, "weight_map": table}, indent=indent)
    expected = {name: list(table.values()).count(name) for name in sorted(set(table.values()))}
    assert found == HfIndexFacts(count, expected, 7)


def test_an_empty_index_lists_nothing() -> None:
    assert facts({"weight_map": {}, "metadata": []})[0] == HfIndexFacts()


@pytest.mark.parametrize(
    "table",
    [
        b"[]",
        b'{"a":1}',
        b'{"a":"b",}',
        b'{"a":"b","c"}',
        b'{"a":"b\\n"}',
        b'{"a":"\xff"}',
        b'{"a":"' + b"x" * 300 + b'"}',
        b'{"a":"b"',
        b"{" + b",".join(b'"a":"%d"' % number for number in range(5000)) + b"}",
    ],
)
def test_an_index_that_cannot_be_is_malformed(table: bytes) -> None:
    with pytest.raises(MalformedError):
        facts(b'{"weight_map":' + table + b"}")


# --- JSON that is walked ----------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5), st.none() | st.integers(0, 3), st.booleans())
def test_members_are_those_of_the_standard_library(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    data = b" \n" + json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode() + b" "
    walk = Json(reader(data))
    found = {name: json.loads(data[start : walk.end(start)]) for name, start in walk.members(0)}
    assert found == value


@pytest.mark.parametrize("size", [10, 300_000, 2_000_000])
def test_texts_longer_than_a_block_are_passed_over(size: int) -> None:
    data = json.dumps({"a": ["x" * size, '"\\'], "b": "y" * size, "c": 1}).encode()
    assert [name for name, _ in Json(reader(data)).members(0)] == ["a", "b", "c"]


def test_a_text_without_end_has_a_bound() -> None:
    for data in (b'{"a":"' + b"x" * (9 << 20) + b'"}', b'{"a":["' + b"x" * (9 << 20) + b'"]}'):
        with pytest.raises(MalformedError, match="too long"):
            list(Json(reader(data)).members(0))


def test_brackets_in_texts_are_none() -> None:
    data = json.dumps({"a": ["]", {"}": "[{"}, "\\", '\\"]'], "b": 2}).encode()
    assert [name for name, _ in Json(reader(data)).members(0)] == ["a", "b"]


def test_white_space_without_end_is_passed_over() -> None:
    data = b'{"a"' + b" " * 100_000 + b":" + b"\n" * 100_000 + b"1}"
    assert [name for name, _ in Json(reader(data)).members(0)] == ["a"]


def test_what_is_no_object_has_no_members() -> None:
    for data in (b"", b"[1]", b"7", b'"x"'):
        assert list(Json(reader(data)).members(0)) == []


@given(st.binary(max_size=60))
def test_any_bytes_are_walked(data: bytes) -> None:
    for text in (data, b'{"a":' + data, b'{"weight_map":{' + data):
        with suppress(MalformedError):
            facts(text)


def test_values_are_held_to_strict_json() -> None:
    with pytest.raises(MalformedError, match="strict JSON"):
        jsonwalk.value(reader(b"NaN"), 0, 3, 100)
    with pytest.raises(MalformedError, match="a value of 3 bytes; at most 2"):
        jsonwalk.value(reader(b"123"), 0, 3, 2)
