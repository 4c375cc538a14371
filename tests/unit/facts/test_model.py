"""Facts of whole files and folders: the real ones in tests/models, renamed ones, and files that belong together."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from airpack.facts.model import fit_together, read_facts
from airpack.formats.facts import (
    CoremlFacts,
    Count,
    Facts,
    GgufFacts,
    HfConfigFacts,
    HfIndexFacts,
    ModelFacts,
    OnnxExternal,
    OnnxFacts,
    PickleFacts,
    PteFacts,
    PteMethod,
    SafetensorsFacts,
    TensorrtFacts,
    TfliteFacts,
    TorchFacts,
)

MODELS = Path(__file__).resolve().parents[2] / "models"


def facts(data: bytes, path: str = "file") -> Facts:
    return read_facts(path, io.BytesIO(data), len(data))


def model(name: str) -> Facts:
    return facts((MODELS / name).read_bytes(), name)


def said(found: Facts, kind: type) -> Any:
    assert isinstance(found.says, kind), found
    return found.says


# What is known of each file, in tests/models/README.md.
ONNX = {
    "tiny_ir8_op17.onnx": (8, {"ai.onnx": 17}, {"MatMul", "Add", "Div", "Erf", "Mul"}),
    "tiny_ir10_op21.onnx": (10, {"ai.onnx": 21}, {"MatMul", "Add", "Gelu"}),
    "tiny_ir13_op25.onnx": (13, {"ai.onnx": 25}, {"MatMul", "Add", "Gelu"}),
    "tiny_customop.onnx": (10, {"ai.onnx": 21, "com.acme": 1}, {"MatMul", "Add", "com.acme:AcmeGelu"}),
    "tiny_ext.onnx": (8, {"ai.onnx": 17}, {"MatMul", "Add", "Div", "Erf", "Mul"}),
}


@pytest.mark.parametrize(("name", "expected"), ONNX.items(), ids=ONNX)
def test_onnx_files_need_what_runtimes_refuse_them_for(name: str, expected: Any) -> None:
    found = model(name)
    says = said(found, OnnxFacts)
    ir, opsets, operators = expected
    assert (says.ir, says.opsets) == (ir, opsets)
    assert set(says.operators) == {word if ":" in word else f"ai.onnx:{word}" for word in operators}
    assert (found.problems, found.code, found.unsafe) == ((), (), "")


def test_an_unknown_operator_is_pointed_at() -> None:
    data = (MODELS / "tiny_customop.onnx").read_bytes()
    start, stop = facts(data).places["operators.com.acme:AcmeGelu"]
    assert b"AcmeGelu" in data[start:stop]
    assert stop - start < 40


def test_external_weights_are_named_with_the_length_that_they_must_have() -> None:
    assert said(model("tiny_ext.onnx"), OnnxFacts).external == {"tiny_ext.data": OnnxExternal(7, 3244)}
    assert (MODELS / "tiny_ext.data").stat().st_size == 3244


def test_executorch_programs_name_kernels_delegates_and_memory() -> None:
    portable = said(model("tiny_portable.pte"), PteFacts)
    kernels = ("aten::addmm.out", "aten::gelu.out", "aten::permute_copy.out")
    assert portable.methods == {"forward": PteMethod(kernels, {}, (2816,))}
    xnnpack = said(model("tiny_xnnpack.pte"), PteFacts)
    assert xnnpack.methods == {"forward": PteMethod((), {"XnnpackBackend": 1}, (448,))}
    assert len(xnnpack.named_data) == 4
    assert [said(model(f"tiny_{name}.pte"), PteFacts).identifier for name in ("portable", "bad_et13")] == [
        "ET12",
        "ET13",
    ]


def test_tflite_and_core_ml_headers_say_their_versions() -> None:
    assert said(model("tiny_add.tflite"), TfliteFacts) == TfliteFacts(
        3, operators={"ADD": (1,)}, subgraphs=1, tensors={"FLOAT32": 3}
    )
    assert said(model("tiny.mlmodel"), CoremlFacts) == CoremlFacts(4, "neuralNetwork")
    package = model("tiny.mlpackage/Data/com.apple.CoreML/model.mlmodel")
    assert said(package, CoremlFacts) == CoremlFacts(8, "mlProgram", opsets=("CoreML7",))


@pytest.mark.parametrize(("name", "dtype", "size"), [("BF16", "BF16", 16), ("F8_E4M3", "F8_E4M3", 8)])
def test_safetensors_files_say_their_types(name: str, dtype: str, size: int) -> None:
    says = said(model(f"tiny_{name}.safetensors"), SafetensorsFacts)
    assert (says.dtypes, says.parameters) == ({dtype: Count(1, size)}, 8)


def test_a_type_that_old_readers_refuse_is_named() -> None:
    assert said(model("tiny_F8_E8M0.safetensors"), SafetensorsFacts).dtypes == {"F8_E8M0": Count(1, 8)}


def test_a_state_dict_names_what_its_pickle_imports() -> None:
    found = model("tiny_state_dict.pt")
    names = ("collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2")
    says = said(found, TorchFacts)
    assert (says.kind, says.version, says.byte_order, says.storages) == ("pickled", 3, "little", Count(4, 3232))
    assert says.globals == names
    assert found.unsafe
    (code,) = found.code
    assert (code.kind, code.where, code.names) == ("pickle", "data.pkl", names)


def test_torchscript_is_known_by_its_parts() -> None:
    found = model("tiny.ts.pt")
    says = said(found, TorchFacts)
    assert (says.kind, says.version) == ("torchscript", 10)
    assert "__torch__.Tiny" in says.globals
    assert [code.kind for code in found.code] == ["pickle", "pickle", "pickle", "torchscript"]


def test_a_config_says_what_transformers_looks_up() -> None:
    assert said(model("config.json"), HfConfigFacts) == HfConfigFacts(
        architectures=("TinyForTest",), model_type="tiny_mlp", dtype="float32", settings={"hidden_size": 32}
    )


PLAN = b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100)


def test_a_plan_says_which_version_wrote_it() -> None:
    found = facts(PLAN)
    assert (found.says, found.places) == (TensorrtFacts("10.3.0.26"), {"version": (24, 28)})


# --- whatever the name ------------------------------------------------------------------------------------------------


class Danger:
    """Calls something when it is unpickled; nothing here unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("never",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_under_another_name_is_one_and_shows_its_globals(protocol: int) -> None:
    found = facts(pickle.dumps([Danger()], protocol), "model.safetensors")
    name = "__builtin__.print" if protocol < 3 else "builtins.print"
    assert (found.format, said(found, PickleFacts).globals) == ("pickle", (name,))
    assert found.unsafe
    assert [(code.kind, code.names) for code in found.code] == [("pickle", (name,))]


def test_a_torch_file_under_another_name_is_one() -> None:
    assert model("tiny_state_dict.pt") == facts((MODELS / "tiny_state_dict.pt").read_bytes(), "tiny_state_dict.pt")
    found = facts((MODELS / "tiny_state_dict.pt").read_bytes(), "model.onnx")
    assert (found.format, bool(found.unsafe), len(found.code)) == ("torch-zip", True, 1)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
        ("m.ONNX", b"<html>not found</html>", "its name says onnx, its bytes say text"),
        ("m.gguf", bytes(100), "its name says gguf, its bytes say data: GGUF version 0; versions 2 and 3 are read"),
        ("m.safetensors", b"", "its name says safetensors, its bytes say empty"),
    ],
)
def test_what_is_named_as_something_that_it_is_not_is_a_problem(name: str, data: bytes, reason: str) -> None:
    (problem,) = facts(data, name).problems
    assert reason in problem.reason
    assert facts(data, "notes.bin").problems == () or "LFS" in reason


