"""Whether a release fits together, and whether it fits a host: pure rules over the signed compat document.

    refuse(judge(compat, host))      # returns, or raises IncompatibleError with one line per finding

Each rule gives a `Finding` with one of three verdicts. `unknown` refuses like `fail`, but says that it is our reader
that could not decide, never that the bytes are bad. Findings stand in a fixed order.

| rule | passes when |
|---|---|
| `format.safe` | a model file's format cannot run code when loaded |
| `wheel.platform` | a wheel has a tag for its runtime's platform |
| `probe.model` | the probe's model is there, and is one |
| `probe.runtime` | the probe's kind is served by a runtime of the release |
| `platform.os`, `platform.architecture` | the host is what a runtime was built for |
| `python.tags` | the host's Python takes at least one tag of a wheel |
| `memory` | the host has the memory that the release asserts to need |
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from airpack.errors import IncompatibleError
from airpack.formats.compat import INERT, OPAQUE, UNSAFE, CompatDoc, CompatFile, CompatRuntime, CompatWheel

Verdict = Literal["pass", "fail", "unknown"]

_SYSTEMS: Final = {
    "linux": ("manylinux", "musllinux", "linux"),
    "windows": ("win",),
    "darwin": ("macosx",),
    "android": ("android",),
    "ios": ("ios",),
}
_ARCHITECTURES: Final = {
    "amd64": ("x86_64", "amd64", "universal2"),
    "arm64": ("aarch64", "arm64", "arm64_v8a", "universal2"),
    "386": ("i686", "i386", "win32"),
    "arm": ("armv7l", "armv6l", "armeabi_v7a"),
    "ppc64le": ("ppc64le",),
    "s390x": ("s390x",),
    "riscv64": ("riscv64",),
    "loong64": ("loongarch64",),
}
_SHOWN_TAGS: Final = 4  # tags named in a message


@dataclass(frozen=True, slots=True)
class Host:
    """What the rules ask of a host.

    Attributes:
        os: In OCI's (Go's) names, such as `linux`; empty when it could not be found out.
        architecture: Likewise, such as `amd64`.
        python_tags: Every compatibility tag that the host's Python takes; empty when there is no Python.
        memory: Bytes that a workload can have; 0 when it could not be found out.
    """

    os: str
    architecture: str
    python_tags: frozenset[str]
    memory: int


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one rule for one thing.

    Attributes:
        rule: The rule's name.
        verdict: `pass`, `fail` or `unknown`.
        grade: What it rests on: `static` (bytes), `asserted` (a person's word), `table` (a list airpack ships).
        detail: One line: what was needed, what was found, and of what.
        hint: What would help; empty when it passes.
    """

    rule: str
    verdict: Verdict
    grade: str
    detail: str
    hint: str = ""


def judge_release(compat: CompatDoc) -> tuple[Finding, ...]:
    """Judge a release by itself, as build does: no host is known yet.

    Args:
        compat: The compat document.
    """
    return tuple(_release_rules(compat))


def judge(compat: CompatDoc, host: Host) -> tuple[Finding, ...]:
    """Judge a release by itself and against a host, as import, activation and rollback do.

    Args:
        compat: The compat document.
        host: The machine that is to run it.
    """
    return (*_release_rules(compat), *_host_rules(compat, host))


def refuse(findings: Sequence[Finding]) -> None:
    """Return when every finding passes.

    Raises:
        IncompatibleError: Any is `fail` or `unknown`; the message has one line for each of those, the context all.
    """
    against = [finding for finding in findings if finding.verdict != "pass"]
    if not against:
        return
    lines = [f"{finding.verdict} {finding.rule}: {finding.detail}" for finding in against]
    hints = list(dict.fromkeys(finding.hint for finding in against if finding.hint))
    raise IncompatibleError(
        "the release does not fit:\n  " + "\n  ".join(lines),
        hint="; ".join(hints),
        findings=[asdict(finding) for finding in findings],
    )


def _release_rules(compat: CompatDoc) -> Iterator[Finding]:
    for file in compat.files:
        yield _format_safe(file)
    for runtime in compat.runtimes:
        for wheel in runtime.wheels:
            yield _wheel_platform(wheel, runtime)
    yield from _probe_rules(compat)


def _host_rules(compat: CompatDoc, host: Host) -> Iterator[Finding]:
    for runtime in compat.runtimes:
        if runtime.platform:
            yield from _platform(runtime, host)
        for wheel in runtime.wheels:
            yield _python_tags(wheel, host)
    if compat.memory:
        yield _memory(compat.memory, host)


def _format_safe(file: CompatFile) -> Finding:
    rule = "format.safe"
    if file.format in UNSAFE:
        return Finding(
            rule,
            "fail",
            "static",
            f"{file.path} is {file.format}: {UNSAFE[file.format]}",
            "convert it to safetensors, ONNX or GGUF",
        )
    if file.format in OPAQUE:
        return Finding(
            rule,
            "unknown",
            "static",
            f"{file.path} is {file.format}: {OPAQUE[file.format]}",
            "pack what is in it, unpacked and uncompressed",
        )
    if file.format not in INERT:
        return Finding(
            rule, "unknown", "static", f"{file.path} is {file.format}, which is not known here", "use a newer airpack"
        )
    return Finding(rule, "pass", "static", f"{file.path} is {file.format}")


