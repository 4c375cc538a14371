import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import InputError, IntegrityError
from airpack.formats import oci
from airpack.formats.canonical import emit, parse
from airpack.formats.compat import CompatDoc, CompatRuntime, CompatWheel
from airpack.formats.probe import Probe
from airpack.formats.release import (
    ModelPart,
    PackedFile,
    ReleaseDocs,
    ReleaseFile,
    RuntimePart,
    assemble,
    read_release,
)
from airpack.types import Descriptor, Digest, Limits

RUNTIME_SCHEMA = Path(__file__).parents[3] / "manifests" / "schemas" / "runtime.schema.json"


def packed(path: str, content: bytes = b"x", *, executable: bool = False, form: str = "") -> PackedFile:
    return PackedFile(path, Digest.of(content), len(content), executable, form)


NUMPY = CompatWheel("numpy", "2.4.6", ("cp311-cp311-manylinux_2_28_x86_64",))
PURE = CompatWheel("packaging", "26.3", ("py3-none-any",))
MODEL = ModelPart("minilm", (packed("model.onnx", b"weights", form="onnx"), packed("README.md", b"card", form="text")))
WHEELS = (
    RuntimePart("ort", "wheels", "linux/amd64", (packed("numpy/a.so", b"so", executable=True), packed("x.py")), NUMPY),
    RuntimePart("ort", "wheels", "linux/amd64", (packed("packaging/b.py", b"py"), packed("x.py")), PURE),
)
WEB = RuntimePart("web", "web", "", (packed("index.html", b"<html>"),))
PROBE = Probe(kind="onnxruntime", golden="../here/golden.npz")
GOLDEN = packed("anything", b"golden")


def full() -> ReleaseDocs:
    return assemble(
        "encoder", "1.2.0", models=[MODEL], runtimes=[*WHEELS, WEB], probe=PROBE, golden=GOLDEN, memory=1 << 30
    )


def test_a_release_reads_back_every_file_with_its_place() -> None:
    documents = full()
    release = read_release(documents.index, documents.blobs.__getitem__)
    assert (release.product, release.version, release.digest) == ("encoder", "1.2.0", Digest.of(documents.index))
    assert [(file.path, file.component, file.size, file.executable) for file in release.files] == [
        ("model/minilm/README.md", "model/minilm", 4, False),
        ("model/minilm/model.onnx", "model/minilm", 7, False),
        ("probe/golden.npz", "compat", 6, False),
        ("runtime/ort/numpy/a.so", "runtime/ort", 2, True),
        ("runtime/ort/packaging/b.py", "runtime/ort", 2, False),
        ("runtime/ort/x.py", "runtime/ort", 1, False),
        ("runtime/web/index.html", "runtime/web", 6, False),
    ]
    assert release.files[1] == ReleaseFile(
        "model/minilm/model.onnx", Digest.of(b"weights"), 7, False, oci.MODEL_WEIGHT, "model/minilm", ""
    )
    assert release.compat.runtimes == (
        CompatRuntime("ort", "wheels", "linux/amd64", (NUMPY, PURE)),
        CompatRuntime("web", "web", ""),
    )
    assert (release.compat.total_bytes, release.compat.total_files) == (28, 7)
    assert release.compat.memory == 1 << 30
    assert release.compat.probe == replace(PROBE, golden="probe/golden.npz")
    assert release.compat_digest == documents.compat_digest == Digest.of(release.compat.emit())


def test_the_small_blobs_of_a_release_are_all_and_only_those_it_needs() -> None:
    documents = full()
    release = read_release(documents.index, documents.blobs.__getitem__)
    assert release.small == documents.blobs.keys()
    assert all(Digest.of(data) == digest for digest, data in documents.blobs.items())


def test_the_same_parts_in_any_order_give_the_same_bytes() -> None:
    again = assemble(
        "encoder",
        "1.2.0",
        models=[replace(MODEL, files=MODEL.files[::-1])],
        runtimes=[WEB, *(replace(part, files=part.files[::-1]) for part in WHEELS[::-1])],
        probe=PROBE,
        golden=replace(GOLDEN, path="elsewhere"),
        memory=1 << 30,
    )
    assert again.index == full().index
    assert again.blobs == full().blobs


