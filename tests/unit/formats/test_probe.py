"""The probe table: keys by kind, bounds, and its round trip."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import InputError
from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.formats.probe import Probe, parse_probe


def _parse(table: Any, **options: Any) -> Probe:
    return parse_probe(Fields(table, what="[probe]", error=InputError), **options)


_share = st.floats(0, 1)
_probes = st.one_of(
    st.builds(
        Probe,
        kind=st.just("onnxruntime"),
        model=st.sampled_from(["", "a/m.onnx"]),
        golden=st.just("probe/golden.npz"),
        rtol=st.floats(0, 0.1),
        atol=st.floats(0, 1e6),
        min_correct=_share,
        min_goodput=st.floats(0, 1e9),
        timeout=st.floats(1, 3600),
    ),
    st.builds(
        Probe, kind=st.just("onnxruntime"), golden=st.just("g.npz"), compare=st.just("argmax"), min_correct=_share
    ),
    st.builds(
        Probe,
        kind=st.just("command"),
        command=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))).map(lambda a: ("bin/x", *a)),
        timeout=st.integers(1, 3600),
    ),
)


@given(_probes)
def test_parse_reads_back_what_emit_wrote(probe: Probe) -> None:
    assert _parse(canonical.parse(canonical.emit(probe.emit()), what="test")) == probe


def test_whole_numbers_are_numbers() -> None:
    probe = _parse({"kind": "onnxruntime", "golden": "g.npz", "timeout": 60, "min_correct": 1, "min_goodput": 50})
    assert probe == Probe(kind="onnxruntime", golden="g.npz", timeout=60.0, min_goodput=50.0)


_golden = {"kind": "onnxruntime", "golden": "g.npz"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "'kind' is missing"),
        ({"kind": "onnx"}, "'kind' must be one of"),
        ({"kind": "onnxruntime"}, "'golden' is missing"),
        ({"kind": "command"}, "'command' is missing"),
        ({"kind": "command", "command": []}, "is empty"),
        ({"kind": "command", "command": "true"}, "must be a list"),
        ({"kind": "command", "command": ["/bin/true"]}, "relative path"),
        ({"kind": "command", "command": ["a/../../b"]}, "relative path"),
        ({"kind": "command", "command": ["a", "b\0"]}, "NUL"),
        ({"kind": "command", "command": ["a"], "golden": "g.npz"}, "unknown key 'golden'"),
        ({**_golden, "command": ["a"]}, "unknown key 'command'"),
        ({**_golden, "min_goodputt": 3}, "unknown key 'min_goodputt'"),
        ({**_golden, "golden": "../g.npz"}, "relative path"),
        ({**_golden, "golden": "/g.npz"}, "relative path"),
        ({**_golden, "golden": ""}, "relative path"),
        ({**_golden, "model": "../m.onnx"}, "relative path"),
        ({**_golden, "compare": "exact"}, "'compare' must be one of"),
        ({**_golden, "compare": "argmax", "rtol": 0.1}, "unknown key 'rtol'"),
        ({**_golden, "rtol": 0.5}, "'rtol' must be from"),
        ({**_golden, "atol": float("nan")}, "'atol' must be from"),
        ({**_golden, "min_correct": 1.1}, "'min_correct' must be from"),
        ({**_golden, "min_goodput": -1}, "'min_goodput' must be from"),
        ({**_golden, "timeout": 0.5}, "'timeout' must be from"),
        ({**_golden, "timeout": 3601}, "'timeout' must be from"),
        ({**_golden, "timeout": True}, "'timeout' must be a number"),
    ],
)
def test_other_tables_are_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        _parse(table)
    assert said in caught.value.message


def test_only_a_pack_spec_may_lead_upwards() -> None:
    assert _parse({**_golden, "golden": "../data/g.npz"}, upwards=True).golden == "../data/g.npz"
    with pytest.raises(InputError):
        _parse({**_golden, "golden": "/data/g.npz"}, upwards=True)
