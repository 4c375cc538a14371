import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest
import safetensors.numpy
from tests.fuzz.seeds import CORPUS

from airpack.errors import AirpackError, IncompatibleError, InputError
from airpack.formats import packspec
from airpack.ops.inputs import Inputs, gather
from airpack.types import Digest, Tensor

MODEL = '[release]\nproduct = "encoder"\nversion = "1.0.0"\n[[model]]\nname = "m"\npath = "model"\n'
RUNTIME = '[[runtime]]\nname = "r"\nkind = "{kind}"\npath = "runtime"\nplatform = "linux/amd64"\n'
PROBE = '[probe]\nkind = "onnxruntime"\ngolden = "golden.npz"\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "model/deep").mkdir(parents=True)
    (tmp_path / "model/b.txt").write_bytes(b"card\n")
    (tmp_path / "model/deep/a.txt").write_bytes(b"more words\n")
    return tmp_path


def collect(base: Path, text: str = MODEL) -> Inputs:
    with ExitStack() as stack:
        return gather(packspec.parse(text.encode(), "spec.toml"), base, stack)


def test_a_folder_gives_all_its_files_sorted(base: Path) -> None:
    inputs = collect(base)
    assert [(source.path, source.size, source.executable) for source in inputs.sources] == [
        ("b.txt", 5, False),
        ("deep/a.txt", 11, False),
    ]
    assert inputs.size == 16
    assert inputs.components[0].formats == ("text", "text")
    with inputs.sources[1].open() as stream:
        assert stream.read() == b"more words\n"


def test_a_file_gives_itself(base: Path) -> None:
    inputs = collect(base, MODEL.replace('"model"', '"model/b.txt"'))
    assert [source.path for source in inputs.sources] == ["b.txt"]


def test_files_of_a_runtime_keep_that_they_are_executable_and_web_files_do_not(base: Path) -> None:
    (base / "runtime").mkdir()
    (base / "runtime/run").write_bytes(b"#!/bin/sh\n")
    (base / "runtime/run").chmod(0o755)
    (base / "model/b.txt").chmod(0o755)
    for kind, executable in (("files", True), ("web", False)):
        inputs = collect(base, MODEL + RUNTIME.format(kind=kind))
        assert [source.executable for source in inputs.sources] == [False, False, executable]


def test_files_of_a_runtime_are_solid_and_those_of_a_model_are_not(base: Path) -> None:
    (base / "runtime").mkdir()
    (base / "runtime/run").write_bytes(b"#!/bin/sh\n")
    np.savez(base / "golden.npz", **{"input/x": np.zeros((2, 3)), "expected/y": np.zeros((2, 1))})  # type: ignore[arg-type]
    inputs = collect(base, MODEL + RUNTIME.format(kind="files") + PROBE)
    assert [source.solid for source in inputs.sources] == [False, False, True, False]


def test_files_of_a_wheel_are_solid(base: Path) -> None:
    (base / "runtime").mkdir()
    (base / "runtime/demo-1.0-py3-none-any.whl").write_bytes((CORPUS / "wheel/seed-demo").read_bytes())
    with ExitStack() as stack:
        inputs = gather(packspec.parse((MODEL + RUNTIME.format(kind="wheels")).encode(), "spec.toml"), base, stack)
        assert {source.solid for source in inputs.components[1].sources} == {True}


WEIGHTS = np.arange(6, dtype="<f4")


def test_weights_come_with_the_bounds_of_their_tensors(base: Path) -> None:
    data = safetensors.numpy.save({"w": WEIGHTS})
    (base / "model/deep/m.safetensors").write_bytes(data)
    text, other, weights = collect(base).sources
    assert (text.tensors, other.tensors) == ((), ())
    assert weights.tensors == (Tensor("w", len(data) - 24, len(data), "fp32"),)


def onnx_model(location: str, *, offset: int = 8) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[6], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": "24"}.items():
        tensor.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [], initializer=[tensor])
    made: bytes = onnx.helper.make_model(graph, producer_name="test").SerializeToString()
    return made


def test_external_data_of_an_onnx_model_is_bounded_by_what_the_model_says(base: Path) -> None:
    (base / "model/deep/m.onnx").write_bytes(onnx_model("m.data"))
    (base / "model/deep/again.onnx").write_bytes(onnx_model("./m.data"))
    (base / "model/deep/m.data").write_bytes(bytes(8) + WEIGHTS.tobytes())
    found = {source.path: source.tensors for source in collect(base).sources}
    assert found.pop("deep/m.data") == (Tensor("w", 8, 32, "fp32"),)
    assert set(found.values()) == {()}


