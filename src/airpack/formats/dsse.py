"""DSSE envelopes: DSSE protocol and envelope v1.0.2, in bytes only. Nothing here checks a signature.

    {"payload": base64, "payloadType": text, "signatures": [{"sig": base64}, ...]}

What is signed is never this JSON but the pre-authentication encoding (`pae`) of payload type and payload. `keyid` is
read only where it is empty: it is an unauthenticated hint that has misled verifiers, so keys are found by trying.
"""

import base64
from dataclasses import dataclass
from typing import Any, Final

from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse as parse_json
from airpack.formats.fields import Fields
from airpack.types import Limits

PAYLOAD_TYPE_STATEMENT: Final = "application/vnd.in-toto+json"
"""Of every in-toto statement (in-toto attestation framework v1, envelope)."""

MOST_SIGNATURES: Final = 16
"""Signatures read from one envelope."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and signatures that nobody has checked yet.

    Attributes:
        payload: The bytes that are to be parsed only after verification.
        payload_type: Says how to read them; it is signed too.
        signatures: Raw signature bytes, one per signature.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding (DSSE v1.0.2, protocol.md): the bytes that are signed.

    Both lengths count encoded bytes, never characters (securesystemslib before 1.6 counted characters).
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def to_value(envelope: Envelope) -> dict[str, Any]:
    """Return `envelope` as a JSON value, for a document that holds it."""
    return {
        "payload": _text64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"sig": _text64(signature)} for signature in envelope.signatures],
    }


def emit(envelope: Envelope) -> bytes:
    """Return `envelope` as canonical JSON."""
    return emit_canonical(to_value(envelope))


def from_fields(fields: Fields) -> Envelope:
    """Read the envelope that `fields` is.

    Raises:
        AirpackError: Of the kind that `fields` raises: a missing or unknown field, base64 in another spelling than
            its one canonical one, no signature or too many, an empty signature, a `keyid` that is not empty.
    """
    envelope = Envelope(
        payload=fields.base64("payload"),
        payload_type=fields.text("payloadType"),
        signatures=tuple(_signature(item) for item in fields.tables("signatures", most=MOST_SIGNATURES)),
    )
    fields.done()
    if not envelope.payload_type:
        raise fields.fail("'payloadType' is empty")
    if not envelope.signatures:
        raise fields.fail("there is no signature; at least one is needed")
    return envelope


def parse(data: bytes, what: str = "DSSE envelope", *, limit: int = Limits.DOCUMENT) -> Envelope:
    """Read an envelope: strict JSON, known fields only. It need not be canonical: what is signed is the payload.

    Args:
        data: The JSON bytes.
        what: What is read, for the message.
        limit: Largest accepted length in bytes.

    Raises:
        IntegrityError: Not strict JSON, or not an envelope as `from_fields` reads it.
    """
    return from_fields(Fields(parse_json(data, what=what, limit=limit), what=what))


def _signature(fields: Fields) -> bytes:
    signature = fields.base64("sig")
    keyid = fields.text("keyid", "")
    fields.done()
    if not signature:
        raise fields.fail("'sig' is empty")
    if keyid:
        raise fields.fail("'keyid' must be absent or empty; keys are found by trying those that the policy lists")
    return signature


def _text64(data: bytes) -> str:
    return base64.b64encode(data).decode()