TEMPLATE = "{%- for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_in_any_text_is_code_and_shown() -> None:
    found = facts(TEMPLATE.encode(), "README.txt")
    (code,) = found.code
    assert (found.format, code.kind, code.text, code.place) == ("text", "jinja", TEMPLATE, (0, len(TEMPLATE)))
    assert facts(b"percent {% is no statement, nor is {{ this }}").code == ()


@pytest.mark.parametrize("size", [10, 70_000, 300_000])
def test_a_template_is_found_wherever_in_the_text_it_stands(size: int) -> None:
    assert [code.kind for code in facts(b"x\n" * (size // 2) + TEMPLATE.encode()).code] == ["jinja"]


@pytest.mark.parametrize("rest", ["", ', "limit": [0, Infinity]', ', "x": NaN', ', "deep": ' + "[" * 40 + "]" * 40])
def test_code_of_others_is_found_in_json_that_only_their_parsers_take(rest: str) -> None:
    data = '{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}' + rest + "}"
    found = facts(data.encode(), "notes.txt")
    assert [(code.kind, code.names) for code in found.code] == [("remote-code", ("modeling_x.X",))]
    assert said(found, HfConfigFacts).remote_code == {"AutoModel": "modeling_x.X"}


@pytest.mark.parametrize("before", ["", " " * 70_000, "\n" * 70_000 + "{" + " " * 70_000])
def test_code_of_others_is_found_behind_any_white_space(before: str) -> None:
    text = '"auto_map": {"AutoModel": "modeling_x.X"}}'
    data = (before if "{" in before else before + "{") + text
    assert json.loads(data)
    assert [code.kind for code in facts(data.encode()).code] == ["remote-code"]


def test_a_template_that_begins_like_json_is_one() -> None:
    found = facts(b'{"role": 1}{% for m in messages %}{% endfor %}')
    assert [code.kind for code in found.code] == ["jinja"]
    assert [code.kind for code in facts(b'{"x": "{% for m in y %}"}').code] == ["jinja"]


def test_what_nobody_reads_has_no_facts_but_its_format() -> None:
    for data, name in ((b"", "empty"), (bytes(range(256)), "data"), (b"\x7fELF" + bytes(60), "elf")):
        found = facts(data)
        assert (found.format, found.says, found.reader, found.problems) == (name, None, "", ())


def test_a_file_that_is_cut_off_has_a_problem_and_a_place() -> None:
    for path in sorted(MODELS.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix in {".onnx", ".pte", ".safetensors", ".pt"} and len(data) > 1000:
            found = facts(data[: len(data) - 40], path.name)
            assert found.problems, path.name


def test_no_file_is_anything_else_by_one_changed_byte_without_an_answer() -> None:
    """Whatever is changed, facts come back, and are a document that is read again."""
    for name in ("tiny_portable.pte", "tiny_add.tflite", "tiny.mlmodel", "tiny_state_dict.pt", "tiny_ext.onnx"):
        data = bytearray((MODELS / name).read_bytes())
        for at in range(0, min(len(data), 700), 3):
            before, data[at] = data[at], data[at] ^ 0xFF
            found = ModelFacts((facts(bytes(data)),))
            assert ModelFacts.parse(found.emit()) == found
            data[at] = before


def test_facts_that_no_document_can_carry_are_left_out() -> None:
    names = b"".join(b"cm\n%s%d\n0" % (b"n" * 900, number) for number in range(2000))
    found = facts(b"\x80\x02" + names + b"N.")
    assert (found.says, found.code, bool(found.unsafe)) == (None, (), True)
    assert "no real file says so much" in found.problems[-1].reason


# --- files together ---------------------------------------------------------------------------------------------------


def file(path: str, says: Any = None, size: int = 100) -> Facts:
    return Facts(path, size, "data", says=says)


def reasons(*files: Facts) -> list[str]:
    return [f"{item.path}: {item.reason}" for item in fit_together(files)]


def onnx(location: str) -> Facts:
    return file("m/model.onnx", OnnxFacts(8, external={location: OnnxExternal(1, 100)}))


def test_external_weights_that_are_there_fit() -> None:
    assert reasons(onnx("w.data"), file("m/w.data")) == []
    assert reasons(onnx("sub/../w.data"), file("m/w.data")) == []


def test_external_weights_that_are_missing_or_short_do_not() -> None:
    assert reasons(onnx("w.data")) == ["m/model.onnx: needs 'w.data', which is not there"]
    assert reasons(onnx("w.data"), file("w.data")) == ["m/model.onnx: needs 'w.data', which is not there"]
    assert reasons(onnx("w.data"), file("m/w.data", size=99)) == [
        "m/model.onnx: needs 100 bytes of 'w.data', which has 99"
    ]


@pytest.mark.parametrize("location", ["../w.data", "/etc/passwd", "..\\w", "a/../../w.data", "sub/../../../x"])
def test_external_weights_outside_the_folder_are_refused(location: str) -> None:
    (reason,) = reasons(onnx(location), file("w.data"))
    assert reason.endswith("which lies outside its folder")


def test_an_index_fits_when_each_shard_holds_what_it_says() -> None:
    index = file("model.safetensors.index.json", HfIndexFacts(3, {"a.safetensors": 1, "b.safetensors": 2}))
    shards = [file(f"{name}.safetensors", SafetensorsFacts(10, tensors=count)) for name, count in (("a", 1), ("b", 2))]
    assert reasons(index, *shards) == []
    assert reasons(index, shards[0]) == ["model.safetensors.index.json: needs 'b.safetensors', which is not there"]
    other = file("b.safetensors", SafetensorsFacts(10, tensors=7))
    assert reasons(index, shards[0], other) == [
        "model.safetensors.index.json: needs 2 tensors of 'b.safetensors', which has 7"
    ]


def shard(number: int, count: int = 3, *, name: str = "", tensors: int = 2, total: int | None = 6) -> Facts:
    says = GgufFacts(3, tensors, shard=number - 1, shards=count, shard_tensors=total)
    return file(name or f"m-{number:05}-of-{count:05}.gguf", says)


def test_shards_of_gguf_fit_when_all_are_there() -> None:
    assert reasons(*(shard(number) for number in (1, 2, 3))) == []


def test_a_missing_shard_is_named() -> None:
    assert reasons(shard(1), shard(3)) == ["m: 1 of 3 shards are missing: the first is 2"]


def test_shards_that_hold_other_tensors_than_they_say_do_not_fit() -> None:
    assert reasons(*(shard(number, total=7) for number in (1, 2, 3))) == [
        "m: its shards hold 6 tensors together; they say otherwise"
    ]


def test_a_shard_under_another_number_does_not_fit() -> None:
    found = reasons(shard(1), shard(2), shard(3, name="m-00002-of-00003.gguf"))
    assert found[0].startswith("m-00002-of-00003.gguf: its name is not")


# --- all real files ---------------------------------------------------------------------------------------------------


def test_no_real_file_is_a_problem() -> None:
    for path in MODELS.iterdir():
        if path.is_file():
            found = facts(path.read_bytes(), path.name)
            assert not found.problems, found
            if path.suffix in {".gguf", ".onnx", ".pte", ".safetensors", ".tflite", ".mlmodel", ".pt"}:
                assert found.says is not None, found


def test_an_archive_that_is_not_torch_s_shows_what_is_code_in_it() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "x" * 100)
        archive.writestr("deep/b.pickle", pickle.dumps(Danger()))
        archive.writestr("lib/x.so.1", b"\x7fELF")
    found = facts(buffer.getvalue())
    assert found.says is None
    assert {(code.kind, code.names) for code in found.code} == {
        ("pickle", ("builtins.print",)),
        ("native", ("x.so.1",)),
    }


def test_json_of_other_kinds_has_no_facts() -> None:
    for value in ({}, {"a": 1}, {"model": {"type": "x"}}):
        assert facts(json.dumps(value).encode()).says is None
    assert facts(b"[1, 2]").says is None


def test_a_header_alone_is_no_gguf_file() -> None:
    found = facts(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + bytes(30))
    assert found.format == "gguf"
    assert found.says is None
    assert found.problems