@pytest.mark.parametrize("location", ["../m.data", "/m.data", "M.DATA", "deep/m.data"])
def test_external_data_that_is_elsewhere_bounds_nothing(base: Path, location: str) -> None:
    (base / "model/deep/m.onnx").write_bytes(onnx_model(location))
    (base / "model/deep/m.data").write_bytes(bytes(32))
    assert {source.tensors for source in collect(base).sources} == {()}


def test_external_data_that_two_models_see_differently_bounds_nothing(base: Path) -> None:
    (base / "model/a.onnx").write_bytes(onnx_model("m.data"))
    (base / "model/b.onnx").write_bytes(onnx_model("m.data", offset=4))
    (base / "model/m.data").write_bytes(bytes(32))
    assert {source.tensors for source in collect(base).sources} == {()}


def test_golden_arrays_come_last_under_a_name_of_their_own(base: Path) -> None:
    arrays: dict[str, Any] = {"input/x": np.zeros((2, 3)), "expected/y": np.zeros((2, 1))}
    np.savez(base / "golden.npz", **arrays)
    inputs = collect(base, MODEL + PROBE)
    assert inputs.golden is not None
    assert [source.path for source in inputs.sources][-1] == "golden.npz"
    digests = [Digest.of(bytes([number])) for number in range(3)]
    models, runtimes, golden = inputs.parts(digests)
    assert [(file.path, file.digest) for file in models[0].files] == [("b.txt", digests[0]), ("deep/a.txt", digests[1])]
    assert runtimes == []
    assert golden is not None
    assert (golden.path, golden.digest) == ("golden.npz", digests[2])


def test_parts_say_what_the_spec_says(base: Path) -> None:
    (base / "runtime").mkdir()
    (base / "runtime/run").write_bytes(b"x")
    text = MODEL.replace('path = "model"', 'path = "model"\nlicense = "MIT"')
    inputs = collect(base, text + RUNTIME.format(kind="files"))
    models, runtimes, golden = inputs.parts([Digest.of(b"")] * 3)
    assert [(part.name, part.license) for part in models] == [("m", "MIT")]
    assert [(part.name, part.kind, part.wheel, len(part.files)) for part in runtimes] == [("r", "files", None, 1)]
    assert golden is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda base: (base / "model/link").symlink_to("b.txt"), "is not a regular file"),
        (lambda base: (base / "model/link").symlink_to("deep"), "is not a regular file"),
        (lambda base: (base / "model/link").symlink_to("nowhere"), "is not a regular file"),
        (lambda base: os.mkfifo(base / "model/pipe"), "is not a regular file"),
        (lambda base: (base / "model/B.TXT").write_bytes(b""), "are one on a disk that ignores case"),
        (lambda base: (base / "model/a:b").write_bytes(b""), "only printable ASCII"),
        (lambda base: (base / "model/ä").write_bytes(b""), "only printable ASCII"),
        (lambda base: (base / "model/a\udcffb").write_bytes(b""), "only printable ASCII"),
        (lambda base: (base / "model/nul.txt").write_bytes(b""), "device name"),
        (lambda base: (base / "model").rename(base / "other"), "no file or folder"),
        (lambda base: [(base / name).unlink() for name in ("model/b.txt", "model/deep/a.txt")], "holds no files"),
    ],
)
def test_what_cannot_be_packed_is_bad_input(base: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(base)
    with pytest.raises(InputError, match=message):
        collect(base)


@pytest.mark.parametrize("path", ["model/b.txt/below", "model/" + "x" * 300])
def test_a_path_that_cannot_be_one_is_bad_input(base: Path, path: str) -> None:
    with pytest.raises(InputError, match="cannot look at"):
        collect(base, MODEL.replace('"model"', f'"{path}"'))


def test_a_folder_that_cannot_be_read_is_never_skipped(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"cannot read folder .*deep: Permission denied"):
        collect(base)


def test_a_model_that_runs_code_when_loaded_is_refused_by_content(base: Path) -> None:
    (base / "model/weights.onnx").write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.")
    with pytest.raises(IncompatibleError, match=r"weights\.onnx is pickle by its bytes") as caught:
        collect(base)
    assert "safetensors" in caught.value.hint


def test_wheels_come_from_a_folder(base: Path) -> None:
    with pytest.raises(InputError, match="runtime 'r': no folder") as caught:
        collect(base, MODEL + RUNTIME.format(kind="wheels"))
    assert "pip download" in caught.value.hint


def test_missing_golden_arrays_are_named(base: Path) -> None:
    with pytest.raises(AirpackError, match=r"golden\.npz"):
        collect(base, MODEL + PROBE)
