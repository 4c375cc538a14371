"""Runs one probe on one release and judges it.

    result = run_probe(probe, generation=current, golden=current / "probe/golden.npz", scratch=site / "ingest",
                       memory=None, allow_unisolated=False)

What the probed code says is not trusted: it is bounded, parsed strictly, and the verdict is made here from its counts.
This process loads neither a model nor a runtime for it.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from airpack import fsops
from airpack.errors import IntegrityError, IsolationError, NotFoundError
from airpack.facts.host import read_room
from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.formats.probe import LARGEST_GOLDEN, Probe
from airpack.ops.probes.isolation import Job, Outcome, interpreter, isolated_mode, run_job
from airpack.types import Limits

_WORKER: Final = Path(__file__).with_name("onnxruntime_worker.py")
_MEMORY: Final = 4 << 30  # bytes, unless the caller knows better
_GOODPUT: Final = 1.0  # seconds of counting correct answers
_LINES: Final = 20  # lines kept of what the program printed last
_LINE: Final = 300  # characters of each

Reason = Literal[
    "passed", "model", "golden", "timeout", "signal", "exit", "refused", "flood", "garbage", "wrong", "slow"
]
Isolation = Literal["namespaces", "unavailable", "not started"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found. Measurements are None where it did not get that far.

    Attributes:
        ok: Whether the release passed.
        reason: `passed`, or in one word why not.
        detail: The same as one sentence.
        isolation: `namespaces`; `unavailable` where policy allowed to run without; `not started` when nothing ran.
        cases: Golden cases.
        correct: Share of them that was answered correctly, 0 to 1.
        goodput: Correct answers per second of answering.
        load_ms: Milliseconds to open the model.
        first_ms: Milliseconds until the first run was answered.
        p50_ms: Median run, in milliseconds.
        p95_ms: The run that 95 % were faster than, in milliseconds.
        runtime_version: What the packed runtime calls itself.
        peak_memory: Bytes resident at most.
        seconds: From start to end, isolation included.
        exit_code: Exit status; None when a signal ended it.
        signal: Name of the signal that ended it, or empty.
        output: The last lines that the program printed, made printable.
    """

    ok: bool
    reason: Reason
    detail: str
    isolation: Isolation
    cases: int | None = None
    correct: float | None = None
    goodput: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    runtime_version: str = ""
    peak_memory: int = 0
    seconds: float = 0.0
    exit_code: int | None = None
    signal: str = ""
    output: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**dataclasses.asdict(self), "output": list(self.output)}


class _Failed(Exception):  # noqa: N818 - a verdict on its way out, not an error
    """The probe failed for `reason`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def run_probe(
    probe: Probe,
    *,
    generation: Path,
    golden: Path | None,
    scratch: Path,
    memory: int | None,
    allow_unisolated: bool,
    model: str = "",
) -> ProbeResult:
    """Run `probe` on the release in `generation` and return the verdict: a release that fails is a result, no error.

    Args:
        probe: What to do.
        generation: The release's files: `model/NAME/...`, `runtime/NAME/...`.
        golden: File of the golden arrays, at most 256 MiB; None for kind `command`.
        scratch: Existing folder for temporary files.
        memory: Bytes of private memory for each process of the probe; None for what the host has, at most 4 GiB.
        allow_unisolated: Whether policy allows to run it where it cannot be shut off from this machine.
        model: Model file `NAME/file.onnx`, instead of the probe's own or the release's only one.

    Raises:
        IsolationError: It cannot be shut off, and policy does not allow to run it so.
        StorageError: The golden file or the launcher could not be read or started.
    """
    host = read_room()
    limit = memory or min(host.memory, _MEMORY)
    try:
        with contextlib.ExitStack() as stack:
            if probe.kind == "command":
                job = _command(probe, generation, memory=limit, cpus=host.cpus)
            else:
                name = _model(generation, model or probe.model)
                stdin = stack.enter_context(_sealed(golden))
                job = _onnxruntime(probe, generation, name, stdin=stdin, memory=limit, cpus=host.cpus)
            outcome, isolation = _run(job, scratch, allow_unisolated=allow_unisolated)
    except _Failed as failed:
        return ProbeResult(ok=False, reason=failed.reason, detail=failed.detail, isolation="not started")
    return _result(probe, outcome, isolation)


def _run(job: Job, scratch: Path, *, allow_unisolated: bool) -> tuple[Outcome, Isolation]:
    try:
        return run_job(job, mode=isolated_mode(), scratch=scratch), "namespaces"
    except IsolationError as error:
        if not allow_unisolated:
            raise IsolationError(
                f"a probe must be isolated from this machine, which is not possible here: {error.context['reason']}",
                hint="to run probes without isolation, set allow_unisolated = true in SITE/policy.toml",
                reason=error.context["reason"],
            ) from error
    return run_job(job, mode="none", scratch=scratch), "unavailable"


def _command(probe: Probe, generation: Path, *, memory: int, cpus: int) -> Job:
    return Job(
        command=lambda release: (f"{release}/{probe.command[0]}", *probe.command[1:]),
        release=generation,
        memory=memory,
        timeout=probe.timeout,
        cpus=cpus,
        in_release=True,
    )


def _onnxruntime(probe: Probe, generation: Path, model: str, *, stdin: int, memory: int, cpus: int) -> Job:
    folder = generation / "runtime"
    runtimes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    source = _WORKER.read_text("utf-8")

    def command(release: str) -> Sequence[str]:
        config = {
            "runtimes": [f"{release}/runtime/{name}" for name in runtimes],
            "model": f"{release}/model/{model}",
            "compare": probe.compare,
            "rtol": probe.rtol,
            "atol": probe.atol,
            "threads": cpus,
            "seconds": min(_GOODPUT, probe.timeout / 4),
        }
        return (interpreter(), "-I", "-S", "-B", "-c", source, json.dumps(config))

    return Job(
        command=command,
        release=generation,
        memory=memory,
        timeout=probe.timeout,
        cpus=cpus,
        stdin=stdin,
        env={"OMP_NUM_THREADS": str(cpus), "OPENBLAS_NUM_THREADS": str(cpus)},
    )


def _model(generation: Path, name: str) -> str:
    """Return the model file to ask, relative to the generation's `model`."""
    folder = generation / "model"
    if name:
        if not (folder / name).is_file():
            raise _Failed("model", f"the release holds no model file {name}")
        return name
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.onnx"))
    if len(found) != 1:
        some = ": " + ", ".join(found[:5]) if found else ""
        raise _Failed("model", f"the release holds {len(found)} model files *.onnx{some}; the probe names none of them")
    return found[0]


