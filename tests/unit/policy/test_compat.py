from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IncompatibleError
from airpack.formats.compat import INERT, OPAQUE, UNSAFE, CompatDoc, CompatFile, CompatRuntime, CompatWheel
from airpack.formats.probe import Probe
from airpack.policy.compat import Finding, Host, judge, judge_release, refuse

NATIVE_TAG = "cp311-cp311-manylinux_2_28_x86_64"
ORT = CompatWheel("onnxruntime", "1.28.0", (NATIVE_TAG,))
PURE = CompatWheel("packaging", "26.3", ("py2-none-any", "py3-none-any"))
RUNTIME = CompatRuntime("ort", "wheels", "linux/amd64", (ORT, PURE))
DOC = CompatDoc(
    product="encoder",
    version="1.2.0",
    files=(CompatFile("model/m/README.md", "text", 4), CompatFile("model/m/model.onnx", "onnx", 7)),
    runtimes=(RUNTIME,),
    total_bytes=100,
    total_files=5,
    memory=1000,
    probe=Probe(kind="onnxruntime", model="m/model.onnx", golden="probe/golden.npz"),
)
HOST = Host("linux", "amd64", frozenset({NATIVE_TAG, "py3-none-any"}), 1000)


def verdicts(findings: tuple[Finding, ...], rule: str) -> list[str]:
    found: list[str] = [finding.verdict for finding in findings if finding.rule == rule]
    assert found, f"no finding of {rule}"
    return found


def with_format(name: str) -> CompatDoc:
    return replace(DOC, files=(*DOC.files, CompatFile("model/m/z.bin", name, 1)))


def with_wheel(wheel: CompatWheel, platform: str = "linux/amd64") -> CompatDoc:
    return replace(DOC, runtimes=(replace(RUNTIME, platform=platform, wheels=(ORT, wheel)),))


def test_a_release_that_fits_passes_every_rule() -> None:
    findings = judge(DOC, HOST)
    assert {finding.rule for finding in findings} == {
        "format.safe",
        "wheel.platform",
        "probe.model",
        "probe.runtime",
        "platform.os",
        "platform.architecture",
        "python.tags",
        "memory",
    }
    assert {finding.verdict for finding in findings} == {"pass"}
    refuse(findings)


def test_a_build_judges_the_release_alone() -> None:
    findings = judge_release(DOC)
    assert {finding.rule for finding in findings} == {"format.safe", "wheel.platform", "probe.model", "probe.runtime"}
    assert findings == judge(DOC, HOST)[: len(findings)]


@pytest.mark.parametrize("name", sorted(INERT))
def test_an_inert_format_passes(name: str) -> None:
    assert set(verdicts(judge_release(with_format(name)), "format.safe")) == {"pass"}


@pytest.mark.parametrize("name", sorted(UNSAFE))
def test_an_unsafe_format_fails_naming_the_file_and_the_reason(name: str) -> None:
    finding = next(finding for finding in judge_release(with_format(name)) if finding.verdict != "pass")
    assert (finding.rule, finding.verdict) == ("format.safe", "fail")
    assert "model/m/z.bin" in finding.detail
    assert UNSAFE[name] in finding.detail


@pytest.mark.parametrize("name", [*sorted(OPAQUE), "format-of-tomorrow"])
def test_a_format_that_hides_or_is_not_known_is_unknown_and_refuses(name: str) -> None:
    findings = judge_release(with_format(name))
    assert verdicts(findings, "format.safe") == ["pass", "pass", "unknown"]
    with pytest.raises(IncompatibleError):
        refuse(findings)


@pytest.mark.parametrize(
    ("platform", "tag", "verdict"),
    [
        ("linux/amd64", "cp311-cp311-manylinux2014_x86_64", "pass"),
        ("linux/amd64", "cp311-cp311-musllinux_1_2_x86_64", "pass"),
        ("linux/amd64", "py3-none-any", "pass"),
        ("linux/arm64", "cp311-cp311-manylinux_2_28_aarch64", "pass"),
        ("linux/386", "cp311-cp311-manylinux_2_28_i686", "pass"),
        ("windows/amd64", "cp311-cp311-win_amd64", "pass"),
        ("windows/386", "cp311-cp311-win32", "pass"),
        ("darwin/arm64", "cp311-cp311-macosx_11_0_arm64", "pass"),
        ("darwin/amd64", "cp311-cp311-macosx_10_9_universal2", "pass"),
        ("linux/arm64", "cp311-cp311-manylinux_2_28_x86_64", "fail"),
        ("linux/amd64", "cp311-cp311-win_amd64", "fail"),
        ("windows/amd64", "cp311-cp311-manylinux_2_28_x86_64", "fail"),
        ("linux/386", "cp311-cp311-manylinux_2_28_x86_64", "fail"),
        ("plan9/amd64", "cp311-cp311-manylinux_2_28_x86_64", "unknown"),
        ("linux/mips", "cp311-cp311-manylinux_2_28_x86_64", "unknown"),
    ],
)
def test_a_wheel_is_held_against_the_platform_of_its_runtime(platform: str, tag: str, verdict: str) -> None:
    wheel = CompatWheel("numpy", "2.4.6", (tag,))
    assert verdicts(judge_release(with_wheel(wheel, platform)), "wheel.platform")[1] == verdict


