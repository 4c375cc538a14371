import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import InputError
from airpack.formats.packspec import ModelSpec, PackSpec, Requirement, RuntimeSpec, parse
from airpack.formats.probe import Probe

FULL = """
[release]
product = "encoder"
version = "1.2.0"
sequence = 7

[[model]]
name = "minilm"
path = "models/minilm"
license = "Apache-2.0"

[[runtime]]
name = "onnxruntime"
kind = "wheels"
path = "wheels/"
platform = "linux/amd64"

[probe]
kind = "onnxruntime"
golden = "../golden.npz"
timeout = 5

[require]
memory = "2GiB"
"""
SMALL = """
[release]
product = "encoder"
version = "1"
[[model]]
name = "m"
path = "m.onnx"
"""


def test_every_key_of_a_full_spec_is_read() -> None:
    assert parse(FULL.encode(), "spec.toml") == PackSpec(
        product="encoder",
        version="1.2.0",
        sequence=7,
        models=(ModelSpec("minilm", "models/minilm", "Apache-2.0"),),
        runtimes=(RuntimeSpec("onnxruntime", "wheels", "wheels/", "linux/amd64"),),
        probe=Probe(kind="onnxruntime", golden="../golden.npz", timeout=5.0),
        require=Requirement(memory=2 << 30),
    )


def test_runtime_probe_and_needs_are_optional() -> None:
    spec = parse(SMALL.encode(), "spec.toml")
    assert (spec.sequence, spec.runtimes, spec.probe, spec.require.memory) == (None, (), None, 0)
    assert spec.models == (ModelSpec("m", "m.onnx", ""),)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("[relase]\nx = 1", "release"),
        ('[release]\nproduct = "ab"\nverson = "1"', "version"),
        (SMALL.replace("path", "pth"), "path"),
        (SMALL + '\nlicence = "x"', "license"),
        (SMALL + '\n[[runtimes]]\nname = "r"', "runtime"),
        (SMALL + "\n[require]\nmemry = 1", "memory"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(wrong: str, right: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(wrong.encode(), "spec.toml")
    assert f"'{right}'" in caught.value.hint
    assert "spec.toml" in caught.value.message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('product = "encoder"', 'product = "Encoder"'),
        ('version = "1.2.0"', 'version = "current"'),
        ("sequence = 7", "sequence = 0"),
        ("sequence = 7", "sequence = true"),
        ("sequence = 7", 'base = ["sha256:00"]'),
        ('name = "minilm"', 'name = "../x"'),
        ('path = "models/minilm"', 'path = ""'),
        ('path = "models/minilm"', 'path = "a\\u0000b"'),
        ('license = "Apache-2.0"', 'license = "a\\nb"'),
        ('kind = "wheels"', 'kind = "wheel"'),
        ('platform = "linux/amd64"', ""),
        ('platform = "linux/amd64"', 'platform = "linux"'),
        ('platform = "linux/amd64"', 'platform = "linux/amd64/v3"'),
        ('memory = "2GiB"', 'memory = "2gb"'),
        ('memory = "2GiB"', "memory = 0"),
        ('memory = "2GiB"', 'memory = "0"'),
        ('memory = "2GiB"', 'memory = "999999TiB"'),
        ('memory = "2GiB"', "memory = 1.5"),
        ("timeout = 5", "timeout = nan"),
        ("[require]", "[require"),
        ("[[model]]", "[[runtime]]"),
        ("[[model]]", "[model]"),
    ],
)
def test_a_bad_value_is_refused(old: str, new: str) -> None:
    assert old in FULL
    with pytest.raises(InputError):
        parse(FULL.replace(old, new, 1).encode(), "spec.toml")


def test_a_common_name_of_an_architecture_is_refused_with_ocis() -> None:
    with pytest.raises(InputError) as caught:
        parse(FULL.replace("linux/amd64", "linux/x86_64").encode(), "spec.toml")
    assert caught.value.hint == 'platform = "linux/amd64"'


def test_only_wheels_and_binaries_need_a_platform() -> None:
    web = SMALL + '[[runtime]]\nname = "w"\nkind = "web"\npath = "dist"\n'
    assert parse(web.encode(), "spec.toml").runtimes == (RuntimeSpec("w", "web", "dist", ""),)
    with pytest.raises(InputError, match="platform"):
        parse(web.replace('"web"', '"binary"').encode(), "spec.toml")


def test_a_spec_without_a_model_and_one_with_twins_are_refused() -> None:
    with pytest.raises(InputError, match="no \\[\\[model\\]\\]"):
        parse(b'[release]\nproduct = "ab"\nversion = "1"\n', "spec.toml")
    twin = SMALL + '[[model]]\nname = "m"\npath = "other"\n'
    with pytest.raises(InputError, match="two \\[\\[model\\]\\]"):
        parse(twin.encode(), "spec.toml")


def test_a_base_is_refused_as_not_built_yet() -> None:
    with pytest.raises(InputError, match="deltas are not built by this version"):
        parse(SMALL.replace("[[model]]", "base = []\n[[model]]").encode(), "spec.toml")


@pytest.mark.parametrize("text", [b"\xff", b"a = " + b"[" * 5000, b"#" * (5 << 20), b"a = 1979-13-40"])
def test_what_is_no_toml_is_bad_input(text: bytes) -> None:
    with pytest.raises(InputError):
        parse(text, "spec.toml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_input(data: bytes) -> None:
    with pytest.raises(InputError):
        parse(data, "spec.toml")
