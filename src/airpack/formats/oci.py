"""OCI image indexes, manifests and descriptors: strict in, canonical out.

    {"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[...]}

OCI image-spec v1.1. Every document read here was written by airpack, so exactly one form is accepted: the bytes that
`emit_index` or `emit_manifest` would give. That refuses by construction what OCI readers have disagreed about:
documents without mediaType, `manifests` beside `layers` (CVE-2021-41190), `urls` and inline `data`.

Law: `parse_manifest(emit_manifest(m)) == m` and `emit_manifest(parse_manifest(b)) == b`, and the same for indexes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from airpack.errors import InputError, IntegrityError
from airpack.formats.canonical import emit, parse_canonical
from airpack.formats.fields import Fields
from airpack.types import Descriptor, Limits

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

MODEL: Final = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
MODEL_WEIGHT: Final = "application/vnd.cncf.model.weight.v1.raw"
MODEL_WEIGHT_CONFIG: Final = "application/vnd.cncf.model.weight.config.v1.raw"
MODEL_DOC: Final = "application/vnd.cncf.model.doc.v1.raw"

RUNTIME: Final = "application/vnd.airpack.runtime.v1+json"
RUNTIME_CONFIG: Final = "application/vnd.airpack.runtime.config.v1+json"
RUNTIME_FILE: Final = "application/vnd.airpack.runtime.file.v1.raw"

COMPAT: Final = "application/vnd.airpack.compat.v1+json"
COMPAT_CONFIG: Final = "application/vnd.airpack.compat.config.v1+json"
GOLDEN: Final = "application/vnd.airpack.golden.v1.raw"

RELEASE_ANNOTATION: Final = "dev.airpack.release"
COMPONENT_ANNOTATION: Final = "dev.airpack.component"
MODE_ANNOTATION: Final = "dev.airpack.mode"
TITLE_ANNOTATION: Final = "org.opencontainers.image.title"

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")
_VERSION: Final = 2  # schemaVersion
_ANNOTATIONS: Final = 64  # annotations of one object
_ANNOTATION: Final = 4096  # characters of one key or value
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_PLATFORM: Final = frozenset({"os", "architecture"})


@dataclass(frozen=True, slots=True)
class Manifest:
    """An OCI image manifest: image-spec v1.1, manifest.md.

    Attributes:
        artifact_type: What the artifact is; always there, since nothing here is a container image.
        config: The configuration blob.
        layers: The files, in order.
        subject: What a referrer refers to; None for anything else.
        annotations: OCI annotations.
    """

    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI image index: image-spec v1.1, image-index.md. Without artifactType, which old skopeo cannot copy."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: _NONE)


def emit_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    """Return the JSON value of `descriptor`; empty fields are left out. OCI image-spec v1.1, descriptor.md."""
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.value,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    if descriptor.artifact_type:
        value["artifactType"] = descriptor.artifact_type
    if descriptor.platform:
        value["platform"] = dict(descriptor.platform)
    return value


def read_descriptor(fields: Fields, *, limit: int = Limits.FILE) -> Descriptor:
    """Return the descriptor in `fields`, read to its end.

    Args:
        fields: The descriptor's table, not yet read.
        limit: Largest accepted `size` in bytes.

    Raises:
        AirpackError: Of the class that `fields` was made with: a field is missing, malformed, unknown, `urls` or
            `data`. OCI image-spec v1.1, descriptor.md.
    """
    for key in ("urls", "data"):
        if key in fields:
            raise fields.fail(f"'{key}' is refused: the bytes lie in the package, under their digest")
    descriptor = Descriptor(
        media_type=_media_type(fields, "mediaType"),
        digest=fields.digest("digest"),
        size=fields.integer("size", high=limit),
        annotations=_annotations(fields),
        artifact_type=_media_type(fields, "artifactType") if "artifactType" in fields else "",
        platform=_platform(fields),
    )
    fields.done()
    return descriptor


def emit_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of `manifest`.

    Raises:
        InputError: It would be larger than `Limits.MANIFEST` bytes, which registries refuse.
    """
    value: dict[str, Any] = {
        "schemaVersion": _VERSION,
        "mediaType": MANIFEST,
        "artifactType": manifest.artifact_type,
        "config": emit_descriptor(manifest.config),
        "layers": [emit_descriptor(layer) for layer in manifest.layers],
    }
    if manifest.subject is not None:
        value["subject"] = emit_descriptor(manifest.subject)
    if manifest.annotations:
        value["annotations"] = dict(manifest.annotations)
    return _bounded(value, f"the manifest of {len(manifest.layers)} files")


