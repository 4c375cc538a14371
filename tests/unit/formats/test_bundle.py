import json
import re
from pathlib import Path
from typing import Any

import pytest
from sigstore_models.bundle.v1 import Bundle

from airpack.errors import IntegrityError
from airpack.formats import bundle
from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse_canonical
from airpack.formats.dsse import PAYLOAD_TYPE_STATEMENT, Envelope
from airpack.types import Descriptor, Digest

ENVELOPE = Envelope(b"payload", PAYLOAD_TYPE_STATEMENT, (b"signature",))
INDEX = "application/vnd.oci.image.index.v1+json"
SUBJECT = Descriptor(INDEX, Digest.of(b"index"), 5)
DATA = bundle.emit(ENVELOPE, "hint")
MANIFEST = bundle.referrer(DATA, SUBJECT, "https://airpack.dev/release/v1", "2026-03-01T12:00:00Z")
PAGE = (Path(__file__).parents[3] / "docs/spec/trust.md").read_text()


def changed(data: bytes, *path: str | int, to: Any = None) -> bytes:
    """Return the document with the value at `path` replaced, or removed when `to` is None."""
    document = json.loads(data)
    at = document
    for key in path[:-1]:
        at = at[key]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return json.dumps(document).encode()


class TestBundle:
    def test_what_is_written_reads_back(self) -> None:
        assert bundle.parse(DATA) == (ENVELOPE, "hint")

    def test_is_canonical(self) -> None:
        assert parse_canonical(DATA, what="bundle")["mediaType"] == bundle.MEDIA_TYPE

    def test_sigstore_models_reads_the_same(self) -> None:
        other = Bundle.from_json(DATA)
        assert other.dsse_envelope is not None
        assert other.dsse_envelope.payload == b"payload"
        assert other.dsse_envelope.payload_type == PAYLOAD_TYPE_STATEMENT
        assert other.verification_material.public_key is not None
        assert other.verification_material.public_key.hint == "hint"
        assert json.loads(other.to_json()) == json.loads(DATA)

    def test_as_cosign_writes_it_is_read(self) -> None:
        """cosign 3 leaves `tlogEntries` out."""
        assert bundle.parse(changed(DATA, "verificationMaterial", "tlogEntries")) == (ENVELOPE, "hint")
        assert bundle.parse(changed(DATA, "verificationMaterial", "publicKey", to={})) == (ENVELOPE, "")

    @pytest.mark.parametrize("count", [0, 2])
    def test_not_exactly_one_signature_is_refused(self, count: int) -> None:
        with pytest.raises(IntegrityError, match="signature"):
            bundle.parse(changed(DATA, "dsseEnvelope", "signatures", to=[{"sig": "AQI="}] * count))
        with pytest.raises(ValueError, match="exactly one"):
            bundle.emit(Envelope(b"p", "t", (b"s",) * count), "hint")

    @pytest.mark.parametrize(
        ("path", "to"),
        [
            (("mediaType",), None),
            (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.2"),
            (("verificationMaterial",), None),
            (("verificationMaterial", "publicKey"), None),
            (("verificationMaterial", "certificate"), {"rawBytes": ""}),
            (("verificationMaterial", "tlogEntries"), [{}]),
            (("verificationMaterial", "tlogEntries"), {}),
            (("verificationMaterial", "timestampVerificationData"), {}),
            (("verificationMaterial", "publicKey", "rawBytes"), ""),
            (("dsseEnvelope",), None),
            (("dsseEnvelope", "payloadType"), ""),
            (("messageSignature",), {}),
        ],
    )
    def test_other_shapes_are_refused(self, path: tuple[str, ...], to: object) -> None:
        with pytest.raises(IntegrityError):
            bundle.parse(changed(DATA, *path, to=to))

    def test_that_of_the_specification_page_is_read(self) -> None:
        example = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0]
        envelope, hint = bundle.parse(example.encode())
        assert envelope.payload_type == PAYLOAD_TYPE_STATEMENT
        assert hint == "BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k="


class TestReferrer:
    def test_names_subject_and_bundle(self) -> None:
        subject, found = bundle.parse_referrer(MANIFEST)
        assert subject == SUBJECT
        assert (found.media_type, found.digest, found.size) == (bundle.MEDIA_TYPE, Digest.of(DATA), len(DATA))

    def test_is_what_cosign_writes(self) -> None:
        """The manifest that cosign 3.1.1 writes and finds, field by field."""
        empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        assert (
            emit_canonical(
                {
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "artifactType": bundle.MEDIA_TYPE,
                    "config": {
                        "mediaType": "application/vnd.oci.empty.v1+json",
                        "digest": empty,
                        "size": 2,
                        "artifactType": bundle.MEDIA_TYPE,
                    },
                    "layers": [{"mediaType": bundle.MEDIA_TYPE, "digest": str(Digest.of(DATA)), "size": len(DATA)}],
                    "subject": {"mediaType": INDEX, "digest": str(SUBJECT.digest), "size": 5},
                    "annotations": {
                        "dev.sigstore.bundle.content": "dsse-envelope",
                        "dev.sigstore.bundle.predicateType": "https://airpack.dev/release/v1",
                        "org.opencontainers.image.created": "2026-03-01T12:00:00Z",
                    },
                }
            )
            == MANIFEST
        )
        assert Digest.of(bundle.EMPTY) == Digest(empty)

    def test_is_told_from_other_blobs(self) -> None:
        assert bundle.is_referrer(MANIFEST)
        for other in (DATA, b"{}", b"[]", b"weights", changed(MANIFEST, "subject"), changed(MANIFEST, "mediaType")):
            assert not bundle.is_referrer(other)

    def test_other_annotations_are_passed_over(self) -> None:
        assert bundle.parse_referrer(changed(MANIFEST, "annotations", to={"any": "thing"}))[0] == SUBJECT
        assert bundle.parse_referrer(changed(MANIFEST, "annotations"))[0] == SUBJECT

    @pytest.mark.parametrize(
        ("path", "to"),
        [
            (("schemaVersion",), 1),
            (("mediaType",), INDEX),
            (("artifactType",), "application/spdx+json"),
            (("config",), None),
            (("config", "mediaType"), "application/vnd.oci.image.config.v1+json"),
            (("config", "urls"), ["https://evil.example"]),
            (("layers",), []),
            (("layers", 0, "mediaType"), "text/plain"),
            (("layers", 0, "data"), "e30="),
            (("layers", 0, "digest"), "sha256:short"),
            (("layers", 0, "size"), -1),
            (("layers", 0, "size"), 1 << 40),
            (("subject",), None),
            (("annotations",), {"a": 1}),
            (("annotations",), {str(number): "" for number in range(65)}),
            (("manifests",), []),
        ],
    )
    def test_other_shapes_are_refused(self, path: tuple[str | int, ...], to: object) -> None:
        with pytest.raises(IntegrityError):
            bundle.parse_referrer(changed(MANIFEST, *path, to=to))

    def test_two_layers_are_refused(self) -> None:
        layer = json.loads(MANIFEST)["layers"][0]
        with pytest.raises(IntegrityError, match="at most 1"):
            bundle.parse_referrer(changed(MANIFEST, "layers", to=[layer, layer]))
