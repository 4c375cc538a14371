import json
from dataclasses import replace
from typing import Any

import pytest

from airpack.errors import IntegrityError
from airpack.formats import modelpack, oci
from airpack.formats.canonical import emit, parse
from airpack.formats.modelpack import FILEPATH, METADATA, ModelFile, emit_model, layer_type, read_model
from airpack.types import Descriptor, Digest

FILES = [
    ModelFile("sub/model.onnx", Digest.of(b"weights"), 7, "onnx"),
    ModelFile("README.md", Digest.of(b"card"), 4, "text"),
    ModelFile("sub/model.data", Digest.of(b"tensors"), 7, "data"),
    ModelFile("tokenizer.json", Digest.of(b"{}"), 2, "json"),
]


def test_equal_models_have_equal_bytes_whatever_the_order_of_their_files() -> None:
    assert emit_model("m", "MIT", FILES) == emit_model("m", "MIT", FILES[::-1])


def test_the_manifest_is_exactly_the_specified_one() -> None:
    manifest, config = emit_model("m", "MIT", FILES[:1])
    digest = Digest.of(b"weights").value
    assert parse(config, what="config") == {
        "descriptor": {"name": "m", "licenses": ["MIT"]},
        "config": {"format": "onnx"},
        "modelfs": {"type": "layers", "diffIds": [digest]},
    }
    document = parse(manifest, what="manifest")
    metadata = document["layers"][0]["annotations"].pop("org.cncf.model.file.metadata+json")
    assert json.loads(metadata) == {
        "name": "model.onnx",
        "mode": 420,
        "uid": 0,
        "gid": 0,
        "size": 7,
        "mtime": "1970-01-01T00:00:00Z",
        "typeflag": 48,
    }
    assert document == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.cncf.model.config.v1+json",
            "digest": Digest.of(config).value,
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": digest,
                "size": 7,
                "annotations": {"org.cncf.model.filepath": "sub/model.onnx"},
            }
        ],
    }


def test_a_model_reads_back_what_was_written() -> None:
    manifest, config = emit_model("m", "MIT", FILES)
    model = read_model(oci.parse_manifest(manifest), config, what="model/m")
    assert (model.name, model.license, model.format) == ("m", "MIT", "onnx")
    assert [path for path, _ in model.layers] == ["README.md", "sub/model.data", "sub/model.onnx", "tokenizer.json"]


def test_weights_of_several_formats_name_none() -> None:
    files = [FILES[0], ModelFile("b.gguf", Digest.of(b"b"), 1, "gguf")]
    manifest, config = emit_model("m", "", files)
    model = read_model(oci.parse_manifest(manifest), config, what="model/m")
    assert (model.license, model.format) == ("", "")


@pytest.mark.parametrize(
    ("path", "form", "expected"),
    [
        ("model.onnx", "onnx", oci.MODEL_WEIGHT),
        ("a.bin", "data", oci.MODEL_WEIGHT),
        ("a.bin", "pickle", oci.MODEL_WEIGHT),
        ("README", "onnx", oci.MODEL_WEIGHT),
        ("config.json", "json", oci.MODEL_WEIGHT_CONFIG),
        ("merges.txt", "text", oci.MODEL_WEIGHT_CONFIG),
        ("empty.txt", "empty", oci.MODEL_WEIGHT_CONFIG),
        ("x/tokenizer.model", "data", oci.MODEL_WEIGHT_CONFIG),
        ("README", "text", oci.MODEL_DOC),
        ("docs/Guide.MD", "text", oci.MODEL_DOC),
        ("LICENSE-2.0.txt", "text", oci.MODEL_DOC),
        ("readme_not/x.txt", "text", oci.MODEL_WEIGHT_CONFIG),
    ],
)
def test_layers_are_typed_by_content_and_text_by_name(path: str, form: str, expected: str) -> None:
    assert layer_type(path, form) == expected


def good() -> tuple[oci.Manifest, dict[str, Any]]:
    manifest, config = emit_model("m", "MIT", FILES)
    return oci.parse_manifest(manifest), parse(config, what="config")


def test_a_config_with_anything_more_or_less_is_refused() -> None:
    manifest, config = good()
    assert read_model(manifest, emit(config), what="m").name == "m"
    changes: tuple[dict[str, Any], ...] = (
        {"minVram": 1},
        {"descriptor": {}},
        {"descriptor": {"name": "m", "licenses": ["a", "b"]}},
        {"descriptor": {"name": "m", "family": "x"}},
        {"config": {"precision": "fp16"}},
        {"modelfs": {"type": "layers", "diffIds": []}},
        {"modelfs": {"type": "tar", "diffIds": config["modelfs"]["diffIds"]}},
    )
    for change in changes:
        with pytest.raises(IntegrityError):
            read_model(manifest, emit(config | change), what="m")


def with_layer(manifest: oci.Manifest, **change: Any) -> oci.Manifest:
    return replace(manifest, layers=(replace(manifest.layers[0], **change), *manifest.layers[1:]))


def test_a_manifest_that_is_not_pure_is_refused() -> None:
    manifest, config = good()
    annotations = dict(manifest.layers[0].annotations)
    metadata = annotations[METADATA]
    for changed in (
        replace(manifest, artifact_type=oci.RUNTIME),
        replace(manifest, config=replace(manifest.config, media_type="application/json")),
        replace(manifest, annotations={"a": "b"}),
        replace(manifest, subject=Descriptor(oci.MANIFEST, Digest.of(b""), 0)),
        replace(manifest, layers=()),
        replace(manifest, layers=manifest.layers[::-1]),
        replace(manifest, layers=manifest.layers[:1] * 2),
        with_layer(manifest, media_type="application/vnd.cncf.model.weight.v1.tar"),
        with_layer(manifest, size=5),
        with_layer(manifest, platform={"os": "linux", "architecture": "amd64"}),
        with_layer(manifest, annotations={FILEPATH: "README.md"}),
        with_layer(manifest, annotations={METADATA: metadata}),
        with_layer(manifest, annotations=annotations | {"more": "x"}),
        with_layer(manifest, annotations=annotations | {METADATA: metadata.replace("420", "493")}),
        with_layer(manifest, annotations=annotations | {FILEPATH: "../README.md"}),
    ):
        with pytest.raises(IntegrityError):
            read_model(changed, emit(config), what="m")


def test_only_raw_layers_are_ever_written() -> None:
    assert all(media_type.endswith(".raw") for media_type in modelpack.LAYERS)