@pytest.mark.parametrize(
    ("change", "rule", "verdict"),
    [
        ({"os": "windows"}, "platform.os", "fail"),
        ({"os": ""}, "platform.os", "unknown"),
        ({"architecture": "arm64"}, "platform.architecture", "fail"),
        ({"architecture": ""}, "platform.architecture", "unknown"),
        ({"memory": 999}, "memory", "fail"),
        ({"memory": 0}, "memory", "unknown"),
    ],
)
def test_a_host_that_is_not_the_needed_one_is_refused(change: dict[str, str | int], rule: str, verdict: str) -> None:
    findings = judge(DOC, replace(HOST, **change))  # type: ignore[arg-type] # one field of either type
    assert verdicts(findings, rule) == [verdict]
    with pytest.raises(IncompatibleError, match=f"{verdict} {rule}"):
        refuse(findings)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({NATIVE_TAG, "py3-none-any"}, ["pass", "pass"]),
        ({"cp312-cp312-manylinux_2_28_x86_64", "py3-none-any"}, ["fail", "pass"]),
        ({NATIVE_TAG}, ["pass", "fail"]),
        (set(), ["fail", "fail"]),
    ],
)
def test_each_wheel_needs_one_tag_that_the_hosts_python_takes(tags: set[str], expected: list[str]) -> None:
    assert verdicts(judge(DOC, replace(HOST, python_tags=frozenset(tags))), "python.tags") == expected


def test_a_runtime_for_any_platform_asks_nothing_of_the_host() -> None:
    document = replace(DOC, runtimes=(CompatRuntime("web", "web", ""),), probe=None, memory=0)
    assert {finding.rule for finding in judge(document, Host("", "", frozenset(), 0))} == {"format.safe"}


def test_an_onnxruntime_probe_needs_its_wheel_in_a_runtime() -> None:
    findings = judge_release(replace(DOC, runtimes=()))
    assert verdicts(findings, "probe.runtime") == ["fail"]
    numpy = replace(RUNTIME, wheels=(PURE, CompatWheel("onnxruntimes", "1", (NATIVE_TAG,))))
    assert verdicts(judge_release(replace(DOC, runtimes=(numpy,))), "probe.runtime") == ["fail"]
    gpu = replace(RUNTIME, wheels=(replace(ORT, name="onnxruntime-gpu"),))
    assert verdicts(judge_release(replace(DOC, runtimes=(gpu,))), "probe.runtime") == ["pass"]


@pytest.mark.parametrize(
    ("model", "names", "verdict"),
    [
        ("m/a.onnx", ["m/a.onnx", "m/b.onnx"], "pass"),
        ("", ["m/a.onnx"], "pass"),
        ("", ["m/a.onnx", "m/b.onnx"], "fail"),
        ("", [], "fail"),
        ("m/c.onnx", ["m/a.onnx"], "fail"),
        ("m/README.md", ["m/a.onnx"], "fail"),
    ],
)
def test_an_onnxruntime_probe_needs_one_model_that_it_can_mean(model: str, names: list[str], verdict: str) -> None:
    files = (CompatFile("model/m/README.md", "text", 1), *(CompatFile(f"model/{name}", "onnx", 1) for name in names))
    probe = Probe(kind="onnxruntime", model=model, golden="probe/golden.npz")
    assert verdicts(judge_release(replace(DOC, files=files, probe=probe)), "probe.model") == [verdict]


def test_a_command_probe_asks_for_no_runtime() -> None:
    document = replace(DOC, runtimes=(), probe=Probe(kind="command", command=("model/m/run",)))
    assert {finding.rule for finding in judge_release(document)} == {"format.safe"}


def test_a_refusal_lists_every_reason_on_its_own_line_and_all_findings_for_machines() -> None:
    findings = judge(with_format("pickle"), replace(HOST, os="windows", memory=0))
    with pytest.raises(IncompatibleError) as caught:
        refuse(findings)
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "fail format.safe",
        "fail platform.os",
        "unknown memory",
    ]
    assert "convert it to safetensors" in caught.value.hint
    assert len(caught.value.context["findings"]) == len(findings)


@given(st.lists(st.sampled_from(["pass", "fail", "unknown"])))
def test_refuse_returns_only_when_all_pass(verdicts_given: list[str]) -> None:
    findings = [Finding("r", verdict, "static", "d") for verdict in verdicts_given]  # type: ignore[arg-type] # sampled
    if set(verdicts_given) <= {"pass"}:
        refuse(findings)
    else:
        with pytest.raises(IncompatibleError):
            refuse(findings)