def test_the_index_carries_the_release_name_and_no_artifact_type() -> None:
    index = parse(full().index, what="index")
    assert index["annotations"] == {"dev.airpack.release": "encoder@1.2.0"}
    assert "artifactType" not in full().index.decode()
    assert [child["annotations"]["dev.airpack.component"] for child in index["manifests"]] == [
        "model/minilm",
        "runtime/ort",
        "runtime/ort",
        "runtime/web",
        "compat",
    ]
    assert [child.get("platform", {}).get("architecture") for child in index["manifests"]] == [
        None,
        "amd64",
        "amd64",
        None,
        None,
    ]


def test_runtime_configs_obey_their_schema() -> None:
    schema = json.loads(RUNTIME_SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    configs = [json.loads(data) for data in full().blobs.values() if b"airpack.runtime/1" in data]
    assert len(configs) == 3
    for config in configs:
        jsonschema.validate(config, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(config | {"more": 1}, schema)


paths = st.lists(st.sampled_from(["a", "b", "C", "d.e"]), min_size=1, max_size=3).map("/".join)
parts = st.dictionaries(paths, st.binary(max_size=3), min_size=1, max_size=4)


@given(st.dictionaries(st.sampled_from(["m", "n"]), parts, min_size=1), st.dictionaries(st.just("r"), parts))
def test_what_assemble_gives_read_release_accepts_with_the_same_files(
    models: dict[str, dict[str, bytes]], runtimes: dict[str, dict[str, bytes]]
) -> None:
    def files(contents: Mapping[str, bytes]) -> tuple[PackedFile, ...]:
        return tuple(packed(path, content, form="data") for path, content in contents.items())

    try:
        documents = assemble(
            "ab",
            "1",
            models=[ModelPart(name, files(contents)) for name, contents in models.items()],
            runtimes=[RuntimePart(name, "files", "", files(contents)) for name, contents in runtimes.items()],
        )
    except InputError:
        return  # a file that is also a folder
    release = read_release(documents.index, documents.blobs.__getitem__)
    expected = {f"model/{name}/{path}": data for name, contents in models.items() for path, data in contents.items()}
    expected |= {f"runtime/{name}/{p}": data for name, contents in runtimes.items() for p, data in contents.items()}
    assert {file.path: file.digest for file in release.files} == {p: Digest.of(data) for p, data in expected.items()}


@pytest.mark.parametrize(
    "arguments",
    {
        "no model": {"models": []},
        "no file": {"models": [replace(MODEL, files=())]},
        "two models of one name": {"models": [MODEL, MODEL]},
        "bad model name": {"models": [replace(MODEL, name="a/b")]},
        "bad path": {"models": [replace(MODEL, files=(packed("../x"),))]},
        "case": {"models": [replace(MODEL, files=(packed("a"), packed("A", b"y")))]},
        "file and folder": {"models": [replace(MODEL, files=(packed("a"), packed("a/b")))]},
        "one path twice in a model": {"models": [replace(MODEL, files=(packed("a"), packed("a")))]},
        "no platform": {"runtimes": [replace(WHEELS[0], platform="")]},
        "wheels without a wheel": {"runtimes": [replace(WHEELS[0], wheel=None)]},
        "a wheel without wheels": {"runtimes": [replace(WEB, wheel=PURE)]},
        "two runtimes of one name": {"runtimes": [WEB, replace(WEB, files=(packed("other"),))]},
        "wheels of two platforms": {"runtimes": [WHEELS[0], replace(WHEELS[1], platform="linux/arm64")]},
        "one project twice": {"runtimes": [WHEELS[0], replace(WHEELS[1], wheel=NUMPY)]},
        "different bytes": {"runtimes": [WHEELS[0], replace(WHEELS[1], files=(packed("x.py", b"other"),))]},
        "different mode": {"runtimes": [WHEELS[0], replace(WHEELS[1], files=(packed("x.py", executable=True),))]},
        "case across wheels": {"runtimes": [WHEELS[0], replace(WHEELS[1], files=(packed("X.py"),))]},
        "two sizes": {"runtimes": [replace(WEB, files=(PackedFile("a", Digest.of(b"weights"), 8),))]},
        "golden without probe": {"golden": GOLDEN},
        "probe without golden": {"probe": PROBE},
        "product": {"product": "A"},
        "version": {"version": "current"},
        "too large a file": {"models": [replace(MODEL, files=(PackedFile("a", Digest.of(b""), Limits.FILE + 1),))]},
    }.items(),
    ids=lambda case: case[0],
)
def test_parts_that_cannot_be_a_release_are_bad_input(arguments: tuple[str, dict[str, Any]]) -> None:
    given_parts: dict[str, Any] = {"product": "encoder", "version": "1", "models": [MODEL]}
    assert assemble(**given_parts).compat.product == "encoder"
    with pytest.raises(InputError):
        assemble(**(given_parts | arguments[1]))


class Rewriter:
    """Rewrites documents of a release and fixes the digests above them, as an attacker with the signing key could."""

    def __init__(self) -> None:
        self.blobs = dict(full().blobs)
        self.index = oci.parse_index(full().index)

    def child(self, number: int) -> oci.Manifest:
        return oci.parse_manifest(self.blobs[self.index.manifests[number].digest])

    def keep(self, data: bytes) -> Digest:
        self.blobs[Digest.of(data)] = data
        return Digest.of(data)

    def set_child(self, number: int, manifest: oci.Manifest) -> None:
        data = oci.emit_manifest(manifest)
        self.set_descriptor(number, digest=self.keep(data), size=len(data))

    def set_descriptor(self, number: int, **change: Any) -> None:
        children = list(self.index.manifests)
        children[number] = replace(children[number], **change)
        self.index = replace(self.index, manifests=tuple(children))

    def set_config(self, number: int, change: Callable[[dict[str, Any]], object]) -> None:
        manifest = self.child(number)
        config = parse(self.blobs[manifest.config.digest], what="config")
        change(config)
        data = emit(config)
        self.set_child(
            number, replace(manifest, config=replace(manifest.config, digest=self.keep(data), size=len(data)))
        )

    def set_layers(self, number: int, layers: tuple[Descriptor, ...]) -> None:
        self.set_child(number, replace(self.child(number), layers=layers))

    def read(self) -> object:
        return read_release(oci.emit_index(self.index), self.blobs.__getitem__)


MODEL_AT, NUMPY_AT, PURE_AT, WEB_AT, COMPAT_AT = range(5)


def component(name: str) -> dict[str, str]:
    return {oci.COMPONENT_ANNOTATION: name}


def layer_of(change: Rewriter, number: int, **values: Any) -> tuple[Descriptor, ...]:
    first, *rest = change.child(number).layers
    return (replace(first, **values), *rest)


def rename(change: Rewriter, name: str) -> None:
    change.index = replace(change.index, annotations={oci.RELEASE_ANNOTATION: name})


FORGERIES: dict[str, Callable[[Rewriter], object]] = {
    "another version in the index": lambda r: rename(r, "encoder@1.3.0"),
    "another product in the index": lambda r: rename(r, "decoder@1.2.0"),
    "no release name": lambda r: rename(r, "encoder"),
    "more annotations": lambda r: setattr(r, "index", replace(r.index, annotations={**r.index.annotations, "a": "b"})),
    "no compat": lambda r: setattr(r, "index", replace(r.index, manifests=r.index.manifests[:-1])),
    "two compats": lambda r: setattr(
        r, "index", replace(r.index, manifests=(*r.index.manifests, r.index.manifests[-1]))
    ),
    "a model less": lambda r: setattr(r, "index", replace(r.index, manifests=r.index.manifests[1:])),
    "a model twice": lambda r: setattr(
        r, "index", replace(r.index, manifests=(r.index.manifests[0], *r.index.manifests))
    ),
    "a wheel less": lambda r: setattr(
        r, "index", replace(r.index, manifests=(*r.index.manifests[:2], *r.index.manifests[3:]))
    ),
    "a runtime more": lambda r: setattr(
        r, "index", replace(r.index, manifests=(*r.index.manifests, r.index.manifests[3]))
    ),
    "a nested index": lambda r: r.set_descriptor(WEB_AT, media_type=oci.INDEX),
    "a component of no kind": lambda r: r.set_descriptor(WEB_AT, annotations=component("data/web")),
    "a component of no name": lambda r: r.set_descriptor(MODEL_AT, annotations=component("model/")),
    "a component with a path": lambda r: r.set_descriptor(MODEL_AT, annotations=component("model/../x")),
    "another name than the config": lambda r: r.set_descriptor(MODEL_AT, annotations=component("model/other")),
    "another runtime than the config": lambda r: r.set_descriptor(WEB_AT, annotations=component("runtime/other")),
    "compat with a name": lambda r: r.set_descriptor(COMPAT_AT, annotations=component("compat/x")),
    "no component": lambda r: r.set_descriptor(MODEL_AT, annotations={"a": "b"}),
    "more on a child": lambda r: r.set_descriptor(MODEL_AT, annotations=component("model/minilm") | {"a": "b"}),
    "a model with a platform": lambda r: r.set_descriptor(MODEL_AT, platform={"os": "linux", "architecture": "amd64"}),
    "another platform": lambda r: r.set_descriptor(NUMPY_AT, platform={"os": "linux", "architecture": "arm64"}),
    "no platform": lambda r: r.set_descriptor(NUMPY_AT, platform={}),
    "a wrong size of a child": lambda r: r.set_descriptor(MODEL_AT, size=3),
    "a missing child": lambda r: r.set_descriptor(MODEL_AT, digest=Digest.of(b"nowhere")),
    "a runtime as a model": lambda r: r.set_descriptor(WEB_AT, annotations=component("model/web")),
    "a model as a runtime": lambda r: r.set_descriptor(MODEL_AT, annotations=component("runtime/minilm")),
    "a runtime as compat": lambda r: r.set_descriptor(COMPAT_AT, digest=r.index.manifests[WEB_AT].digest),
    "a subject": lambda r: r.set_child(MODEL_AT, replace(r.child(MODEL_AT), subject=r.index.manifests[0])),
    "annotations on a manifest": lambda r: r.set_child(WEB_AT, replace(r.child(WEB_AT), annotations={"a": "b"})),
    "annotations on a config": lambda r: r.set_child(
        WEB_AT, replace(r.child(WEB_AT), config=replace(r.child(WEB_AT).config, annotations={"a": "b"}))
    ),
    "a wrong config size": lambda r: r.set_child(
        WEB_AT, replace(r.child(WEB_AT), config=replace(r.child(WEB_AT).config, size=1))
    ),
    "a runtime of a newer schema": lambda r: r.set_config(WEB_AT, lambda c: c.update(schema="airpack.runtime/2")),
    "a runtime of another kind": lambda r: r.set_config(WEB_AT, lambda c: c.update(kind="files")),
    "more in a runtime's config": lambda r: r.set_config(WEB_AT, lambda c: c.update(more=1)),
    "a wheel where none belongs": lambda r: r.set_config(
        WEB_AT, lambda c: c.update(wheel={"name": "a", "version": "1", "tags": ["t"]})
    ),
    "no wheel": lambda r: r.set_config(NUMPY_AT, lambda c: c.pop("wheel")),
    "other tags": lambda r: r.set_config(NUMPY_AT, lambda c: c["wheel"].update(tags=["py3-none-any"])),
    "other totals": lambda r: r.set_config(COMPAT_AT, lambda c: c["totals"].update(bytes=1)),
    "other file sizes": lambda r: r.set_config(COMPAT_AT, lambda c: c["files"][0].update(size=5)),
    "files left out": lambda r: r.set_config(COMPAT_AT, lambda c: c["files"].pop()),
    "runtimes left out": lambda r: r.set_config(COMPAT_AT, lambda c: c["runtimes"].pop()),
    "no probe for the golden arrays": lambda r: r.set_config(COMPAT_AT, lambda c: c.pop("probe")),
    "other golden arrays": lambda r: r.set_config(COMPAT_AT, lambda c: c["probe"].update(golden="model/minilm/x")),
    "another version in compat": lambda r: r.set_config(COMPAT_AT, lambda c: c.update(version="9")),
    "no golden arrays": lambda r: r.set_layers(COMPAT_AT, ()),
    "golden arrays elsewhere": lambda r: r.set_layers(
        COMPAT_AT, layer_of(r, COMPAT_AT, annotations={oci.TITLE_ANNOTATION: "x.npz"})
    ),
    "golden arrays twice": lambda r: r.set_layers(COMPAT_AT, r.child(COMPAT_AT).layers * 2),
    "an empty runtime": lambda r: r.set_layers(WEB_AT, ()),
    "a runtime's files out of order": lambda r: r.set_layers(NUMPY_AT, r.child(NUMPY_AT).layers[::-1]),
    "a runtime's file twice": lambda r: r.set_layers(WEB_AT, r.child(WEB_AT).layers * 2),
    "a path upwards": lambda r: r.set_layers(
        WEB_AT, layer_of(r, WEB_AT, annotations={oci.TITLE_ANNOTATION: "../../model/minilm/model.onnx"})
    ),
    "no title": lambda r: r.set_layers(WEB_AT, layer_of(r, WEB_AT, annotations={})),
    "a mode with setuid": lambda r: r.set_layers(
        WEB_AT,
        layer_of(r, WEB_AT, annotations={oci.TITLE_ANNOTATION: "index.html", oci.MODE_ANNOTATION: "4755"}),
    ),
    "another layer type": lambda r: r.set_layers(WEB_AT, layer_of(r, WEB_AT, media_type="application/x.tar")),
    "a file with two sizes": lambda r: r.set_layers(WEB_AT, layer_of(r, WEB_AT, digest=Digest.of(b"weights"), size=6)),
    "a file that two wheels give differently": lambda r: r.set_layers(
        PURE_AT,
        (r.child(PURE_AT).layers[0], replace(r.child(PURE_AT).layers[1], digest=Digest.of(b"z"))),
    ),
    "two files that differ in case": lambda r: r.set_layers(
        PURE_AT,
        tuple(
            replace(x, annotations={oci.TITLE_ANNOTATION: x.annotations[oci.TITLE_ANNOTATION].upper()})
            for x in r.child(PURE_AT).layers
        ),
    ),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_documents_that_contradict_each_other_are_refused(forge: Callable[[Rewriter], object]) -> None:
    rewriter = Rewriter()
    rewriter.read()
    forge(rewriter)
    with pytest.raises(IntegrityError):
        rewriter.read()


def test_an_index_that_names_a_manifest_again_and_again_is_refused_before_it_is_read() -> None:
    """Each reading of 4 MiB takes a second: twenty thousand in one index would take hours."""
    rewriter = Rewriter()
    read: list[Digest] = []
    again = (rewriter.index.manifests[NUMPY_AT],) * 1000
    index = oci.emit_index(replace(rewriter.index, manifests=(*rewriter.index.manifests, *again)))

    def blob(digest: Digest) -> bytes:
        read.append(digest)
        return rewriter.blobs[digest]

    with pytest.raises(IntegrityError, match="twice"):
        read_release(index, blob)
    assert read == []


def test_the_manifests_may_stand_in_any_order() -> None:
    rewriter = Rewriter()
    rewriter.index = replace(rewriter.index, manifests=rewriter.index.manifests[::-1])
    assert rewriter.read()


@pytest.mark.parametrize("number", range(11))
def test_every_small_blob_is_hashed_before_it_is_believed(number: int) -> None:
    documents = full()
    digests = [digest for digest in documents.blobs if digest != documents.digest]
    assert len(digests) == 10
    blobs = dict(documents.blobs)
    if number < len(digests):
        blobs[digests[number]] = blobs[digests[number]].replace(b"e", b"f", 1)
        with pytest.raises(IntegrityError):
            read_release(documents.index, blobs.__getitem__)
    else:
        assert read_release(documents.index, blobs.__getitem__).digest == documents.digest


def test_more_files_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = full()
    monkeypatch.setattr(Limits, "FILES", 6)
    with pytest.raises(InputError, match="7 files"):
        full()
    with pytest.raises(IntegrityError):
        read_release(documents.index, documents.blobs.__getitem__)


def test_the_compat_document_lists_no_runtime_file() -> None:
    data = full().compat.emit()
    assert b"a.so" not in data
    assert CompatDoc.parse(data) == full().compat
