"""Registries are read from the tables in their source: complete, or not at all."""

from collections import OrderedDict
from contextlib import suppress
from typing import Any

import pytest

from airpack.facts.reader import MalformedError
from airpack.facts.registries import (
    TRANSFORMERS,
    VLLM_QUANTIZATION,
    VLLM_REGISTRY,
    read_transformers,
    read_vllm,
)
from airpack.formats.runtimefacts import TransformersFacts, VllmFacts

REGISTRY = b"""\
from .interfaces import supports

_TEXT_GENERATION_MODELS = {
    # [Decoder-only]
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "GPT2LMHeadModel": ("gpt2", "GPT2LMHeadModel"),
}

_EMBEDDING_MODELS: dict[str, tuple[str, str]] = {"BertModel": ("bert", "BertEmbeddingModel")}

_VLLM_MODELS = {
    **_TEXT_GENERATION_MODELS,
    **_EMBEDDING_MODELS,
}

_PREVIOUSLY_SUPPORTED_MODELS = {"MotifForCausalLM": "0.10.2"}

_OOT_SUPPORTED_MODELS = {"BartModel": "https://example.org/bart"}

match 1:  # what a Python of another day writes
    case _ if (x := 1): pass

class _Lazy[T](object):
    pass
"""
METHODS = b"""\
from typing import Literal, get_args

QuantizationMethods = Literal[
    "awq",
    "gptq",
]
QUANTIZATION_METHODS = list(get_args(QuantizationMethods))
"""


def vllm(registry: bytes, methods: bytes = METHODS) -> VllmFacts | None:
    return read_vllm({VLLM_REGISTRY: registry, VLLM_QUANTIZATION: methods}, "0.33.0")


def transformers(*sources: bytes) -> TransformersFacts:
    found = read_transformers(dict(zip(TRANSFORMERS, sources, strict=False)), "5.24.0")
    assert found is not None
    return found


def test_architectures_and_methods_are_the_keys_of_their_tables() -> None:
    facts = vllm(REGISTRY)
    assert facts == VllmFacts(
        path=VLLM_REGISTRY,
        version="0.33.0",
        architectures=("BertModel", "GPT2LMHeadModel", "LlamaForCausalLM"),
        dropped={"MotifForCausalLM": "0.10.2"},
        quantizations=("awq", "gptq"),
        at=REGISTRY.index(b"_TEXT_GENERATION"),
    )


def test_without_a_registry_there_are_no_facts_and_without_tables_they_are_unknown() -> None:
    assert read_vllm({VLLM_QUANTIZATION: METHODS}, "1") is None
    assert read_transformers({}, "1") is None
    facts = vllm(b"def models():\n    return {}\n", b"")
    assert facts is not None
    assert (facts.architectures, facts.quantizations) == (None, None)
    assert transformers(b"").model_types is None


def test_one_method_is_a_method() -> None:
    facts = vllm(REGISTRY, b'QuantizationMethods = Literal["awq"]\n')
    assert facts is not None
    assert facts.quantizations == ("awq",)


def test_model_types_are_put_together_from_all_their_statements() -> None:
    facts = transformers(
        b'CONFIG_MAPPING_NAMES.update(\n    {"evolla": "EvollaConfig"}\n)\n'
        b'CONFIG_MAPPING_NAMES = OrderedDict(**{"gpt-sw3": "GPT2Config"}, **CONFIG_MAPPING_NAMES)\n'
        b"CONFIG_MAPPING = _LazyConfigMapping(CONFIG_MAPPING_NAMES)\n",
        b'CONFIG_MAPPING_NAMES = OrderedDict(\n    [\n        ("bert", "B"),\n        ("llama", "X"),\n    ]\n)\n',
        b'MODEL_MAPPING_NAMES = OrderedDict([("bert", "BertModel"), ("funnel", ("FunnelModel", "FunnelBaseModel"))])\n'
        b'MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict([*list(MODEL_MAPPING_NAMES.items()), ("llama", "Llama")])\n',
    )
    assert facts.model_types == ("bert", "evolla", "gpt-sw3", "llama")
    assert facts.architectures == ("BertModel", "FunnelBaseModel", "FunnelModel", "Llama")
    assert (facts.path, facts.at) == (TRANSFORMERS[0], 0)


@pytest.mark.parametrize(
    "table",
    [
        '{"a": 1, "b": ("c", "d")}',
        'OrderedDict([("a", "b"), ("c", ("d", "e"))])',
        'dict(a="b", c="d")',
        '{"a", "b"}',
        '["a", "b"]',
        'set(["a"])',
    ],
)
def test_keys_are_those_that_python_makes(table: str) -> None:
    made: Any = eval(table, {"OrderedDict": OrderedDict})
    facts = transformers(f"CONFIG_MAPPING_NAMES = {table}\n".encode())
    assert facts.model_types == tuple(sorted(made))


@pytest.mark.parametrize(
    "table",
    [
        "{name: 'x' for name in NAMES}",
        "{'a': 'b', NAME: 'c'}",
        "{'a': 'b', **others()}",
        "make()",
        "{'a': 'b'} if X else {}",
        "OrderedDict([('a', 'b'), *more])",
        "{1: 'a'}",
        "{'': 'a'}",
        "{'" + "x" * 201 + "': 'a'}",
        "f'{x}'",
    ],
)
def test_a_table_that_is_not_all_plain_text_is_not_read_by_half(table: str) -> None:
    with pytest.raises(MalformedError):
        transformers(f"CONFIG_MAPPING_NAMES = {table}\n".encode())


@pytest.mark.parametrize(
    "source",
    [
        b"CONFIG_MAPPING_NAMES = {'a': \n",
        b"CONFIG_MAPPING_NAMES = {'a': 'b'}; import os\n",
        b"CONFIG_MAPPING_NAMES = " + b"(" * 300 + b")" * 300,
        b"CONFIG_MAPPING_NAMES = " + b"-" * 100_000 + b"1",
        b"CONFIG_MAPPING_NAMES = " + b"a." * 50_000 + b"a",
        b"CONFIG_MAPPING_NAMES = " + b"not " * 30_000 + b"1",
        b"CONFIG_MAPPING_NAMES = {'a\0': 'b'}\n",
        b"CONFIG_MAPPING_NAMES = '\xff'\n",
        b"CONFIG_MAPPING_NAMES = {" + b"'a': 'b'," * 20_000 + b"}\n",
        b"CONFIG_MAPPING_NAMES = {'a': 'b'}\n" * 2000,
        b"CONFIG_MAPPING_NAMES",
    ],
    ids=["cut", "two", "brackets", "signs", "attributes", "nots", "nul", "latin", "long", "many", "bare"],
)
def test_hostile_source_is_malformed_or_nothing(source: bytes) -> None:
    with suppress(MalformedError):
        assert transformers(source).model_types is None


def test_a_source_file_has_a_bound() -> None:
    with pytest.raises(MalformedError, match="bytes"):
        transformers(b"#" * (5 << 20))


def test_a_statement_ends_where_the_next_begins() -> None:
    source = (
        b'CONFIG_MAPPING_NAMES = {\n    "a": "b",\n# a word\n\n    "c": "d",\n}\nclass X: pass\nCONFIG = {"e": "f"}\n'
    )
    assert transformers(source).model_types == ("a", "c")
