"""What is written is CycloneDX by its official schema, the same each time, and read back for its own release only."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from airpack.errors import InputError, IntegrityError
from airpack.formats import bom
from airpack.formats.bom import License, WheelFile, emit_bom, read_bom
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.compat import CompatWheel
from airpack.formats.probe import Probe
from airpack.formats.release import ModelPart, PackedFile, Release, RuntimePart, assemble, read_release
from airpack.types import Digest

PAGE = (Path(__file__).parents[3] / "docs/spec/release.md").read_text()
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
TAGS = ("py3-none-any",)
LICENSES = {"minilm": License("id", "Apache-2.0")}
WHEELS = {
    ("runtime/ort", "numpy"): WheelFile(
        "numpy-2.4.6-py3-none-any.whl", Digest.of(b"numpy"), 16, (License("expression", "BSD-3-Clause AND MIT"),)
    ),
    ("runtime/ort", "torch"): WheelFile("torch-2.9+cpu-py3-none-any.whl", Digest.of(b"torch"), 17, ()),
}


def packed(path: str, content: bytes = b"x", form: str = "") -> PackedFile:
    return PackedFile(path, Digest.of(content), len(content), format=form)


def wheel(name: str, version: str) -> RuntimePart:
    return RuntimePart("ort", "wheels", "linux/amd64", (packed(f"{name}.py"),), CompatWheel(name, version, TAGS))


def released(version: str = "1.2.0", *more: RuntimePart, files: int = 1) -> Release:
    documents = assemble(
        "encoder",
        version,
        models=[
            ModelPart("minilm", (packed("model.onnx", b"weights", "onnx"), packed("README.md", b"card", "text"))),
            ModelPart("other", (packed("w.bin", b"other", "data"),)),
        ],
        runtimes=[
            wheel("numpy", "2.4.6"),
            wheel("torch", "2.9+cpu"),
            RuntimePart("web", "web", "", tuple(packed(f"{number}.js") for number in range(files))),
            *more,
        ],
        probe=Probe(kind="onnxruntime", golden="golden.npz"),
        golden=packed("golden.npz", b"golden"),
    )
    return read_release(documents.index, documents.blobs.__getitem__)


def written(release: Release | None = None) -> dict[str, Any]:
    return emit_bom(release or released(), licenses=LICENSES, wheels=WHEELS, airpack="0.1.0")


RELEASED = released()
EXAMPLE = written(RELEASED)


def valid(document: Mapping[str, Any]) -> None:
    error = VALIDATOR.validate_str(emit(dict(document)).decode())
    assert error is None, str(error)


def by_ref(document: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for outer in document["components"]:
        for component in (outer, *outer.get("components", [])):
            assert component["bom-ref"] not in found
            found[component["bom-ref"]] = component
    return found


def test_it_is_valid_by_the_official_schema() -> None:
    valid(written())


def test_the_schema_would_say_so_if_it_were_not() -> None:
    """The oracle can fail: an unknown field, a licence that SPDX does not know, a wrong digest."""
    for path, value in (
        (("more",), 1),
        (("licenses",), [{"license": {"id": "Apache 2"}}]),
        (("hashes", 0, "content"), "1"),
    ):
        document = copy.deepcopy(written())
        at: Any = document["components"][0]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        assert VALIDATOR.validate_str(emit(document).decode()) is not None


def test_it_says_what_each_part_is_with_licence_and_digest() -> None:
    release, document = released(), written()
    manifests = {(part.component, part.wheel.name if part.wheel else ""): part.manifest for part in release.parts}
    top = document["metadata"]["component"]
    assert (top["name"], top["version"], top["hashes"][0]["content"]) == ("encoder", "1.2.0", release.digest.hex)
    found = by_ref(document)
    assert list(found) == [
        "model/minilm",
        "model/minilm/README.md",
        "model/minilm/model.onnx",
        "model/other",
        "model/other/w.bin",
        "runtime/ort",
        "runtime/ort/numpy",
        "runtime/ort/torch",
        "runtime/web",
        "runtime/web/0.js",
        "probe/golden.npz",
    ]
    model = found["model/minilm"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifests["model/minilm", ""].hex}]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert model["modelCard"] == {"properties": [{"name": "airpack:format", "value": "onnx"}]}
    assert found["model/other"]["licenses"] == [{"license": {"name": "unknown"}}]
    assert "modelCard" not in found["model/other"], "nothing is known of plain data, so nothing is said"
    file = found["model/minilm/model.onnx"]
    assert file["hashes"][0]["content"] == Digest.of(b"weights").hex
    assert {"name": "airpack:size", "value": "7"} in file["properties"]
    numpy = found["runtime/ort/numpy"]
    assert (numpy["type"], numpy["name"], numpy["version"]) == ("library", "numpy", "2.4.6")
    assert numpy["hashes"][0]["content"] == Digest.of(b"numpy").hex
    assert numpy["licenses"] == [{"expression": "BSD-3-Clause AND MIT", "acknowledgement": "declared"}]
    assert {"name": "airpack:manifest", "value": str(manifests["runtime/ort", "numpy"])} in numpy["properties"]
    assert found["runtime/ort/torch"]["licenses"] == [{"license": {"name": "unknown"}}]
    assert found["probe/golden.npz"]["type"] == "data"


@pytest.mark.parametrize(("name", "version"), [("numpy", "2.4.6"), ("torch", "2.9+cpu"), ("odd", "1!2.0")])
def test_a_purl_is_what_the_library_for_purls_makes(name: str, version: str) -> None:
    release = released("1.2.0", wheel(name, version)) if name == "odd" else released()
    wheels = WHEELS | {("runtime/ort", "odd"): WheelFile("odd.whl", Digest.of(b"odd"), 3, ())}
    document = emit_bom(release, licenses={}, wheels=wheels, airpack="0.1.0")
    purl = by_ref(document)[f"runtime/ort/{name}"]["purl"]
    assert purl == PackageURL("pypi", name=name, version=version).to_string()
    assert PackageURL.from_string(purl).version == version


def test_the_graph_goes_from_the_release_to_every_part_and_says_nothing_of_what_wheels_need() -> None:
    document = written()
    assert document["dependencies"] == [
        {
            "ref": "release",
            "dependsOn": ["model/minilm", "model/other", "runtime/ort", "runtime/web", "probe/golden.npz"],
        },
        {"ref": "runtime/ort", "dependsOn": ["runtime/ort/numpy", "runtime/ort/torch"]},
    ]
    wheels = ["runtime/ort/numpy", "runtime/ort/torch"]
    assert {"aggregate": "unknown", "assemblies": wheels, "dependencies": wheels} in document["compositions"]


def test_the_same_release_gives_the_same_bytes_and_another_one_another_serial_number() -> None:
    assert emit(written()) == emit(written())
    serials = {written(release)["serialNumber"] for release in (released(), released("1.2.1"))}
    assert len(serials) == 2
    newer = emit_bom(released(), licenses=LICENSES, wheels=WHEELS, airpack="0.2.0")
    assert newer["serialNumber"] not in serials, "another document has another number"
    assert "timestamp" not in written()["metadata"]


def test_the_files_of_a_large_component_are_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bom, "FILES", 5)
    at_most, beyond = written(released(files=5)), written(released(files=6))
    assert len(by_ref(at_most)["runtime/web"]["components"]) == 5
    assert "components" not in by_ref(beyond)["runtime/web"]
    assert by_ref(beyond)["runtime/web"]["hashes"], "its manifest, which lists them, stands for them"
    assert "incomplete" not in {item["aggregate"] for item in at_most["compositions"]}
    assert {"aggregate": "incomplete", "assemblies": ["runtime/web"]} in beyond["compositions"]
    assert "components" in by_ref(beyond)["model/minilm"]
    valid(beyond)
    read_bom(beyond, released(files=6))


def test_a_document_of_the_most_files_stays_in_its_bound() -> None:
    """Thirteen components of a thousand files: each alone would be listed, all together are too much."""
    more = [
        RuntimePart(f"r{number}", "files", "", tuple(packed(f"{'deep/' * 20}{at}") for at in range(1000)))
        for number in range(12)
    ]
    release = released("1.2.0", *more, files=1000)
    document = written(release)
    assert len(emit(document)) <= bom.SIZE
    assert not [ref for ref, component in by_ref(document).items() if component["type"] == "file"]
    valid(document)
    read_bom(document, release)


def test_a_document_that_is_too_large_without_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bom, "SIZE", 1000)
    with pytest.raises(InputError, match=r"would have \d+ bytes; at most 1000"):
        written()


def test_what_is_written_reads_back() -> None:
    release, document = released(), written()
    found = read_bom(parse_canonical(emit(document), what="bom"), release)
    assert found.data == emit(document)
    assert found.digest == Digest.of(emit(document))
    shown = {item.ref: item for item in found.components}
    assert shown.keys() == by_ref(document).keys()
    assert shown["runtime/ort/numpy"].licenses == ("BSD-3-Clause AND MIT",)
    assert shown["model/other"].licenses == ("unknown",)
    assert shown["runtime/ort"].digest is None


def test_fields_of_cyclonedx_that_airpack_does_not_write_are_left_alone() -> None:
    document = written()
    document["components"][0]["description"] = "a model"
    document["metadata"]["timestamp"] = "2026-03-01T12:00:00Z"
    assert read_bom(document, released()).components


def test_it_is_refused_for_another_release() -> None:
    for other in (released("1.2.1"), released(files=2)):
        with pytest.raises(IntegrityError, match="not of encoder"):
            read_bom(written(), other)


def drop(*path: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def put(value: Any, *path: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def twice(document: Any) -> None:
    document["components"].append(document["components"][0])


WRONG = {
    "another format": (put("SPDX", "bomFormat"), "bomFormat"),
    "another version": (put("1.4", "specVersion"), "specVersion"),
    "no metadata": (drop("metadata"), "metadata"),
    "a model left out": (drop("components", 0), "leaves out 1 parts of the release, the first is 'model/minilm'"),
    "a wheel left out": (drop("components", 2, "components", 1), "'runtime/ort/torch'"),
    "golden arrays left out": (drop("components", 4), "'probe/golden.npz'"),
    "everything left out": (put([], "components"), "leaves out 7"),
    "a part twice": (twice, "twice"),
    "another name": (put("maxilm", "components", 0, "name"), "something else of 'model/minilm'"),
    "another type": (put("file", "components", 0, "type"), "something else of 'model/minilm'"),
    "another version of a wheel": (put("2.4.7", "components", 2, "components", 0, "version"), "'runtime/ort/numpy'"),
    "another manifest of a wheel": (
        put(
            [{"name": "airpack:manifest", "value": str(Digest.of(b""))}], "components", 2, "components", 0, "properties"
        ),
        "'runtime/ort/numpy'",
    ),
    "another manifest of a model": (put("0" * 64, "components", 0, "hashes", 0, "content"), "'model/minilm'"),
    "no digest": (drop("components", 0, "hashes"), "'model/minilm'"),
    "another digest of a file": (
        put("0" * 64, "components", 0, "components", 0, "hashes", 0, "content"),
        "'model/minilm/README.md'",
    ),
    "a file that is not there": (
        put("model/minilm/x", "components", 0, "components", 0, "bom-ref"),
        "'model/minilm/x'",
    ),
    "a library that is not there": (put("more", "components", 2, "components", 0, "bom-ref"), "'more'"),
    "a digest that is none": (put("abc", "components", 0, "hashes", 0, "content"), "not a digest"),
    "three levels": (put([], "components", 0, "components", 0, "components"), "two levels"),
    "components that are none": (put({}, "components"), "list"),
    "a component that is none": (put(1, "components", 0), "table"),
    "a licence that is none": (put([{}], "components", 0, "licenses"), "license"),
    "too many licences": (put([{}] * 65, "components", 0, "licenses"), "at most 64"),
    "a number for a name": (put(7, "components", 0, "name"), "string"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_contradicts_its_release_or_is_malformed_is_refused(what: str) -> None:
    change, message = WRONG[what]
    document = copy.deepcopy(written())
    change(document)
    with pytest.raises(IntegrityError, match=re.escape(message)):
        read_bom(document, released())


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(IntegrityError):
        read_bom(value, released())


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8) | st.sampled_from(["SHA-256", "a" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["license", "id", "name", "alg", "content", "components", "x"]), inner)
    ),
    max_leaves=12,
)
places = st.lists(st.integers(0, 30), min_size=1, max_size=7)


@given(values, places)
def test_any_value_anywhere_in_it_is_read_or_refused(value: Any, place: list[int]) -> None:
    """It is signed, so its maker is known; the reader must hold all the same."""
    document = copy.deepcopy(EXAMPLE)
    at: Any = document
    for number in place[:-1]:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        inner = at[keys[number % len(keys)]] if keys else None
        if not isinstance(inner, dict | list) or not inner:
            break
        at = inner
    keys = list(at) if isinstance(at, dict) else list(range(len(at)))
    at[keys[place[-1] % len(keys)]] = value
    try:
        found = read_bom(document, RELEASED)
    except IntegrityError:
        return
    assert {item.ref for item in found.components} >= {item["bom-ref"] for item in EXAMPLE["components"]}


names = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
paths = st.lists(st.sampled_from(["a", "b", "C", "d.e"]), min_size=1, max_size=3).map("/".join)
contents = st.dictionaries(paths, st.binary(max_size=3), min_size=1, max_size=4).filter(
    lambda files: not any(one != two and f"{two}/".startswith(f"{one}/") for one in files for two in files)
)
licences = st.one_of(
    st.builds(License, st.just("id"), st.sampled_from(["MIT", "Apache-2.0", "GPL-2.0-only"])),
    st.builds(License, st.just("expression"), st.sampled_from(["MIT OR Apache-2.0", "LicenseRef-x"])),
    st.builds(
        License, st.just("name"), st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=200)
    ),
)
versions = st.sampled_from(["1.0", "2!1.0rc1.post2+local.7", "0"])


@given(
    st.dictionaries(names, st.tuples(contents, st.none() | licences), min_size=1, max_size=3),
    st.dictionaries(
        names, st.tuples(versions, st.lists(licences.filter(lambda one: one.kind != "expression"), max_size=3))
    ),
    contents | st.none(),
)
def test_every_release_gives_a_valid_document_that_reads_back(
    models: dict[str, tuple[dict[str, bytes], License | None]],
    wheels: dict[str, tuple[str, list[License]]],
    files: dict[str, bytes] | None,
) -> None:
    def listed(found: Mapping[str, bytes]) -> tuple[PackedFile, ...]:
        return tuple(packed(path, content, "data") for path, content in found.items())

    runtimes = [
        RuntimePart("w", "wheels", "linux/amd64", (packed(f"{name}.py"),), CompatWheel(name, version, TAGS))
        for name, (version, _) in wheels.items()
    ]
    runtimes += [RuntimePart("f", "files", "", listed(files))] if files else []
    documents = assemble(
        "p1", "1", models=[ModelPart(name, listed(found)) for name, (found, _) in models.items()], runtimes=runtimes
    )
    release = read_release(documents.index, documents.blobs.__getitem__)
    document = emit_bom(
        release,
        licenses={name: known for name, (_, known) in models.items() if known},
        wheels={
            ("runtime/w", name): WheelFile(f"{name}.whl", Digest.of(name.encode()), 1, tuple(known))
            for name, (_, known) in wheels.items()
        },
        airpack="0.1.0",
    )
    valid(document)
    found = read_bom(parse_canonical(emit(document), what="bom"), release)
    assert {item.ref for item in found.components if item.kind == "file"} == {
        file.path for file in release.files if not file.path.startswith("runtime/w/")
    }


def test_a_renamed_release_has_no_such_bill() -> None:
    release = released()
    with pytest.raises(IntegrityError):
        read_bom(written(), replace(release, product="other"))


def test_the_specification_s_example_is_what_is_written() -> None:
    documents = assemble(
        "hello",
        "1.0",
        models=[ModelPart("greeter", (packed("model.onnx", b"weights", "onnx"),), "Apache-2.0")],
        runtimes=[replace(wheel("numpy", "2.4.6"), files=(packed("numpy/__init__.py", b"numpy"),))],
    )
    release = read_release(documents.index, documents.blobs.__getitem__)
    wheels = {("runtime/ort", "numpy"): WHEELS["runtime/ort", "numpy"]}
    document = emit_bom(release, licenses={"greeter": License("id", "Apache-2.0")}, wheels=wheels, airpack="0.1.0")
    below = PAGE.split("\n## The bill of materials\n", 1)[1]
    example = re.search(r"```json\n(.*?)```", below, re.DOTALL)
    assert example
    assert json.loads(example[1]) == document


def test_cyclonedx_s_own_library_reads_the_same_components_and_graph() -> None:
    """It knows no model cards, and passes over them."""
    other = Bom.from_json(json.loads(emit(EXAMPLE)))  # type: ignore[attr-defined]  # added by py-serializable
    found = {}
    for outer in other.components:
        for item in (outer, *outer.components):
            (digest,) = [entry.content for entry in item.hashes] or [None]
            found[str(item.bom_ref)] = (item.name, item.version or "", digest)
    assert found == {
        item.ref: (item.name, item.version, item.digest.hex if item.digest else None)
        for item in read_bom(EXAMPLE, RELEASED).components
    }
    graph = {str(item.ref): sorted(str(inner.ref) for inner in item.dependencies) for item in other.dependencies}
    assert graph["release"] == ["model/minilm", "model/other", "probe/golden.npz", "runtime/ort", "runtime/web"]
    assert graph["runtime/ort"] == ["runtime/ort/numpy", "runtime/ort/torch"]
