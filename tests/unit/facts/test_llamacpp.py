"""What llama.cpp and ggml libraries read, from runs of names and a table of types; None for other builds."""

import io
import struct

import pytest
from tests.elves import DATA, elf

from airpack.facts.elf import Elf
from airpack.facts.llamacpp import read_build, read_ggml, read_llama
from airpack.facts.names import find_names
from airpack.facts.reader import Reader

NAMES = [b"clip", b"llama", b"llama4", b"falcon", b"gpt2", b"modern-bert", b"qwen2moe", b"gemma3", b"rwkv6qwen2"]
PRE = [b"llama-bpe", b"deepseek-llm", b"gpt-2", b"jina-es", b"jina-de", b"phi-2", b"smollm", b"viking", b"poro-chat"]
LIBLLAMA = (
    b"token_embd\0unknown\0"
    + b"\0".join(NAMES)
    + b"\0(unknown)\0general.type\0general.architecture\0%s.block_count\0"
    + b"unknown tokenizer: '%s'\0default\0"
    + b"\0".join(PRE)
    + b"\0%s: empty token\0"
)


def made(data: bytes, name: str = "libllama.so") -> Elf:
    return Elf(Reader(io.BytesIO(data), len(data), what=name))


def test_architectures_and_pre_tokenizers_are_the_runs_of_their_names() -> None:
    facts = read_llama(made(elf(data=LIBLLAMA)))
    assert facts is not None
    assert facts.architectures == tuple(sorted(name.decode() for name in NAMES))
    assert facts.pre_tokenizers == tuple(sorted(name.decode() for name in PRE))
    assert elf(data=LIBLLAMA)[facts.at :].startswith(b"llama\0")


def test_a_name_that_is_the_tail_of_another_is_asked_for() -> None:
    library = made(elf(data=LIBLLAMA))
    assert set(find_names(library, ["bert", "qwen2", "gemma4"])) == {"bert", "qwen2"}


def test_the_run_may_begin_with_llama() -> None:
    facts = read_llama(made(elf(data=LIBLLAMA.replace(b"unknown\0clip\0", b"unknown\0"))))
    assert facts is not None
    assert facts.architectures is not None
    assert "unknown" not in facts.architectures
    assert len(facts.architectures) == len(NAMES) - 1


def test_other_libraries_are_none() -> None:
    assert read_llama(made(elf(data=LIBLLAMA.replace(b"(unknown)", b"[unknown]")))) is None
    assert read_llama(made(elf())) is None


def test_lists_that_lie_otherwise_are_unknown() -> None:
    facts = read_llama(made(elf(data=LIBLLAMA.replace(b"\0gpt2\0", b"\0\0\0\0gpt2\0"))))
    assert facts is not None
    assert facts.architectures is None  # the run is too short, and does not hold `llama`
    facts = read_llama(made(elf(data=LIBLLAMA.replace(b"\0default\0", b"\0defaults\0"))))
    assert facts is not None
    assert facts.pre_tokenizers is None
    facts = read_llama(made(elf(data=LIBLLAMA + LIBLLAMA)))
    assert facts is not None
    assert facts.architectures is None  # which of the two?


# --- tensor types -----------------------------------------------------------------------------------------------------

