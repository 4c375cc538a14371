"""Verdicts on releases: the packed runtime answers, and what it says is judged here.

The runtime is a stand-in of the same calls; the real one is run by the integration story. NumPy is the installed one,
copied into the release, because a probe never sees the installed one itself.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airpack.errors import IsolationError, PolicyError, StorageError
from airpack.formats import canonical
from airpack.formats.probe import Probe
from airpack.ops.probes import ProbeResult, isolation, run_probe
from airpack.ops.probes import run as run_module

RUNTIME = """
import json, os, signal, sys, time
import numpy

__version__ = "0.1-stand-in"


class SessionOptions:
    pass


class Node:
    def __init__(self, name, shape):
        self.name, self.shape = name, shape


class InferenceSession:
    def __init__(self, path, options, providers):
        with open(path) as stream:
            self.model = json.load(stream)
        assert options.intra_op_num_threads >= 1
        self.providers = self.model.get("providers", providers)
        for word in self.model.get("do", []):
            getattr(self, word)()

    def get_providers(self):
        return self.providers

    def get_inputs(self):
        return [Node(self.model.get("input", "x"), [self.model.get("batch", "n"), 3])]

    def get_outputs(self):
        return [Node("y", ["n", 2])]

    def run(self, names, feeds):
        assert names == ["y"]
        x = feeds["x"]
        if self.model.get("batch") == 1:
            assert len(x) == 1
        return [x @ numpy.array(self.model["weights"], "f4")]

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang(self):
        time.sleep(1000)

    def noise(self):
        print("to standard output")
        os.system("echo from a child")

    def steer(self):
        sys.exit("bad \\x1b[2J\\u202e thing")

    def flood(self):
        while True:
            for descriptor in range(3, 8):
                try:
                    os.write(descriptor, b"x" * 65536)
                except OSError:
                    pass

    def garbage(self):
        self.say(b"[]")

    def lie(self):
        self.say(json.dumps({**TRUE, "correct": 9}).encode())

    def extra(self):
        self.say(json.dumps({**TRUE, "more": 1}).encode())

    def say(self, line):
        for descriptor in range(3, 8):
            try:
                os.write(descriptor, line + b"\\n")
            except OSError:
                pass
        os._exit(0)


TRUE = {"schema": "airpack.probe-result/1", "runtime_version": "1", "cases": 8, "correct": 8,
        "load_ms": 1, "first_ms": 1, "p50_ms": 1, "p95_ms": 1, "runs": 1, "good": 8, "seconds": 1}
