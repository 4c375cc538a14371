"""GGUF headers, held against ggml's own library, and hostile ones."""

import io
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts.gguf import BLOCKS, pass_strings, read, read_header
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import Count, GgufFacts


def reader(data: bytes) -> Reader:
    return Reader(io.BytesIO(data), len(data))


def facts(data: bytes) -> tuple[GgufFacts, Notes]:
    notes = Notes()
    return read(reader(data), notes), notes


def written(path: Path, fill: Callable[[gguf.GGUFWriter], None], architecture: str = "llama") -> bytes:
    writer = gguf.GGUFWriter(path, architecture)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


TEMPLATE = "{% for m in messages %}{{ m }}{% endfor %}\n" * 300


def llama(writer: gguf.GGUFWriter) -> None:
    """A model as the converters of llama.cpp write it."""
    writer.add_type("model")
    writer.add_file_type(7)
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 1])
    writer.add_key_length(16)
    writer.add_value_length(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_bool("llama.tied", val=True)
    writer.add_string("llama.rope.scaling.type", "yarn")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"word {number}" for number in range(3000)])
    writer.add_token_scores([0.5] * 3000)
    writer.add_chat_template([{"name": "default", "template": TEMPLATE}, {"name": "tool use", "template": "{{ x }}"}])
    writer.add_tensor("plain", np.ones((3, 5), "<f4"))
    writer.add_tensor("half", np.ones((7,), "<f2"))
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0]
    writer.add_tensor("q", np.zeros((3, 64 * size // block), "u1"), raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def test_what_a_model_says_is_read(tmp_path: Path) -> None:
    data = written(tmp_path / "m.gguf", llama)
    found, notes = facts(data)
    assert found == GgufFacts(
        version=3,
        tensors=3,
        type="model",
        architecture="llama",
        file_type=7,
        tensor_types={"F32": Count(1, 60), "F16": Count(1, 14), "Q8_0": Count(1, 204)},
        parameters=15 + 7 + 192,
        tokenizer="gpt2",
        pre_tokenizer="qwen2",
        vocabulary=3000,
        context=4096,
        layers=2,
        embedding=64,
        heads=(4,),
        kv_heads=(2, 1),
        key_length=16,
        value_length=8,
        settings={"tied": True, "rope.scaling.type": "yarn"},
        chat_templates=("tokenizer.chat_template", "tokenizer.chat_template.tool_use"),
    )
    assert notes.problems == []
    assert [(code.kind, code.where, code.text) for code in notes.code] == [
        ("jinja", "tokenizer.chat_template.tool_use", "{{ x }}"),
        ("jinja", "tokenizer.chat_template", TEMPLATE),
    ]
    places = {name: data[start:stop] for name, (start, stop) in notes.places.items()}
    assert places["architecture"] == b"llama"
    assert places["pre_tokenizer"] == b"qwen2"
    assert places["context"] == struct.pack("<I", 4096)
    assert b"half" in places["tensor_types.F16"]
    assert [data[slice(*code.place or ())].decode() for code in notes.code] == ["{{ x }}", TEMPLATE]


def test_types_and_sizes_are_those_of_its_own_library() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert BLOCKS[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])


def test_tensors_are_counted_as_its_own_library_does(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    found, _ = facts(written(path, llama))
    tensors = gguf.GGUFReader(path).tensors
    assert {name: count.tensors for name, count in found.tensor_types.items()} == Counter(
        each.tensor_type.name for each in tensors
    )
    assert sum(count.bytes for count in found.tensor_types.values()) == sum(each.n_bytes for each in tensors)
    assert found.parameters == sum(each.n_elements for each in tensors)


# --- by hand ----------------------------------------------------------------------------------------------------------


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes = b"w", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def made(*infos: bytes, keys: tuple[bytes, ...] = (), version: int = 3, data: int = 256) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(data)


def key(name: bytes, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", 8) + text(value)


def array(name: bytes, kind: int, count: int, content: bytes = b"") -> bytes:
    return text(name) + struct.pack("<IIQ", 9, kind, count) + content


def problems(data: bytes) -> list[str]:
    return [problem.reason for problem in facts(data)[1].problems]


def test_tensors_of_a_sound_file_lie_one_behind_the_other() -> None:
    assert problems(made(info(), info(b"v", offset=32))) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (made(info(), info(b"v", offset=64)), "lies at 64 of the data; expected 32"),
        (made(info(offset=32)), "lies at 32 of the data; expected 0"),
        (made(info(), info(offset=32)), "'w' occurs twice"),
        (made(info(shape=(4000,))), "ends at byte 16064; the file has 320"),
        (made(info(), data=0), "ends at byte 80; the file has 64"),
        (made(info(shape=(33,), kind=8)), "rows of 33 elements, no whole blocks"),
    ],
)
def test_tensors_that_do_not_fit_the_file_are_problems(data: bytes, reason: str) -> None:
    assert any(reason in problem for problem in problems(data)), problems(data)


def test_a_type_to_come_is_a_fact_and_no_problem() -> None:
    found, notes = facts(made(info(kind=4242), info(b"v", offset=64)))
    assert found.tensor_types == {"type-4242": Count(1, 0), "F32": Count(1, 16)}
    assert notes.problems == []


def test_a_file_without_a_word_about_itself_has_empty_facts() -> None:
    assert facts(made())[0] == GgufFacts(version=3)


SHARD = (
    text(b"split.no") + struct.pack("<IH", 2, 1),
    text(b"split.count") + struct.pack("<IH", 2, 3),
    text(b"split.tensors.count") + struct.pack("<Ii", 5, 40),
)


def test_a_shard_says_which_one_it_is() -> None:
    found, _ = facts(made(keys=SHARD))
    assert (found.shard, found.shards, found.shard_tensors) == (1, 3, 40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (made(version=1), "GGUF version 1;"),
        (made(version=4), "GGUF version 4;"),
        (made(version=0x03000000), "version 3 in the other byte order"),
        (made(keys=(key(b"a", b""), key(b"a", b""))), "'a' occurs twice"),
        (made(keys=(key(b"general.architecture", b"\xff"),)), "not UTF-8"),
        (made(keys=(key(b"general.architecture", b"a" * 201),)), "no text of at most 200 bytes"),
        (made(keys=(text(b"general.architecture") + struct.pack("<II", 4, 7),)), "no text"),
        (made(keys=(key(b"general.file_type", b"x"),)), "no whole number"),
        (made(keys=(text(b"general.file_type") + struct.pack("<If", 6, 7),)), "no whole number"),
        (made(keys=(key(b"general.architecture", b"x"), key(b"x.attention.head_count", b"4"))), "neither a whole"),
        (made(keys=(array(b"k", 9, 1, struct.pack("<IQ", 4, 0)),)), "type 9"),
        (made(keys=(text(b"k") + struct.pack("<I", 13),)), "type 13"),
        (made(keys=(array(b"k", 4, 2**62),)), "an array ends at byte"),
        (made(keys=(array(b"k", 8, 2**62),)), "arrays of more than"),
        (made(keys=(array(b"k", 8, 1 << 20),)), "ends with the file"),
        (made(keys=(array(b"k", 8, 1, struct.pack("<Q", 2**62)),)), "a text ends at byte"),
        (made(keys=(text(b"general.alignment") + struct.pack("<II", 4, 0),)), "general.alignment is 0"),
        (made(keys=(key(b"tokenizer.chat_template", b"x" * (1 << 20) + b"x"),)), "1048577 bytes"),
        (made(info(b"n" * 5000)), "a name of 5000 bytes"),
        (made(info(shape=(1,) * 9)), "9 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "keys; at most"),
        (b"GGUF", "it ends at byte 4"),
    ],
)
def test_a_header_that_cannot_be_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as refused:
        facts(data)
    assert reason in refused.value.reason
    assert 0 <= refused.value.at <= len(data)


def test_settings_that_cannot_be_kept_are_left_out() -> None:
    values: tuple[bytes, ...] = (
        key(b"general.architecture", b"x"),
        key(b"x.long", b"a" * 201),
        text(b"x.float") + struct.pack("<If", 6, 0.5),
        text(b"x.huge") + struct.pack("<IQ", 10, 2**60),
        array(b"x.floats", 6, 2, struct.pack("<2f", 1, 2)),
        array(b"x.words", 8, 1, text(b"a")),
        array(b"x.many", 4, 5000, bytes(20_000)),
        array(b"x.flags", 7, 2, b"\1\0"),
        text(b"x.flag") + struct.pack("<I?", 7, True),
        text(b"x.low") + struct.pack("<Iq", 11, -5),
    )
    assert facts(made(keys=values))[0].settings == {"flags": (1, 0), "flag": True, "low": -5}


# --- texts that are passed over ---------------------------------------------------------------------------------------


def length_of(words: list[bytes]) -> int:
    return sum(8 + len(word) for word in words)


@given(st.lists(st.binary(max_size=100), max_size=40), st.integers(0, 30), st.binary(max_size=30))
def test_as_many_texts_as_there_are_are_passed_over(words: list[bytes], repeat: int, rest: bytes) -> None:
    words *= repeat
    data = b"before" + b"".join(map(text, words)) + rest
    assert pass_strings(reader(data), 6, len(words)) == 6 + length_of(words)


@pytest.mark.parametrize("length", [0, 1, 7, 63, 64, 65, 255, 256, 5000])
def test_texts_of_every_length_are_passed_over(length: int) -> None:
    words = [b"\0" * length] * 1500
    data = b"".join(map(text, words)) + text(b"next")
    assert pass_strings(reader(data), 0, 1500) == length_of(words)


class Counting(io.BytesIO):
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_a_vocabulary_is_read_once_and_tensors_never() -> None:
    words = [f"word {number}".encode() for number in range(150_000)]
    vocabulary = array(b"tokenizer.ggml.tokens", 8, len(words), b"".join(map(text, words)))
    data = made(info(shape=(1 << 18,)), keys=(vocabulary,), data=1 << 20)
    stream = Counting(data)
    found = read(Reader(stream, len(data)), Notes())
    assert found.vocabulary == 150_000
    assert stream.count < 1.2 * len(vocabulary)


@given(st.data())
def test_no_change_of_a_header_is_anything_but_facts_or_malformed(data: st.DataObject) -> None:
    changed = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(SAMPLE) - 1))] = data.draw(st.integers(0, 255))
    try:
        header: Any = read_header(reader(bytes(changed)))
    except MalformedError:
        return
    assert header.data >= 24


SAMPLE = made(info(), info(b"v", (32,), 8, 32), keys=(key(b"general.architecture", b"x"), *SHARD), data=0)