TYPES = ["f32", "f16", "q4_0", "q4_1", "DEPRECATED", "", "q5_0", "q8_0", "iq2_xxs", "TYPE_X REMOVED, use Y", "mxfp4"]
BLOCKS = {"f32": (1, 4), "f16": (1, 2), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q8_0": (32, 34)}
BLOCKS |= {"iq2_xxs": (256, 66), "mxfp4": (32, 17)}


def ggml(stride: int = 56, types: list[str] = TYPES, *, after: bytes = b"NONE\0") -> bytes:
    """Return a libggml-base: a table of types, then one of other names."""
    texts, table, pointers = b"", b"", {}
    start = 2048
    for number, name in enumerate([*types, after.rstrip(b"\0").decode()]):
        if name:
            pointers[DATA + start + number * stride] = DATA + len(texts)
            texts += name.encode() + b"\0"
        elements, size = BLOCKS.get(name, (0, 0))
        table += struct.pack("<QQQQ", 0, elements, 0, size) + bytes(stride - 32)
    assert len(texts) < start
    data = texts + bytes(start - len(texts)) + table
    return elf(
        data=data, pointers=pointers, soname="libggml-base.so", defines={"ggml_type_name": "", "ggml_version": ""}
    )


@pytest.mark.parametrize("stride", [32, 56, 64, 72])
def test_tensor_types_are_those_of_the_table(stride: int) -> None:
    facts = read_ggml(made(ggml(stride)))
    assert facts is not None
    assert facts.types is not None
    assert {each.number: (each.name, each.elements, each.size) for each in facts.types} == {
        number: (name, *BLOCKS[name]) for number, name in enumerate(TYPES) if name in BLOCKS
    }
    assert [each.at for each in facts.types][:2] == [DATA + 2048, DATA + 2048 + stride]


def test_the_table_ends_where_another_begins() -> None:
    facts = read_ggml(made(ggml(after=b"NONE\0")))
    assert facts is not None
    assert facts.types is not None
    assert max(each.number for each in facts.types) == len(TYPES) - 1


def test_without_the_table_types_are_unknown_and_without_its_function_it_is_no_ggml() -> None:
    facts = read_ggml(made(elf(defines={"ggml_type_name": ""})))
    assert facts is not None
    assert facts.types is None
    assert read_ggml(made(elf(data=b"f32\0f16\0q4_0\0"))) is None


def test_a_table_in_another_order_is_unknown() -> None:
    facts = read_ggml(made(ggml(types=["f32", "q4_0", "f16", "q8_0"])))
    assert facts is not None
    assert facts.types is None


# --- versions ---------------------------------------------------------------------------------------------------------


def returning(code: bytes, text: bytes) -> bytes:
    """Return a libggml-base whose `ggml_version` is `code`, with `text` 64 bytes behind its start."""
    data = code.ljust(64, b"\xcc") + text + b"\0"
    return elf(
        data=data,
        defines={"ggml_type_name": "", "ggml_version": ""},
        places={"ggml_version": (DATA, len(code))},
    )


@pytest.mark.parametrize("begin", [b"", b"\xf3\x0f\x1e\xfa"])
def test_a_function_that_returns_a_text_names_the_version(begin: bytes) -> None:
    code = begin + b"\x48\x8d\x05" + struct.pack("<i", 64 - len(begin) - 7) + b"\xc3"
    facts = read_ggml(made(returning(code, b"0.25.1")))
    assert facts is not None
    assert facts.version == "0.25.1"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (b"\x48\x8d\x05" + struct.pack("<i", 57) + b"\x90", b"0.25.1"),  # it does something else
        (b"\x48\x8d\x05" + struct.pack("<i", 1 << 30) + b"\xc3", b"0.25.1"),  # it leads out of the file
        (b"\x48\x8d\x05" + struct.pack("<i", 57) + b"\xc3", b"two words"),
        (b"\xc3", b"0.25.1"),
    ],
)
def test_any_other_function_names_none(code: bytes, text: bytes) -> None:
    facts = read_ggml(made(returning(code, text)))
    assert facts is not None
    assert facts.version == ""


def test_a_build_is_named_by_its_number_and_commit() -> None:
    data = struct.pack("<IIQ", 5590, 0, 0) + b"ea8d904\0"
    places = {"LLAMA_BUILD_NUMBER": (DATA, 4), "LLAMA_COMMIT": (DATA + 8, 8)}
    file = elf(data=data, defines=dict.fromkeys(places, ""), places=places, pointers={DATA + 8: DATA + 16})
    build = read_build(made(file))
    assert build is not None
    assert (build.number, build.commit, build.at) == (5590, "ea8d904", DATA)
    assert read_build(made(elf())) is None
