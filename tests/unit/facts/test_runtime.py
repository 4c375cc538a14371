"""A runtime is read as a whole: native files and projects together, in a folder or in wheels, damage and all."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.elves import elf, fatbin
from tests.fuzz.mutate import record

from airpack.errors import InputError, IntegrityError, NotFoundError, StorageError
from airpack.facts import runtime
from airpack.facts.runtime import read_runtime, runtime_facts
from airpack.formats import canonical
from airpack.formats.facts import Problem
from airpack.formats.runtimefacts import SCHEMA, RuntimeFacts
from airpack.types import Source

ONNXRUNTIME = elf(
    data=b"\0ZN4onnx19RegisterOpSetSchemaINS_16OpSet_Onnx_ver21EEEvibEUlONS_8OpSchemaEE_\0Add\0Constant\0Conv\0Identity\0"
    b"MatMul\0Reshape\0CPUExecutionProvider\0_ARRAY_API\0numpy._core\0",
    needed=["libc.so.6"],
    wants={"malloc": ("libc.so.6", "GLIBC_2.28"), "PyList_New": ("", "")},
    defines={"PyInit_onnxruntime_pybind11_state": ""},
)
FILES = {
    "onnxruntime/__init__.py": b"\x7fELF is no code in a file that Python reads",
    "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so": ONNXRUNTIME,
    "onnxruntime/capi/libonnxruntime_providers_cuda.so": elf(
        needed=["libcudart.so.13"], sections={".nv_fatbin": fatbin((2, 90, 0, 0, 0))}
    ),
}
METADATA = b"Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.20.1\nRequires-Dist: numpy>=1.21\n"
TAG = "cp311-cp311-manylinux_2_17_x86_64"


def folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def wheel(root: Path, files: Mapping[str, bytes] = FILES, metadata: bytes = METADATA, tag: str = TAG) -> Path:
    made = {
        **files,
        "onnxruntime-1.20.1.dist-info/METADATA": metadata,
        "onnxruntime-1.20.1.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n",
        "onnxruntime-1.20.1.dist-info/RECORD": b"",
    }
    record(made)
    root.mkdir(exist_ok=True)
    path = root / f"onnxruntime-1.20.1-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in made.items():
            archive.writestr(name, data)
    return path


def read(files: Mapping[str, bytes]) -> RuntimeFacts:
    return read_runtime([Source(path, len(data), partial(io.BytesIO, data)) for path, data in files.items()])


def unpacked(path: Path, root: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(root)
    return root


def check(facts: RuntimeFacts) -> None:
    """Hold what is the same of a wheel and of the folder it unpacks to."""
    (library,) = facts.onnxruntime
    assert (library.opsets[0].version, library.ir, library.names) == (21, 10, True)
    assert [(each.path.rpartition("/")[2], each.code[0].architecture) for each in facts.cuda] == [
        ("libonnxruntime_providers_cuda.so", "90")
    ]
    (project,) = facts.projects
    assert (project.name, project.version, project.glibc) == ("onnxruntime", "1.20.1", "2.28")
    assert project.outside == ("libcudart.so.13",)
    assert [use.major for use in project.numpy] == [2]
    assert facts.closure is not None
    assert [(need.library, need.versions) for need in facts.closure.host] == [
        ("libc.so.6", ("GLIBC_2.28",)),
        ("libcudart.so.13", ()),
    ]
    assert [each.origin for each in facts.closure.unresolved] == ["python"]
    assert [(pin.requirement, pin.found, pin.holds) for pin in facts.pins] == [("numpy>=1.21", "", False)]
    assert facts.problems == ()


def test_a_wheel_is_read_as_what_it_unpacks_to(tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels")
    packed = runtime_facts(path)
    check(packed)
    assert packed == runtime_facts(tmp_path / "wheels")
    plain = runtime_facts(unpacked(path, tmp_path / "plain"))
    check(plain)
    assert packed.native == plain.native
    # The name of a wheel says more than its WHEEL file, which is all that is left once it is unpacked.
    assert [each.found for each in packed.projects[0].contradictions] == ["needs GLIBC_2.28"]
    assert plain.projects[0].contradictions == ()
    assert (packed.projects[0].filename, plain.projects[0].filename) == (path.name, "")


def test_one_native_file_is_a_runtime(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(ONNXRUNTIME)
    facts = runtime_facts(tmp_path / "lib.so")
    assert [each.path for each in facts.native] == ["lib.so"]
    assert len(facts.onnxruntime) == 1


def test_the_document_is_canonical_and_the_same_every_time(tmp_path: Path) -> None:
    facts = runtime_facts(folder(tmp_path, FILES))
    assert facts.emit() == runtime_facts(tmp_path).emit()
    document = canonical.parse_canonical(facts.emit(), what="facts")
    assert document == facts.to_dict()
    assert document["schema"] == SCHEMA
    assert {"path", "needed", "versions"} <= document["native"][0].keys()


def test_registries_are_read_at_their_place(tmp_path: Path) -> None:
    files = {
        "vllm/model_executor/models/registry.py": b'_TEXT_MODELS = {"LlamaForCausalLM": ("llama", "X")}\n',
        "transformers/models/auto/auto_mappings.py": b'CONFIG_MAPPING_NAMES = {"llama": "LlamaConfig"}\n',
        "vllm-0.33.0.dist-info/METADATA": b"Name: vllm\nVersion: 0.33.0\n",
    }
    facts = runtime_facts(folder(tmp_path, files))
    assert facts.vllm is not None
    assert (facts.vllm.version, facts.vllm.architectures) == ("0.33.0", ("LlamaForCausalLM",))
    assert facts.transformers is not None
    assert (facts.transformers.version, facts.transformers.model_types) == ("", ("llama",))


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_read() -> None:
    facts = read(
        {
            "bad.so": ONNXRUNTIME[:300],
            "good.so": ONNXRUNTIME,
            "vllm/model_executor/models/registry.py": b"_A_MODELS = f()",
        }
    )
    assert [each.path for each in facts.native] == ["good.so"]
    assert {problem.path for problem in facts.problems} == {"bad.so", "vllm/model_executor/models/registry.py"}
    assert all(problem.reason for problem in facts.problems)
    assert facts.vllm is None


def test_a_link_is_a_problem_and_is_not_followed(tmp_path: Path) -> None:
    folder(tmp_path, FILES)
    (tmp_path / "link.so").symlink_to(tmp_path / "onnxruntime/__init__.py")
    os.mkfifo(tmp_path / "pipe.so")
    facts = runtime_facts(tmp_path)
    assert {problem.path for problem in facts.problems} == {"link.so", "pipe.so"}
    assert facts.files == len(FILES)
    check_native = [each.path for each in facts.native]
    assert "link.so" not in check_native


def test_a_wheel_among_other_files_is_a_problem(tmp_path: Path) -> None:
    path = wheel(tmp_path / "mixed")
    (tmp_path / "mixed/README").write_text("words")
    facts = runtime_facts(tmp_path / "mixed")
    assert facts.native == ()
    assert [problem.path for problem in facts.problems] == [path.name]


def test_more_native_files_than_are_opened_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_OPEN", 1)
    facts = read({"a.so": elf(), "b.so": elf()})
    assert [each.path for each in facts.native] == ["a.so"]
    assert facts.problems == (Problem("native code beyond the first 1 files", 0, "b.so"),)


def test_wheels_unpack_to_no_more_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_SPOOL", 100)
    facts = runtime_facts(wheel(tmp_path / "wheels"))
    assert facts.native == ()
    assert "more than 100 bytes" in facts.problems[0].reason


def test_nothing_is_left_of_what_wheels_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    runtime_facts(wheel(tmp_path / "wheels"))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_full_disk_is_a_failure_of_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageError, match="No space left"):
        runtime_facts(wheel(tmp_path / "wheels"))


def test_a_wheel_that_is_not_what_its_record_says_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", metadata=METADATA)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("onnxruntime/capi/libonnxruntime_providers_cuda.so").header_offset
    data[at + 300] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        runtime_facts(path)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        runtime_facts(tmp_path / "absent")
    assert runtime_facts(tmp_path).files == 0


def test_more_files_than_a_release_has_are_refused() -> None:
    with pytest.raises(InputError, match="100001 files"):
        read_runtime([Source("x", 0, io.BytesIO)] * 100_001)


def test_the_files_of_this_python_are_read() -> None:
    """Real extension modules, with what the interpreter gives them."""
    facts = runtime_facts(Path(np.__file__).parent)
    assert facts.closure is not None
    assert facts.closure.missing == ()
    assert {each.origin for each in facts.closure.unresolved} <= {"python", "host", "nowhere", "elsewhere"}
    assert any(need.library == "libc.so.6" and need.versions for need in facts.closure.host)
    assert not facts.problems


def test_the_example_in_the_specification_has_the_fields_of_a_document(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/spec/compat.md").read_text()
    example = json.loads(page.partition("## Runtimes")[2].partition("```json\n")[2].partition("```")[0])
    document = runtime_facts(folder(tmp_path, FILES)).to_dict()
    assert example.keys() == document.keys()
    for name in ("native", "onnxruntime"):
        assert example[name][0].keys() == document[name][0].keys(), name
    assert example["closure"].keys() == document["closure"].keys()
    assert example["closure"]["host"][0].keys() == document["closure"]["host"][0].keys()
