import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from tests.elves import elf

from airpack.errors import IncompatibleError, InputError, NotFoundError
from airpack.facts import registries
from airpack.formats.facts import HfConfigFacts, OnnxFacts
from airpack.ops.facts import find_facts

MODELS = Path(__file__).resolve().parents[2] / "models"
SCHEMAS = Path(__file__).resolve().parents[3] / "manifests" / "schemas"
LIBRARY = elf(soname="liba.so", needed=["libc.so.6"], wants={"malloc": ("libc.so.6", "GLIBC_2.28")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and its external weights, and a config."""
    path = tmp_path / "m"
    (path / "sub").mkdir(parents=True)
    for name in ("tiny_ext.onnx", "tiny_ext.data"):
        shutil.copy(MODELS / name, path / "sub" / name)
    shutil.copy(MODELS / "config.json", path)
    return path


def test_every_file_of_a_folder_is_looked_at_in_order(folder: Path) -> None:
    found = find_facts(folder)
    assert [file.path for file in found.facts.files] == ["config.json", "sub/tiny_ext.data", "sub/tiny_ext.onnx"]
    assert [type(file.says) for file in found.facts.files] == [HfConfigFacts, type(None), OnnxFacts]
    assert found.problems == ()
    found.check()
    assert found.document()["ok"]


def test_a_single_file_is_not_asked_for_what_lies_beside_it(folder: Path) -> None:
    (folder / "sub/tiny_ext.data").unlink()
    assert find_facts(folder / "sub/tiny_ext.onnx").problems == ()


def test_a_folder_that_is_not_whole_is_refused_with_all_that_was_found(folder: Path) -> None:
    (folder / "sub/tiny_ext.data").write_bytes(b"short")
    found = find_facts(folder)
    with pytest.raises(IncompatibleError, match=r"sub/tiny_ext.onnx: needs 3244 bytes of 'tiny_ext.data'") as refused:
        found.check()
    assert refused.value.exit_code == 12
    assert refused.value.document == found.document()
    assert found.document()["problems"] == [
        {"path": "sub/tiny_ext.onnx", "reason": "needs 3244 bytes of 'tiny_ext.data', which has 5", "at": None}
    ]


def test_several_problems_are_counted(folder: Path) -> None:
    (folder / "a.onnx").write_bytes(b"text")
    (folder / "b.gguf").write_bytes(b"text")
    with pytest.raises(IncompatibleError, match=r"a.onnx: its name says onnx, its bytes say text, and 1 more"):
        find_facts(folder).check()


def test_a_link_in_a_folder_is_a_problem_and_is_not_followed(folder: Path) -> None:
    (folder / "link.onnx").symlink_to(MODELS / "tiny_ext.onnx")
    (folder / "elsewhere").symlink_to(MODELS, target_is_directory=True)
    os.mkfifo(folder / "pipe")
    found = find_facts(folder)
    reasons = {item.path: item.reason for item in found.problems}
    assert reasons == dict.fromkeys(("link.onnx", "elsewhere", "pipe"), "a link or a device, which is never packed")


def test_what_is_asked_about_may_itself_be_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    found = find_facts(link)
    assert found.path == link
    assert len(found.facts.files) == 3


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        find_facts(tmp_path / "none")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        find_facts(Path("/dev/null"))


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert find_facts(tmp_path).facts.files == ()


# --- with a runtime ---------------------------------------------------------------------------------------------------


def faults(document: dict[str, Any]) -> list[str]:
    """Return what the schema of the report says against a document."""
    schemas = [json.loads((SCHEMAS / f"{name}.schema.json").read_text()) for name in ("facts", "runtime-facts")]
    known: Registry[Any] = Registry().with_resources((each["$id"], Resource.from_contents(each)) for each in schemas)
    report = json.loads((SCHEMAS / "facts-report.schema.json").read_text())
    return [error.message for error in Draft202012Validator(report, registry=known).iter_errors(document)]


def test_a_model_is_no_runtime(folder: Path) -> None:
    found = find_facts(folder)
    assert found.runtime is None
    assert found.document()["runtime"] is None
    assert faults(found.document()) == []


def test_a_folder_with_native_code_is_a_runtime_too(folder: Path) -> None:
    (folder / "liba.so").write_bytes(LIBRARY)
    found = find_facts(folder)
    assert found.runtime is not None
    assert found.runtime.files == len(found.facts.files) == 4
    (native,) = found.runtime.native
    assert [(need.library, need.version) for need in native.versions] == [("libc.so.6", "GLIBC_2.28")]
    assert [type(file.says) for file in found.facts.files if file.says] == [HfConfigFacts, OnnxFacts]
    assert found.document()["runtime"] == found.runtime.to_dict()
    assert found.problems == ()
    assert faults(found.document()) == []


def test_one_native_file_is_a_runtime(tmp_path: Path) -> None:
    (tmp_path / "liba.so").write_bytes(LIBRARY)
    found = find_facts(tmp_path / "liba.so")
    assert found.runtime is not None
    assert [native.soname for native in found.runtime.native] == ["liba.so"]


@pytest.mark.parametrize("path", ["demo-1.0.dist-info/METADATA", registries.VLLM_REGISTRY])
def test_what_is_a_runtime_need_not_be_native(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"Name: demo\nVersion: 1.0\n\n")
    assert find_facts(tmp_path).runtime is not None


def test_what_a_runtime_lacks_is_a_problem_of_the_whole(folder: Path) -> None:
    (folder / "liba.so").write_bytes(LIBRARY[:100])
    found = find_facts(folder)
    assert [problem.path for problem in found.problems] == ["liba.so"]
    assert faults(found.document()) == []
    with pytest.raises(IncompatibleError, match=r"liba.so: "):
        found.check()


def test_a_link_beside_native_code_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "liba.so.1").write_bytes(LIBRARY)
    (tmp_path / "liba.so").symlink_to("liba.so.1")
    (problem,) = find_facts(tmp_path).problems
    assert (problem.path, problem.reason) == ("liba.so", "a link or a device, which is never packed")


def test_a_wheel_that_is_none_is_a_problem_and_the_rest_is_shown(tmp_path: Path) -> None:
    (tmp_path / "demo-1.0-py3-none-any.whl").write_bytes(b"PK no wheel")
    for path, name in ((tmp_path, "."), (tmp_path / "demo-1.0-py3-none-any.whl", "demo-1.0-py3-none-any.whl")):
        found = find_facts(path)
        assert (found.runtime, len(found.facts.files)) == (None, 1)
        assert [(problem.path, "demo-1.0" in problem.reason) for problem in found.unread] == [(name, True)]
        assert faults(found.document()) == []
        with pytest.raises(IncompatibleError, match=r"demo-1\.0"):
            found.check()