@contextlib.contextmanager
def _sealed(golden: Path | None) -> Iterator[int]:
    """Give a descriptor of a sealed copy of the golden file.

    A copy, because a process of the same user could open the file itself for writing through /proc/self/fd.
    """
    if golden is None:
        raise _Failed("golden", "a probe of kind onnxruntime needs golden arrays; none were given")
    try:
        source = fsops.open_regular(golden)
    except (NotFoundError, IntegrityError) as error:
        raise _Failed("golden", error.message) from error
    descriptor = os.memfd_create("golden", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(source, "rb") as reader, os.fdopen(descriptor, "w+b") as copy:
        if os.fstat(source).st_size > LARGEST_GOLDEN:
            raise _Failed("golden", f"{golden} has more than {LARGEST_GOLDEN} bytes")
        shutil.copyfileobj(reader, copy, 1 << 20)
        copy.flush()
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        copy.seek(0)
        yield descriptor


def _result(probe: Probe, outcome: Outcome, isolation: Isolation) -> ProbeResult:
    """Return the verdict on a program that has ended."""
    numbers: dict[str, Any] = {}
    printed = outcome.stderr
    if probe.kind == "command":
        printed = outcome.stdout + outcome.stderr
    output = _printable(printed)
    try:
        _ended_well(probe, outcome, output)
        if probe.kind == "onnxruntime":
            numbers = _numbers(outcome.stdout)
            _good_enough(probe, numbers)
    except _Failed as failed:
        reason, detail = failed.reason, failed.detail
    else:
        reason, detail = "passed", _praise(numbers)
    return ProbeResult(
        ok=reason == "passed",
        reason=reason,
        detail=detail,
        isolation=isolation,
        peak_memory=outcome.peak_memory,
        seconds=round(outcome.seconds, 3),
        exit_code=outcome.code if outcome.code >= 0 else None,
        signal=_signal(outcome.code),
        output=output,
        **numbers,
    )


def _ended_well(probe: Probe, outcome: Outcome, output: Sequence[str]) -> None:
    last = f": {output[-1]}" if output else ""
    if outcome.refused:
        raise _Failed("refused", f"{' '.join(probe.command[:1])} could not be started: {outcome.refused}")
    if outcome.flooded:
        raise _Failed("flood", f"it printed more than {Limits.PROBE_OUTPUT} bytes")
    if outcome.timed_out:
        raise _Failed("timeout", f"it was not done after {probe.timeout:g} seconds{last}")
    if outcome.code < 0:
        raise _Failed("signal", f"it was ended by {_signal(outcome.code)}{last}")
    if outcome.code > 0:
        raise _Failed("exit", f"it ended with status {outcome.code}{last}")


def _numbers(line: bytes) -> dict[str, Any]:
    """Return the measurements in the worker's result line, as fields of `ProbeResult`."""
    try:
        fields = Fields(canonical.parse(line, what="result", limit=Limits.PROBE_OUTPUT), what="result")
        fields.schema("airpack.probe-result/1")
        cases = fields.integer("cases", low=1, high=1 << 32)
        runs = fields.integer("runs", low=1, high=1 << 32)
        good = fields.integer("good", high=cases * runs)
        numbers = {
            "cases": cases,
            "correct": fields.integer("correct", high=cases) / cases,
            "goodput": round(good / fields.number("seconds", low=1e-6), 3),
            **{name: fields.number(name) for name in ("load_ms", "first_ms", "p50_ms", "p95_ms")},
            "runtime_version": "".join(_printable(fields.text("runtime_version").encode()))[:100],
        }
        fields.done()
    except IntegrityError as error:
        raise _Failed("garbage", f"its result cannot be read: {error.message}") from error
    return numbers


def _good_enough(probe: Probe, numbers: dict[str, Any]) -> None:
    if numbers["correct"] < probe.min_correct:
        right = round(numbers["correct"] * numbers["cases"])
        raise _Failed(
            "wrong",
            f"{right} of {numbers['cases']} golden cases were correct; needed is a share of {probe.min_correct:g}",
        )
    if numbers["goodput"] < probe.min_goodput:
        raise _Failed("slow", f"{numbers['goodput']:,.1f} correct answers per second; needed are {probe.min_goodput:g}")


def _praise(numbers: dict[str, Any]) -> str:
    if not numbers:
        return "it ended with status 0"
    right = round(numbers["correct"] * numbers["cases"])
    return f"{right} of {numbers['cases']} golden cases correct, {numbers['goodput']:,.1f} correct answers per second"


def _signal(code: int) -> str:
    if code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def _printable(data: bytes) -> tuple[str, ...]:
    """Return the last lines of foreign output without anything that could steer a terminal."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()][-_LINES:]
    return tuple("".join(sign if sign.isprintable() else "?" for sign in line[:_LINE]) for line in lines)