"""

WEIGHTS = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
PROBE = Probe(kind="onnxruntime", golden="golden.npz", min_goodput=1.0, timeout=30.0)


@pytest.fixture(scope="module", autouse=True)
def _short() -> Any:
    """Count answers for a tenth of a second: these tests judge verdicts, not speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_GOODPUT", 0.1)
        yield


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime folder with the stand-in and a copy of the installed NumPy."""
    folder = tmp_path_factory.mktemp("runtime") / "stand-in"
    installed = Path(np.__file__).parent
    for name in ("numpy", "numpy.libs"):
        if (installed.parent / name).is_dir():
            ignored = shutil.ignore_patterns("tests", "__pycache__", "*.pyi", "*.a")
            shutil.copytree(installed.parent / name, folder / name, ignore=ignored)
    (folder / "onnxruntime.py").write_text(RUNTIME)
    return folder


@pytest.fixture
def generation(site_packages: Path, tmp_path: Path) -> Path:
    """A release of one model and that runtime."""
    folder = tmp_path / "generation"
    shutil.copytree(site_packages, folder / "runtime" / "stand-in", copy_function=os.link)
    (folder / "model" / "tiny").mkdir(parents=True)
    _write_model(folder)
    return folder


def _write_model(generation: Path, name: str = "tiny/model.onnx", **values: Any) -> None:
    path = generation / "model" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"weights": WEIGHTS, **values}))


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return _write_golden(tmp_path / "golden.npz")


def _write_golden(path: Path, wrong: int = 0, changes: dict[str, Any] | None = None) -> Path:
    x = np.arange(24, dtype="f4").reshape(8, 3)
    y = x @ np.array(WEIGHTS, "f4")
    y[:wrong] += [5, 0]
    np.savez(path, **({"input/x": x, "expected/y": y} | (changes or {})))
    return path


@pytest.fixture
def ask(generation: Path, golden: Path, tmp_path: Path) -> Callable[..., ProbeResult]:
    """Run a probe isolated, or skip and say why this machine does not isolate."""
    if not isolation.isolation_available():
        pytest.skip(isolation.isolation_problem())

    def asker(probe: Probe = PROBE, **options: Any) -> ProbeResult:
        given = {"golden": golden, "memory": None, "allow_unisolated": False} | options
        result = run_probe(probe, generation=generation, scratch=tmp_path, **given)
        assert canonical.parse(canonical.emit(result.to_dict()), what="result")["ok"] == result.ok
        return result

    return asker


def test_a_right_release_passes(ask: Callable[..., ProbeResult]) -> None:
    result = ask()
    assert result.ok, result
    assert (result.reason, result.isolation, result.cases, result.correct) == ("passed", "namespaces", 8, 1.0)
    assert result.runtime_version == "0.1-stand-in"
    assert result.goodput is not None
    assert result.goodput > 1
    assert result.p50_ms is not None
    assert result.p95_ms is not None
    assert result.p50_ms <= result.p95_ms
    assert result.peak_memory > 1 << 20
    assert (result.exit_code, result.signal) == (0, "")


def test_noise_of_the_runtime_is_no_result(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, do=["noise"])
    result = ask()
    assert result.ok, result
    assert set(result.output) == {"to standard output", "from a child"}


def test_a_model_of_single_cases_is_asked_one_by_one(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, batch=1)
    result = ask()
    assert result.ok, result
    assert result.cases == 8


def test_wrong_answers_fail_by_their_share(ask: Callable[..., ProbeResult], tmp_path: Path) -> None:
    golden = _write_golden(tmp_path / "other.npz", wrong=2)
    result = ask(golden=golden)
    assert (result.ok, result.reason, result.correct) == (False, "wrong", 0.75)
    assert result.detail == "6 of 8 golden cases were correct; needed is a share of 1"
    assert ask(Probe(kind="onnxruntime", golden="g", min_correct=0.75), golden=golden).ok


def test_tolerance_is_held(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, weights=[[1.0, 0.0], [0.0, 1.0], [0.5, 0.501]])
    assert ask().reason == "wrong"
    assert ask(Probe(kind="onnxruntime", golden="g", rtol=0.01)).ok


def test_argmax_compares_classes(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, weights=[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    assert ask().reason == "wrong"
    assert ask(Probe(kind="onnxruntime", golden="g", compare="argmax")).ok
    _write_model(generation, weights=[[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    assert ask(Probe(kind="onnxruntime", golden="g", compare="argmax")).reason == "wrong"


def test_too_few_right_answers_per_second_fail(ask: Callable[..., ProbeResult]) -> None:
    result = ask(Probe(kind="onnxruntime", golden="g", min_goodput=1e12))
    assert (result.ok, result.reason, result.correct) == (False, "slow", 1.0)


@pytest.mark.parametrize(
    ("model", "reason", "said"),
    [
        ({"do": ["crash"]}, "signal", "SIGSEGV"),
        ({"do": ["garbage"]}, "garbage", "not a table"),
        ({"do": ["lie"]}, "garbage", "'correct' must be from 0 to 8"),
        ({"do": ["extra"]}, "garbage", "unknown key 'more'"),
        ({"do": ["flood"]}, "flood", "more than"),
        ({"do": ["steer"]}, "exit", "bad ?[2J? thing"),
        ({"input": "z"}, "exit", "the model's inputs are ['z']; golden has ['x']"),
        ({"providers": ["CUDAExecutionProvider"]}, "exit", "active providers are ['CUDAExecutionProvider']"),
        ({"weights": [[1.0], [1.0], [1.0]]}, "exit", "has shape (8, 1); expected (8, 2)"),
    ],
)
def test_other_ends_are_told_apart(
    ask: Callable[..., ProbeResult], generation: Path, model: dict[str, Any], reason: str, said: str
) -> None:
    _write_model(generation, **model)
    result = ask()
    assert (result.ok, result.reason) == (False, reason), result
    assert said in result.detail
    assert result.correct is None


def test_a_hang_is_a_failed_probe(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, do=["hang"])
    result = ask(Probe(kind="onnxruntime", golden="g", timeout=1.0))
    assert (result.reason, result.signal, result.exit_code) == ("timeout", "SIGKILL", None)


def test_only_the_packed_runtime_is_found(ask: Callable[..., ProbeResult], generation: Path) -> None:
    shutil.rmtree(generation / "runtime")
    result = ask()
    assert result.reason == "exit"
    assert "No module named 'numpy'" in result.detail


def test_objects_in_golden_arrays_are_not_unpickled(ask: Callable[..., ProbeResult], tmp_path: Path) -> None:
    golden = _write_golden(tmp_path / "other.npz", changes={"input/x": np.array([{}] * 8, dtype=object)})
    result = ask(golden=golden)
    assert result.reason == "exit"
    assert "allow_pickle=False" in result.detail


def test_the_probed_code_cannot_change_the_golden_file(
    ask: Callable[..., ProbeResult], generation: Path, golden: Path
) -> None:
    before = golden.read_bytes()
    runtime = generation / "runtime/stand-in/onnxruntime.py"
    attack = (
        "\nimport os\n"
        "for call in (lambda: open('/proc/self/fd/0', 'r+b', 0).write(b'x'), lambda: os.pwrite(0, b'x', 0),\n"
        "             lambda: os.truncate('/proc/self/fd/0', 0)):\n"
        "    try:\n"
        "        call()\n"
        "        print('changed')\n"
        "    except OSError:\n"
        "        print('kept')\n"
    )
    runtime.unlink()
    runtime.write_text(RUNTIME + attack)
    result = ask()
    assert result.ok, result
    assert result.output == ("kept", "kept", "kept")
    assert golden.read_bytes() == before


def test_the_model_has_to_be_clear(ask: Callable[..., ProbeResult], generation: Path) -> None:
    _write_model(generation, "tiny/other.onnx", weights=[[0.0, 0.0]] * 3)
    result = ask()
    assert (result.ok, result.reason, result.isolation) == (False, "model", "not started")
    assert "tiny/model.onnx, tiny/other.onnx" in result.detail
    assert ask(Probe(kind="onnxruntime", golden="g", model="tiny/model.onnx")).ok
    assert (
        ask(Probe(kind="onnxruntime", golden="g", model="tiny/model.onnx"), model="tiny/other.onnx").reason == "wrong"
    )
    assert ask(model="tiny/none.onnx").reason == "model"


def test_golden_arrays_have_to_be_there(
    ask: Callable[..., ProbeResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(golden=None).reason == "golden"
    assert ask(golden=tmp_path / "none.npz").reason == "golden"
    (tmp_path / "link.npz").symlink_to("golden.npz")
    assert ask(golden=tmp_path / "link.npz").reason == "golden"
    monkeypatch.setattr(run_module, "LARGEST_GOLDEN", 10)
    assert ask().reason == "golden"


@pytest.mark.parametrize(
    ("script", "reason", "detail"),
    [
        ('#!/bin/sh\necho "$1"; cat model/tiny/model.onnx >/dev/null\n', "passed", "it ended with status 0"),
        ("#!/bin/sh\necho broken >&2; exit 3\n", "exit", "it ended with status 3: broken"),
        ("#!/none/such\n", "refused", "runtime/tools/check could not be started: No such file or directory"),
    ],
)
def test_a_command_passes_with_status_0(
    ask: Callable[..., ProbeResult], generation: Path, script: str, reason: str, detail: str
) -> None:
    tool = generation / "runtime/tools/check"
    tool.parent.mkdir()
    tool.write_text(script)
    tool.chmod(0o555)
    result = ask(Probe(kind="command", command=("runtime/tools/check", "hello")), golden=None)
    assert (result.reason, result.detail, result.isolation) == (reason, detail, "namespaces")
    assert result.ok == (reason == "passed")
    if result.ok:
        assert result.output == ("hello",)


def test_where_nothing_isolates_policy_decides(
    generation: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> isolation.Mode:
        raise IsolationError("no", reason="unshare: Operation not permitted")

    monkeypatch.setattr(run_module, "isolated_mode", none)
    with pytest.raises(PolicyError, match="Operation not permitted") as caught:
        run_probe(PROBE, generation=generation, golden=golden, scratch=tmp_path, memory=None, allow_unisolated=False)
    assert "allow_unisolated = true in SITE/policy.toml" in caught.value.hint
    result = run_probe(
        PROBE, generation=generation, golden=golden, scratch=tmp_path, memory=None, allow_unisolated=True
    )
    assert (result.ok, result.isolation) == (True, "unavailable"), result


def test_a_launcher_that_cannot_be_started_is_no_verdict(
    generation: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "isolated_mode", lambda: "none")
    monkeypatch.setattr(isolation, "interpreter", lambda: str(tmp_path / "none"))
    with pytest.raises(StorageError, match="cannot start"):
        run_probe(PROBE, generation=generation, golden=golden, scratch=tmp_path, memory=None, allow_unisolated=True)


def test_this_process_loads_no_runtime_for_it() -> None:
    code = "import sys, airpack.ops.probes; print({'numpy', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
