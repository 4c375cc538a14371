r"""A model as a pure CNCF ModelPack manifest (model-spec v0.0.7), so that other tools read it too.

    layer: {"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":...,"size":...,"annotations":{
        "org.cncf.model.filepath":"model.onnx",
        "org.cncf.model.file.metadata+json":"{\"gid\":0,\"mode\":420,...}"}}

Pure: raw layers of one file each, and no layer type, annotation or config key beside those of the specification,
because readers refuse more. Deterministic: no clock, owner or mode of the build machine gets in. Files are never
executable.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.names import check_path
from airpack.formats.oci import (
    MODEL,
    MODEL_CONFIG,
    MODEL_DOC,
    MODEL_WEIGHT,
    MODEL_WEIGHT_CONFIG,
    Manifest,
    emit_manifest,
    require,
)
from airpack.types import Descriptor, Digest, Limits

FILEPATH: Final = "org.cncf.model.filepath"
METADATA: Final = "org.cncf.model.file.metadata+json"
LAYERS: Final = frozenset({MODEL_WEIGHT, MODEL_WEIGHT_CONFIG, MODEL_DOC})

_MODE: Final = 0o644
_MTIME: Final = "1970-01-01T00:00:00Z"
_REGULAR: Final = 48  # typeflag of a regular file: tar's "0"
_TEXTUAL: Final = frozenset({"text", "json", "empty"})
_DOCUMENT = re.compile(
    r"(readme|licen[cs]e|notice|copying|authors|changelog|model_?card)([._-][^/]*)?\Z", re.IGNORECASE
)
_DOCUMENT_ENDINGS: Final = (".md", ".rst")
_SETTINGS = re.compile(r"(tokenizer|spiece|sentencepiece)[^/]*\.(model|json|bpe)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        path: Relative path below the model's folder.
        digest: Digest of the raw bytes.
        size: Length in bytes.
        format: What the bytes are, as `facts.identify` names it.
    """

    path: str
    digest: Digest
    size: int
    format: str


@dataclass(frozen=True, slots=True)
class Model:
    """What a ModelPack manifest and its config say.

    Attributes:
        name: The model's name.
        license: SPDX expression, or empty.
        format: The one format of its weights; empty when they have several or none that is known.
        layers: (path, descriptor) of each file, in order.
    """

    name: str
    license: str
    format: str
    layers: tuple[tuple[str, Descriptor], ...]


def layer_type(path: str, form: str) -> str:
    """Return the media type of the layer for a file.

    Text is documentation or configuration, by its name; tokenizers are configuration; all else is weights.

    Args:
        path: Relative path of the file.
        form: Its format by content.
    """
    name = path.rpartition("/")[2]
    if form in _TEXTUAL:
        is_document = bool(_DOCUMENT.match(name)) or name.lower().endswith(_DOCUMENT_ENDINGS)
        return MODEL_DOC if is_document else MODEL_WEIGHT_CONFIG
    return MODEL_WEIGHT_CONFIG if _SETTINGS.match(name) else MODEL_WEIGHT


def emit_model(name: str, licence: str, files: Sequence[ModelFile]) -> tuple[bytes, bytes]:
    """Return (manifest, config) of a model; equal files in any order give equal bytes.

    Args:
        name: The model's name.
        licence: SPDX expression, or empty.
        files: At least one.

    Raises:
        InputError: The manifest would be too large.
    """
    ordered = sorted(files, key=lambda file: file.path)
    layers = tuple(_layer(file) for file in ordered)
    descriptor: dict[str, Any] = {"name": name}
    if licence:
        descriptor["licenses"] = [licence]
    form = _weights_format(ordered)
    config = emit(
        {
            "descriptor": descriptor,
            "config": {"format": form} if form else {},
            "modelfs": {"type": "layers", "diffIds": [layer.digest.value for layer in layers]},
        }
    )
    manifest = Manifest(
        artifact_type=MODEL,
        config=Descriptor(media_type=MODEL_CONFIG, digest=Digest.of(config), size=len(config)),
        layers=layers,
    )
    return emit_manifest(manifest), config


def read_model(manifest: Manifest, config: bytes, *, what: str) -> Model:
    """Return what a model's manifest and config say, once they are pure ModelPack of airpack's form.

    Args:
        manifest: The parsed manifest.
        config: The bytes of its config, whose digest was checked.
        what: The component, for messages.

    Raises:
        IntegrityError: A media type, annotation, path or config field is not of that form, or they disagree.
    """
    require(manifest.artifact_type == MODEL, f"{what}: artifactType is not {MODEL}")
    require(manifest.config.media_type == MODEL_CONFIG, f"{what}: the config's media type is not {MODEL_CONFIG}")
    require(not manifest.annotations and manifest.subject is None, f"{what}: not a pure ModelPack manifest")
    layers = tuple((_layer_path(layer, what), layer) for layer in manifest.layers)
    paths = [path for path, _ in layers]
    require(bool(paths) and paths == sorted(set(paths)), f"{what}: its layers are not one or more files in order")
    fields = Fields(parse_canonical(config, what=f"{what} config"), what=f"{what} config")
    descriptor, settings, modelfs = fields.table("descriptor"), fields.table("config"), fields.table("modelfs")
    licences = descriptor.texts("licenses", most=1, default=[])
    model = Model(
        name=descriptor.text("name"),
        license=licences[0] if licences else "",
        format=settings.text("format", ""),
        layers=layers,
    )
    modelfs.text("type", choices=("layers",))
    found = modelfs.texts("diffIds", most=Limits.FILES)
    require(found == [layer.digest.value for layer in manifest.layers], f"{what}: diffIds are not those of the layers")
    for table in (descriptor, settings, modelfs, fields):
        table.done()
    return model


def _layer(file: ModelFile) -> Descriptor:
    return Descriptor(
        media_type=layer_type(file.path, file.format),
        digest=file.digest,
        size=file.size,
        annotations=_annotations(file.path, file.size),
    )


def _annotations(path: str, size: int) -> Mapping[str, str]:
    metadata = {
        "name": path.rpartition("/")[2],
        "mode": _MODE,
        "uid": 0,
        "gid": 0,
        "size": size,
        "mtime": _MTIME,
        "typeflag": _REGULAR,
    }
    return {FILEPATH: path, METADATA: json.dumps(metadata, sort_keys=True, separators=(",", ":"))}


def _layer_path(layer: Descriptor, what: str) -> str:
    """Return the path of a layer that has exactly the annotations this path and size give."""
    if layer.media_type not in LAYERS:
        raise IntegrityError(f"{what}: {layer.media_type} is not a raw layer of ModelPack")
    path = check_path(layer.annotations.get(FILEPATH, ""))
    require(
        dict(layer.annotations) == _annotations(path, layer.size) and not layer.artifact_type and not layer.platform,
        f"{what}: the layer of {path} carries other annotations than its path and size give",
    )
    return path


def _weights_format(files: Sequence[ModelFile]) -> str:
    """Return the one recognised format of the weights; plain data beside it (external tensors) does not count."""
    weights = {file.format for file in files if layer_type(file.path, file.format) == MODEL_WEIGHT} - {"data"}
    return weights.pop() if len(weights) == 1 else ""
