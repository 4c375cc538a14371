"""Runs a model on golden arrays with the runtime *of the release*, and says how it went. A program of its own.

    python -I -S -B -c SOURCE CONFIG < golden.npz        CONFIG: one JSON object, written by run.py

Only the standard library and the folders in `runtimes` can be imported: never this machine's NumPy or onnxruntime. The
result is one JSON line on the standard output that the program was started with; whatever else prints goes to standard
error. The counts are made in the same process that runs the code under test, so they are its own word: they catch a
release that does not work here, not one that means to deceive. Nobody's golden inputs find that, the operator's
included: the same code answers them.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from typing import Any, Final

PROVIDER: Final = "CPUExecutionProvider"
LATENCIES: Final = 100_000  # runs whose time is kept


class WrongError(Exception):
    """The model cannot be asked, or does not answer in the expected form."""


def main(config: dict[str, Any]) -> None:
    """Load, answer all cases, compare, then answer for a while and count."""
    result_pipe = os.dup(1)
    os.dup2(2, 1)
    sys.path[:0] = config["runtimes"]
    # By name, because this machine must not need either of them.
    numpy, runtime = (importlib.import_module(name) for name in ("numpy", "onnxruntime"))
    golden = numpy.load(sys.stdin.buffer, allow_pickle=False)
    arrays = {name: golden[name] for name in golden.files}
    feeds = {name.removeprefix("input/"): value for name, value in arrays.items() if name.startswith("input/")}
    expected = {name.removeprefix("expected/"): value for name, value in arrays.items() if name.startswith("expected/")}
    cases = len(next(iter(feeds.values())))

    began = time.perf_counter()
    session = open_session(runtime, config)
    loaded = time.perf_counter()
    model = Model(numpy, session, feeds, sorted(expected))
    answers = model.run()
    answered = time.perf_counter()
    correct = count_correct(numpy, answers, expected, config)
    runs, good, seconds, latencies = measure(numpy, model, expected, config)
    result = {
        "schema": "airpack.probe-result/1",
        "runtime_version": str(runtime.__version__),
        "cases": cases,
        "correct": correct,
        "load_ms": round((loaded - began) * 1e3, 3),
        "first_ms": round((answered - loaded) * 1e3, 3),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 3),
        "p95_ms": round(latencies[len(latencies) * 95 // 100] * 1e3, 3),
        "runs": runs,
        "good": good,
        "seconds": round(seconds, 6),
    }
    os.write(result_pipe, json.dumps(result).encode() + b"\n")


def open_session(runtime: Any, config: dict[str, Any]) -> Any:
    """Return the model opened on the one provider that a probe asks for."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = config["threads"]  # its default counts processors that this process may not use
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(config["model"], options, providers=[PROVIDER])
    active = list(session.get_providers())
    if active != [PROVIDER]:
        raise WrongError(f"active providers are {active}; expected {[PROVIDER]}")
    return session


class Model:
    """A session and the golden inputs: all cases at once, or one by one where the model takes one at a time."""

    def __init__(self, numpy: Any, session: Any, feeds: dict[str, Any], wanted: list[str]) -> None:
        inputs = {item.name: item.shape for item in session.get_inputs()}
        outputs = [item.name for item in session.get_outputs()]
        if set(inputs) != set(feeds):
            raise WrongError(f"the model's inputs are {sorted(inputs)}; golden has {sorted(feeds)}")
        if not set(wanted) <= set(outputs):
            raise WrongError(f"the model's outputs are {sorted(outputs)}; golden expects {wanted}")
        self._numpy = numpy
        self._session = session
        self._wanted = wanted
        if any(shape and shape[0] == 1 for shape in inputs.values()):
            cases = range(len(next(iter(feeds.values()))))
            self._batches = [{name: value[case : case + 1] for name, value in feeds.items()} for case in cases]
        else:
            self._batches = [feeds]

    def run(self) -> dict[str, Any]:
        """Answer all cases and return the outputs by name."""
        parts = [self._session.run(self._wanted, batch) for batch in self._batches]
        if len(parts) == 1:
            return dict(zip(self._wanted, parts[0], strict=True))
        columns = zip(*parts, strict=True)
        return {name: self._numpy.concatenate(column) for name, column in zip(self._wanted, columns, strict=True)}


def count_correct(numpy: Any, answers: dict[str, Any], expected: dict[str, Any], config: dict[str, Any]) -> int:
    """Return how many cases are answered correctly in every output."""
    correct = True
    for name, wanted in expected.items():
        found = answers[name]
        if found.shape != wanted.shape:
            raise WrongError(f"output {name} has shape {found.shape}; expected {wanted.shape}")
        if config["compare"] == "argmax":
            if wanted.ndim < 2:  # noqa: PLR2004 - cases and classes
                raise WrongError(f"output {name} has shape {found.shape}; argmax needs an axis beside the cases")
            same = found.argmax(axis=-1) == wanted.argmax(axis=-1)
        else:
            same = numpy.isclose(found, wanted, rtol=config["rtol"], atol=config["atol"])
        correct = correct & same.reshape(len(wanted), -1).all(axis=1)
    return int(numpy.sum(correct))


def measure(
    numpy: Any, model: Model, expected: dict[str, Any], config: dict[str, Any]
) -> tuple[int, int, float, list[float]]:
    """Answer for `config["seconds"]`, and return runs, correct answers, seconds spent answering and sorted latencies.

    Comparing is not answering: its time does not count against the model.
    """
    latencies: list[float] = []
    good, spent = 0, 0.0
    end = time.perf_counter() + config["seconds"]
    while len(latencies) < LATENCIES:
        began = time.perf_counter()
        answers = model.run()
        latencies.append(time.perf_counter() - began)
        spent += latencies[-1]
        good += count_correct(numpy, answers, expected, config)
        if time.perf_counter() >= end:
            break
    return len(latencies), good, spent, sorted(latencies)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(json.loads(sys.argv[1]))
