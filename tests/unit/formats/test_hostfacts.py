"""The document of a host's facts: one form, closed, bounded, and unknown is not none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from airpack.errors import IntegrityError
from airpack.formats import canonical
from airpack.formats.hostfacts import LEVELS, Disk, Gpu, HostFacts, Isa, Library, Now, Unknown
from airpack.types import Digest

SCHEMA = Path(__file__).parents[3] / "manifests" / "schemas" / "host.schema.json"

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
SIZE = st.integers(0, 2**53 - 1)
GPUS = st.builds(
    Gpu,
    vendor=st.sampled_from(["nvidia", "amd", "intel"]),
    name=TEXT,
    architecture=st.none() | st.sampled_from(["9.0", "12.1", "gfx942", "gfx90a"]),
    memory=st.none() | SIZE,
    parts=st.none() | st.booleans(),
)


@st.composite
def hosts(draw: st.DrawFn) -> HostFacts:
    gpus = draw(st.none() | st.lists(GPUS, max_size=3))
    return HostFacts(
        os=draw(TEXT),
        architecture=draw(TEXT),
        kernel=draw(TEXT),
        distribution=draw(TEXT),
        python=draw(TEXT),
        implementation=draw(TEXT),
        python_tags=tuple(draw(st.lists(TEXT, max_size=3))),
        libc=draw(TEXT),
        libraries=draw(st.none() | st.dictionaries(TEXT, st.builds(Library, TEXT, st.tuples(TEXT)), max_size=3)),
        sonames=draw(st.none() | st.tuples(TEXT)),
        isa=draw(st.none() | st.builds(Isa, TEXT, st.sampled_from(["", *LEVELS]), st.tuples(TEXT))),
        gpus=None if gpus is None else tuple(gpus),
        drivers=draw(st.dictionaries(st.sampled_from(["nvidia", "cuda", "amdgpu"]), TEXT)),
        containers=tuple(draw(st.lists(TEXT, max_size=2))),
        now=Now(
            memory=draw(SIZE),
            available=draw(st.none() | SIZE),
            swap=draw(st.none() | SIZE),
            locked=draw(st.none() | st.integers(-1, 2**53 - 1)),
            cpus=draw(st.integers(1, 4096)),
            gpus=tuple(draw(st.none() | SIZE) for _ in gpus or ()),
            disks=tuple(draw(st.lists(st.builds(Disk, TEXT, SIZE, SIZE), max_size=2))),
        ),
        unknown=tuple(draw(st.lists(st.builds(Unknown, TEXT, TEXT), max_size=2))),
    )


HOST = HostFacts(
    os="linux",
    architecture="amd64",
    kernel="6.1.0",
    distribution="debian 12",
    python="3.11",
    implementation="cpython",
    python_tags=("cp311-cp311-manylinux_2_36_x86_64", "py3-none-any"),
    libc="glibc 2.36",
    libraries={"libc.so.6": Library("/lib/x86_64-linux-gnu/libc.so.6", ("GLIBC_2.2.5", "GLIBC_2.36"))},
    sonames=("libc.so.6",),
    isa=Isa("A Processor", "x86-64-v3", ("avx2", "fma")),
    gpus=(Gpu("nvidia", "NVIDIA H100", "9.0", 85_520_809_984, parts=False),),
    drivers={"cuda": "13.0", "nvidia": "580.159.04"},
    containers=(),
    now=Now(8 << 30, 4 << 30, 0, 8 << 20, 4, (80 << 30,), (Disk("/", 1 << 40, 1 << 39),)),
)


@given(hosts())
def test_a_document_gives_back_its_facts(facts: HostFacts) -> None:
    assert HostFacts.parse(facts.emit()) == facts
    assert HostFacts.parse(facts.emit()).digest() == facts.digest()


@given(hosts())
def test_every_document_is_of_its_schema(facts: HostFacts) -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(json.loads(facts.emit()))] == []


def test_the_digest_of_a_host_stays_what_it_was() -> None:
    assert HOST.digest() == Digest("sha256:6bb748f487aabd268346828473c661579767659357cc3c384223b95516b0f9e2")


def changed(key: str, value: Any, table: str = "") -> bytes:
    document = HOST.to_dict()
    (document[table] if table else document)[key] = value
    return canonical.emit(document)


@pytest.mark.parametrize(
    ("key", "value", "table"),
    [
        ("schema", "airpack.host/2", ""),
        ("os", None, ""),
        ("python_tags", None, ""),
        ("python_tags", [1], ""),
        ("more", 1, ""),
        ("more", 1, "now"),
        ("more", 1, "isa"),
        ("level", "x86-64-v5", "isa"),
        ("isa", {}, ""),
        ("libraries", {"libc.so.6": {"path": "/x"}}, ""),
        ("libraries", {str(number): {"path": "/x", "versions": []} for number in range(65)}, ""),
        ("sonames", [""] * 50_001, ""),
        ("gpus", [{"vendor": "nvidia"}], ""),
        ("gpus", [], ""),  # `now` speaks of one
        ("gpus", None, ""),
        ("gpus", [HOST.to_dict()["gpus"][0] | {"vendor": "voodoo"}], ""),
        ("gpus", [HOST.to_dict()["gpus"][0] | {"architecture": "ninety"}], ""),
        ("gpus", [HOST.to_dict()["gpus"][0] | {"memory": -1}], ""),
        ("gpus", [-1], "now"),
        ("gpus", [True], "now"),
        ("memory", None, "now"),
        ("cpus", 0, "now"),
        ("locked", -2, "now"),
        ("disks", [{"path": "/", "total": 1}], "now"),
        ("drivers", {"nouveau": "1"}, ""),
        ("unknown", [{"fact": "gpus"}], ""),
    ],
)
def test_any_other_document_is_refused(key: str, value: Any, table: str) -> None:
    with pytest.raises(IntegrityError):
        HostFacts.parse(changed(key, value, table))


def test_a_document_has_one_form() -> None:
    with pytest.raises(IntegrityError):
        HostFacts.parse(json.dumps(HOST.to_dict()).encode())


def test_the_example_in_the_specification_is_read() -> None:
    page = (Path(__file__).parents[3] / "docs/spec/compat.md").read_text()
    block = page.partition("## Hosts")[2].partition("```json\n")[2].partition("```")[0]
    facts = HostFacts.parse(canonical.emit(json.loads(block)))
    assert facts.gpus is not None
    assert [gpu.architecture for gpu in facts.gpus] == ["9.0"]
