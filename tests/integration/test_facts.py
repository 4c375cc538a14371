"""The command `facts`: what people and scripts see of a model file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert set(document) == {"ok", "path", "files", "problems"}
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
