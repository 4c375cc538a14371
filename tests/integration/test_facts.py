"""The command `facts`: what people and scripts see of a model file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.elves import elf, fatbin

MODELS = Path(__file__).resolve().parents[1] / "models"


def test_facts_are_shown_with_the_bytes_where_they_stand(airpack: Callable[..., Any]) -> None:
    out = airpack("facts", MODELS / "tiny_customop.onnx").out
    assert out.splitlines()[0] == "tiny_customop.onnx  onnx  IR 10  3.4 KiB"
    assert "operators.com.acme:AcmeGelu  1  @73-99" in out


def test_code_is_shown_with_what_it_names(airpack: Callable[..., Any]) -> None:
    out = airpack("facts", MODELS / "tiny_state_dict.pt").out
    assert "code: pickle in data.pkl: collections.OrderedDict, torch.FloatStorage" in out
    assert "unsafe: a Torch archive holds a pickle" in out


def test_a_folder_is_one_document(airpack: Callable[..., Any]) -> None:
    document = airpack("facts", MODELS, "--json").json
    assert set(document) == {"schema", "ok", "path", "files", "problems", "runtime"}
    assert (document["ok"], document["path"], document["problems"]) == (True, str(MODELS), [])
    files = {file["path"]: file for file in document["files"]}
    assert files["tiny_xnnpack.pte"]["pte"]["methods"]["forward"]["delegates"] == {"XnnpackBackend": 1}
    assert files["tiny_xnnpack.pte"]["places"]["identifier"] == [4, 8]


def test_what_is_damaged_is_unknown_and_refused_with_all_that_was_found(
    airpack: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").write_bytes((MODELS / "tiny_ir8_op17.onnx").read_bytes()[:-50])
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    done = airpack("facts", tmp_path, expect=12)
    assert "config.json  json" in done.out
    assert "PROBLEM: its name says onnx, its bytes say data: a field ends at byte 3612, its message at 3568" in done.out
    assert done.err.startswith("airpack: error: a.onnx: its name says onnx")
    document = airpack("facts", tmp_path, "--json", expect=12).json
    assert document["error"]["code"] == "incompatible"
    assert not document["ok"]
    (problem,) = document["problems"]
    assert (problem["path"], problem["at"]) == ("a.onnx", 19)
    assert [file["path"] for file in document["files"]] == ["a.onnx", "config.json"]


def test_what_a_file_says_cannot_drive_a_terminal(airpack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "\\u001b[2Jx", "auto_map": {"\\u0007": "a.B"}}')
    out = airpack("facts", tmp_path).out
    assert "\x1b" not in out
    assert "\\x1b[2Jx" in out


def test_native_code_is_shown_as_the_runtime_that_it_is_together(airpack: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "liba.so").write_bytes(
        elf(
            needed=["libc.so.6", "libb.so"],
            wants={"malloc": ("libc.so.6", "GLIBC_2.28"), "b": ("", ""), "PyList_New": ("", "")},
            sections={".nv_fatbin": fatbin((2, 90, 0, 0, 0))},
        )
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/libb.so").write_bytes(elf(soname="libb.so", defines={"c": ""}))
    lines = [" ".join(line.split()) for line in airpack("facts", tmp_path).out.splitlines()]
    assert lines[lines.index("native 2 files for amd64") - 1].startswith("runtime 2 files, ")
    assert "from host libc.so.6 GLIBC_2.28 on amd64, needed by 1" in lines
    assert "out of path liba.so needs libb.so, which is at other/libb.so" in lines
    assert "cuda liba.so: cubin 90" in lines
    assert any(line.startswith("unresolved liba.so: 1 symbols, to be had from Python") for line in lines)
    document = airpack("facts", tmp_path, "--json").json
    assert document["runtime"]["schema"] == "airpack.runtime-facts/1"


def test_projects_are_shown_with_what_they_lack(airpack: Callable[..., Any], tmp_path: Path) -> None:
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: demo\nVersion: 1.0\nRequires-Dist: numpy>=2\n\n")
    (info / "WHEEL").write_text("Tag: py3-none-any\n")
    lines = [" ".join(line.split()) for line in airpack("facts", tmp_path).out.splitlines()]
    assert "project demo 1.0" in lines
    assert "pin demo needs numpy>=2; none is here" in lines


def test_what_engines_read_is_shown(airpack: Callable[..., Any], tmp_path: Path) -> None:
    corpus = Path(__file__).resolve().parents[1] / "fuzz/corpus"
    for name in ("onnxruntime", "llama", "ggml"):
        (tmp_path / f"lib{name}.so").write_bytes((corpus / f"elf/seed-{name}").read_bytes())
    for name, path in (
        ("vllm", "vllm/model_executor/models/registry.py"),
        ("transformers", "transformers/models/auto/configuration_auto.py"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes((corpus / f"registry/seed-{name}").read_bytes())
    lines = [" ".join(line.split()) for line in airpack("facts", tmp_path).out.splitlines()]
    assert "onnxruntime IR 10, opsets ai.onnx 21" in lines
    assert "llama.cpp 9 architectures, 8 pre-tokenizers" in lines
    assert "ggml unknown tensor types" in lines
    assert any(line.startswith("build 5590") for line in lines)
    assert "vllm no version: 1 architectures" in lines
    assert "transformers no version: 2 model types" in lines


def test_what_contradicts_or_is_missing_in_a_runtime_is_shown(airpack: Callable[..., Any], tmp_path: Path) -> None:
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: demo\nVersion: 1.0\n\n")
    (info / "WHEEL").write_text("Tag: cp311-abi3-manylinux_2_17_x86_64\n")
    (info / "RECORD").write_text("demo/a.abi3.so,,\n")
    (tmp_path / "demo").mkdir()
    wants = {"malloc": ("libc.so.6", "GLIBC_2.28"), "b": ("libb.so", "B_2")}
    (tmp_path / "demo/a.abi3.so").write_bytes(elf(needed=["libb.so", "libc.so.6"], runpath="$ORIGIN", wants=wants))
    (tmp_path / "demo/libb.so").write_bytes(elf(soname="libb.so", provides=["B_1"], defines={"b": "B_1"}))
    lines = [" ".join(line.split()) for line in airpack("facts", tmp_path).out.splitlines()]
    assert "missing demo/a.abi3.so needs B_2 of demo/libb.so" in lines
    assert "contradiction manylinux_2_17_x86_64, but demo/a.abi3.so needs GLIBC_2.28" in lines


def test_only_so_many_rows_of_one_kind_are_shown(airpack: Callable[..., Any], tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"lib{number}.so").write_bytes(elf(needed=[f"libx{number}.so"]))
    lines = [" ".join(line.split()) for line in airpack("facts", tmp_path).out.splitlines()]
    rows = [line for line in lines if line.startswith("from host ")]
    assert (len(rows), rows[-1]) == (41, "from host 10 more")
