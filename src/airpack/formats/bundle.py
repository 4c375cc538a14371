"""Sigstore bundles v0.3 of one DSSE envelope signed by a local key, and the OCI manifest that attaches one.

    {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
     "verificationMaterial": {"publicKey": {"hint": base64(sha256(SPKI DER))}, "tlogEntries": []},
     "dsseEnvelope": {...one signature...}}

Exactly one signature, because cosign refuses two: a second person signs a second bundle. The hint is for people and
messages; no decision rests on it. The form is the one that cosign, npm's verifier and sigstore-models all read.
"""

from typing import Final

from airpack.errors import IntegrityError
from airpack.formats import dsse, oci
from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse as parse_json
from airpack.formats.dsse import Envelope
from airpack.formats.fields import Fields
from airpack.types import Descriptor, Digest, Limits

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
EMPTY: Final = b"{}"
"""The OCI empty config (image-spec v1.1, manifest.md, "Guidance for an Empty Descriptor"): a blob of every release."""
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"

_CONTENT = "dev.sigstore.bundle.content"
_PREDICATE = "dev.sigstore.bundle.predicateType"
_CREATED = "org.opencontainers.image.created"
_ANNOTATIONS = 64


def emit(envelope: Envelope, hint: str) -> bytes:
    """Return the bundle of `envelope` as canonical JSON.

    Args:
        envelope: With exactly one signature.
        hint: `PublicKey.hint` of the key that signed.

    Raises:
        ValueError: Not exactly one signature (a caller's bug).
    """
    if len(envelope.signatures) != 1:
        raise ValueError(f"a bundle holds exactly one signature, not {len(envelope.signatures)}")
    return emit_canonical(
        {
            "mediaType": MEDIA_TYPE,
            # cosign accepts "tlogEntries" empty or absent; sigstore-models reads it only where it is present.
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": dsse.to_value(envelope),
        }
    )


def parse(data: bytes) -> tuple[Envelope, str]:
    """Read a bundle: strict JSON, known fields only; also as cosign writes it for a local key.

    Returns:
        The envelope, unverified and with exactly one signature, and the hint, which is not to be trusted.

    Raises:
        IntegrityError: Not such a bundle: another media type, a certificate, a message signature, log entries, not
            exactly one signature.
    """
    fields = Fields(parse_json(data, what="Sigstore bundle"), what="Sigstore bundle")
    fields.text("mediaType", choices=(MEDIA_TYPE,))
    hint = _hint(fields.table("verificationMaterial"))
    envelope = dsse.from_fields(fields.table("dsseEnvelope"))
    fields.done()
    if len(envelope.signatures) != 1:
        raise fields.fail(f"holds {len(envelope.signatures)} signatures; exactly one is expected")
    return envelope, hint


def referrer(bundle: bytes, subject: Descriptor, predicate_type: str, created: str) -> bytes:
    """Return the manifest that attaches `bundle` to `subject`: what cosign 3 writes, as canonical JSON.

    The manifest names two blobs: `bundle` and `EMPTY`.

    Args:
        bundle: The bundle's bytes.
        subject: The release index.
        predicate_type: Of the statement in the bundle.
        created: RFC 3339 time; a fixed one keeps the manifest reproducible.
    """
    layer = Descriptor(MEDIA_TYPE, Digest.of(bundle), len(bundle))
    empty = Descriptor(EMPTY_TYPE, Digest.of(EMPTY), len(EMPTY))
    return emit_canonical(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": MEDIA_TYPE,
            "config": oci.emit_descriptor(empty) | {"artifactType": MEDIA_TYPE},
            "layers": [oci.emit_descriptor(layer)],
            "subject": oci.emit_descriptor(subject),
            "annotations": {_CONTENT: "dsse-envelope", _PREDICATE: predicate_type, _CREATED: created},
        }
    )


def is_referrer(data: bytes) -> bool:
    """Return whether `data` is a manifest that refers to another; says nothing about whether it is a good one."""
    try:
        value = parse_json(data, what="blob", limit=Limits.MANIFEST)
    except IntegrityError:
        return False
    return isinstance(value, dict) and value.get("mediaType") == oci.MANIFEST and "subject" in value


def parse_referrer(manifest: bytes) -> tuple[Descriptor, Descriptor]:
    """Read a manifest that `referrer` or cosign wrote.

    Returns:
        Descriptors of the subject and of the bundle. Nothing here is signed: what the bundle is about, its statement
        says.

    Raises:
        IntegrityError: Another kind of manifest, or not exactly one layer.
    """
    what = "attestation manifest"
    fields = Fields(parse_json(manifest, what=what, limit=Limits.MANIFEST), what=what)
    fields.integer("schemaVersion", low=2, high=2)
    fields.text("mediaType", choices=(oci.MANIFEST,))
    fields.text("artifactType", choices=(MEDIA_TYPE,))
    _parse_descriptor(fields.table("config"), EMPTY_TYPE)
    layers = fields.tables("layers", most=1)
    subject = _parse_descriptor(fields.table("subject"), "")
    annotations = fields.mapping("annotations", {})
    fields.done()
    if len(layers) != 1:
        raise fields.fail("has no layer; the bundle is expected as its one layer")
    if len(annotations) > _ANNOTATIONS or not all(isinstance(value, str) for value in annotations.values()):
        raise fields.fail(f"'annotations' must be at most {_ANNOTATIONS} strings")
    return subject, _parse_descriptor(layers[0], MEDIA_TYPE)


def _hint(material: Fields) -> str:
    key = material.table("publicKey")
    hint = key.text("hint", "")
    key.done()
    if material.items("tlogEntries", most=1, default=[]):
        raise material.fail(
            "'tlogEntries' must be absent or empty: keys come from the channel's policy, not from a log"
        )
    material.done()
    return hint


def _parse_descriptor(fields: Fields, media_type: str) -> Descriptor:
    """Read a descriptor of `media_type` ("" for any); `urls` and `data` are refused as unknown."""
    found = Descriptor(
        fields.text("mediaType", choices=(media_type,) if media_type else ()),
        fields.digest("digest"),
        fields.integer("size", high=Limits.DOCUMENT),
        artifact_type=fields.text("artifactType", ""),
    )
    fields.done()
    return found