def parse_manifest(data: bytes, *, what: str = "manifest") -> Manifest:
    """Return the manifest whose one accepted form is `data`.

    Args:
        data: At most `Limits.MANIFEST` bytes.
        what: Its name for messages, such as its component or short digest.

    Raises:
        IntegrityError: Not canonical, not of this form, unknown fields, or bounds exceeded.
    """
    fields = _document(data, what, MANIFEST, foreign="manifests")
    manifest = Manifest(
        artifact_type=_media_type(fields, "artifactType"),
        config=read_descriptor(fields.table("config"), limit=Limits.DOCUMENT),
        layers=tuple(read_descriptor(layer) for layer in fields.tables("layers", most=Limits.FILES)),
        subject=read_descriptor(fields.table("subject"), limit=Limits.MANIFEST) if "subject" in fields else None,
        annotations=_annotations(fields),
    )
    fields.done()
    return manifest


def emit_index(index: Index) -> bytes:
    """Return the canonical bytes of `index`, whose SHA-256 is the release digest.

    Raises:
        InputError: It would be larger than `Limits.MANIFEST` bytes.
    """
    value: dict[str, Any] = {
        "schemaVersion": _VERSION,
        "mediaType": INDEX,
        "manifests": [emit_descriptor(child) for child in index.manifests],
    }
    if index.annotations:
        value["annotations"] = dict(index.annotations)
    return _bounded(value, f"the index of {len(index.manifests)} manifests")


def parse_index(data: bytes, *, what: str = "release index") -> Index:
    """Return the index whose one accepted form is `data`.

    Args:
        data: At most `Limits.MANIFEST` bytes.
        what: Its name for messages.

    Raises:
        IntegrityError: As `parse_manifest`; also when the index or a child carries `artifactType`.
    """
    fields = _document(data, what, INDEX, foreign="layers", more=("config", "artifactType", "subject"))
    children = []
    for child in fields.tables("manifests", most=Limits.BLOBS):
        if "artifactType" in child:
            raise child.fail("'artifactType' is refused: copying tools would change the digest of the index")
        children.append(read_descriptor(child, limit=Limits.MANIFEST))
    index = Index(manifests=tuple(children), annotations=_annotations(fields))
    fields.done()
    return index


def _document(data: bytes, what: str, media_type: str, *, foreign: str, more: tuple[str, ...] = ()) -> Fields:
    """Return the fields of a canonical OCI document, once it says unmistakably which kind it is."""
    fields = Fields(parse_canonical(data, what=what, limit=Limits.MANIFEST), what=what)
    fields.text("mediaType", choices=(media_type,))
    for key in (foreign, *more):
        if key in fields:
            raise fields.fail(f"'{key}' does not belong in {media_type}")
    fields.integer("schemaVersion", low=_VERSION, high=_VERSION)
    return fields


def _media_type(fields: Fields, key: str) -> str:
    """Return a media type in the form of RFC 6838 section 4.2."""
    text = fields.text(key)
    if not _MEDIA_TYPE.match(text):
        raise fields.fail(f"'{key}' is not a media type: {text[:80]!r}")
    return text


def _annotations(fields: Fields) -> Mapping[str, str]:
    return _texts(fields, "annotations")


def _platform(fields: Fields) -> Mapping[str, str]:
    platform = _texts(fields, "platform")
    if platform and platform.keys() != _PLATFORM:
        raise fields.fail("'platform' must hold os and architecture, and nothing else")
    return platform


def _texts(fields: Fields, key: str) -> Mapping[str, str]:
    """Return a table of strings; an empty one is refused, since leaving it out is the one form of that."""
    if key not in fields:
        return _NONE
    value = fields.mapping(key)
    if not 0 < len(value) <= _ANNOTATIONS:
        raise fields.fail(f"'{key}' has {len(value)} entries; expected 1 to {_ANNOTATIONS}")
    for name, text in value.items():
        if not isinstance(text, str) or not name or max(len(name), len(text)) > _ANNOTATION:
            raise fields.fail(f"'{key}' must map names to strings of at most {_ANNOTATION} characters")
    return value


def _bounded(value: dict[str, Any], what: str) -> bytes:
    data = emit(value)
    if len(data) > Limits.MANIFEST:
        raise InputError(
            f"{what} would have {len(data)} bytes; at most {Limits.MANIFEST} are allowed",
            hint="pack fewer, larger files in one component, or split it into several",
        )
    return data


def require(condition: bool, message: str) -> None:
    """Raise when signed bytes do not say what they must.

    Raises:
        IntegrityError: `condition` does not hold.
    """
    if not condition:
        raise IntegrityError(message)