def _wheel_platform(wheel: CompatWheel, runtime: CompatRuntime) -> Finding:
    rule, name = "wheel.platform", f"{wheel.name} {wheel.version} in runtime/{runtime.name}"
    system, _, architecture = runtime.platform.partition("/")
    platforms = [tag.rpartition("-")[2] for tag in wheel.tags]
    if "any" in platforms:
        return Finding(rule, "pass", "static", f"{name} runs anywhere")
    if system not in _SYSTEMS or architecture not in _ARCHITECTURES:
        return Finding(rule, "unknown", "table", f"{name}: which tags fit {runtime.platform} is not known here")
    fits = any(
        platform.startswith(_SYSTEMS[system]) and platform.endswith(_ARCHITECTURES[architecture])
        for platform in platforms
    )
    if fits:
        return Finding(rule, "pass", "table", f"{name} has a tag for {runtime.platform}")
    return Finding(
        rule,
        "fail",
        "table",
        f"{name} is for {_few(platforms)}; its runtime's platform is {runtime.platform}",
        f"fetch its wheel for {runtime.platform}, or correct 'platform'",
    )


def _probe_rules(compat: CompatDoc) -> Iterator[Finding]:
    if compat.probe is None or compat.probe.kind != "onnxruntime":
        return
    yield _probe_model(compat, compat.probe.model)
    yield _probe_runtime(compat)


def _probe_model(compat: CompatDoc, wanted: str) -> Finding:
    rule = "probe.model"
    models = [file.path for file in compat.files if file.format == "onnx"]
    path = f"model/{wanted}"
    if wanted and path in models:
        return Finding(rule, "pass", "static", f"{path} is onnx")
    if wanted:
        return Finding(
            rule,
            "fail",
            "static",
            f"the probe runs {path}, which is no ONNX model of the release",
            _models_hint(models),
        )
    if len(models) == 1:
        return Finding(rule, "pass", "static", f"{models[0]} is the only ONNX model")
    return Finding(
        rule, "fail", "static", f"the probe names no model, and {len(models)} are ONNX models", _models_hint(models)
    )


def _models_hint(models: Sequence[str]) -> str:
    paths = [path.removeprefix("model/") for path in models]
    return f"set 'model' in [probe] to one of: {_few(paths)}" if paths else "pack an ONNX model, or use another probe"


def _probe_runtime(compat: CompatDoc) -> Finding:
    rule = "probe.runtime"
    for runtime in compat.runtimes:
        for wheel in runtime.wheels:
            if wheel.name == "onnxruntime" or wheel.name.startswith("onnxruntime-"):
                return Finding(rule, "pass", "static", f"runtime/{runtime.name} holds {wheel.name} {wheel.version}")
    return Finding(
        rule,
        "fail",
        "static",
        "the probe runs onnxruntime, and no runtime of the release holds its wheel",
        "add a [[runtime]] of kind wheels with onnxruntime and what it needs",
    )


def _platform(runtime: CompatRuntime, host: Host) -> Iterator[Finding]:
    system, _, architecture = runtime.platform.partition("/")
    for rule, needed, found in (
        ("platform.os", system, host.os),
        ("platform.architecture", architecture, host.architecture),
    ):
        detail = f"runtime/{runtime.name} needs {needed}, this host is {found or 'not known'}"
        verdict: Verdict = "unknown" if not found else "pass" if found == needed else "fail"
        hint = "" if verdict == "pass" else "build a release for this host's platform"
        yield Finding(rule, verdict, "static", detail, hint)


def _python_tags(wheel: CompatWheel, host: Host) -> Finding:
    rule, name = "python.tags", f"{wheel.name} {wheel.version}"
    taken = [tag for tag in wheel.tags if tag in host.python_tags]
    if taken:
        return Finding(rule, "pass", "static", f"{name} has the tag {taken[0]}")
    found = "this host's Python takes none of them" if host.python_tags else "this host has no Python"
    return Finding(
        rule,
        "fail",
        "static",
        f"{name} needs a Python that takes {_few(wheel.tags)}; {found}",
        "build a release with wheels for this host's Python, or install the Python they are for",
    )


def _memory(needed: int, host: Host) -> Finding:
    rule = "memory"
    if not host.memory:
        return Finding(rule, "unknown", "asserted", f"{needed} bytes are needed, this host's memory is not known")
    detail = f"{needed} bytes are needed, this host has {host.memory}"
    if host.memory >= needed:
        return Finding(rule, "pass", "asserted", detail)
    return Finding(rule, "fail", "asserted", detail, "use a host, or a cgroup limit, with more memory")


def _few(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = len(names) - _SHOWN_TAGS
    return ", ".join(names[:_SHOWN_TAGS]) + (f" and {more} more" if more > 0 else "")
