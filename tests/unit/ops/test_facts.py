import os
import shutil
from pathlib import Path

import pytest

from airpack.errors import IncompatibleError, InputError, NotFoundError
from airpack.formats.facts import HfConfigFacts, OnnxFacts
from airpack.ops.facts import find_facts

MODELS = Path(__file__).resolve().parents[2] / "models"


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
