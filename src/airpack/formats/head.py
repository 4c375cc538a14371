"""The head file `NAME.airpack`: all that is decided on before bulk data is read (docs/spec/package.md section 2).

    {"blobs":[...],"package":{...},"schema":"airpack.head/1","trust":{...}}
    sha256:<64 hex digits of the SHA-256 of every byte before this line>

Reading goes in this order, and each step is a precondition of the next:

1. size at most `Limits.HEAD`;
2. the last line, so that a damaged copy is named as damage. It finds accidents and is never a reason to trust;
3. strict canonical JSON with known fields only;
4. every name, number and base64 text bounded.

Nothing in a head is trusted yet: TUF metadata and DSSE envelopes inside it prove themselves in `crypto`.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from airpack.errors import IntegrityError
from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.types import Digest, Limits

SCHEMA: Final = "airpack.head/1"
SUFFIX: Final = ".airpack"

_WHAT = "pack head"
_LINE = re.compile(rb"sha256:[0-9a-f]{64}\n\Z")
_LINE_SIZE = 72  # bytes, with its newline
_NAME = re.compile(r"[A-Za-z0-9@_-][A-Za-z0-9._@-]{0,199}\Z")
_METADATA = Limits.ROOTS + 64  # every root, and timestamp, snapshot, targets, delegated targets
_TARGETS = 64  # policy.json, revocations.json, trusted_root.json: never one per release
_DAMAGED = "the file is damaged or incomplete: copy it again and compare with `sha256sum`"


@dataclass(frozen=True, slots=True)
class Head:
    """What a head file says.

    Law: `parse(emit(head)) == head`, and `emit(parse(data)) == data`.

    Attributes:
        metadata: TUF metadata by file name (`1.root.json`, `timestamp.json`), bytes as signed.
        targets: Small TUF targets by target name (`policy.json`), bytes as signed.
        package: Canonical bytes of the DSSE envelope over the package manifest.
        blobs: Small blobs by the digest of their bytes: index, manifests, configs, attestations.
    """

    metadata: Mapping[str, bytes]
    targets: Mapping[str, bytes]
    package: bytes
    blobs: Mapping[Digest, bytes]


def emit(head: Head) -> bytes:
    """Return the bytes of the head file.

    Raises:
        IntegrityError: They would not be read back: too many bytes, or `head.package` is not canonical JSON.
    """
    document = {
        "schema": SCHEMA,
        "trust": {"metadata": _encode_named(head.metadata), "targets": _encode_named(head.targets)},
        "package": canonical.parse_canonical(head.package, what="package envelope", limit=Limits.HEAD),
        "blobs": [_encode(head.blobs[digest]) for digest in sorted(head.blobs)],
    }
    body = canonical.emit(document) + b"\n"
    data = body + _checksum(body)
    if len(data) > Limits.HEAD:
        raise IntegrityError(
            f"{_WHAT} would have {len(data)} bytes; at most {Limits.HEAD} are read",
            hint="the release has too many or too large manifests: split it into several releases",
        )
    return data


def parse(data: bytes) -> Head:
    """Return what the head file `data` says, in the order of the module's rules.

    Args:
        data: The whole file, of at most `Limits.HEAD` bytes.

    Raises:
        IntegrityError: Too long, damaged, not canonical JSON, or any name, number or blob out of bounds.
    """
    fields = Fields(canonical.parse_canonical(_body(data), what=_WHAT, limit=Limits.HEAD), what=_WHAT)
    fields.schema(SCHEMA)
    trust = fields.table("trust")
    head = Head(
        metadata=_decode_named(trust, "metadata", most=_METADATA, end=".json"),
        targets=_decode_named(trust, "targets", most=_TARGETS),
        package=canonical.emit(fields.mapping("package")),
        blobs=_decode_blobs(fields),
    )
    trust.done()
    fields.done()
    return head


def is_intact(data: bytes) -> bool:
    """Return whether the head file `data` has the checksum in its last line; whether it is true is another question."""
    try:
        _body(data)
    except IntegrityError:
        return False
    return True


def _body(data: bytes) -> bytes:
    """Return the JSON text before the checksum line, once size and checksum held."""
    if len(data) > Limits.HEAD:
        raise IntegrityError(f"{_WHAT} has {len(data)} bytes; at most {Limits.HEAD} are read")
    at = max(len(data) - _LINE_SIZE, 0)
    body, line = data[:at], data[at:]
    if not _LINE.match(line) or not body.endswith(b"\n"):
        raise IntegrityError(
            f"{_WHAT} of {len(data)} bytes has no checksum line 'sha256:...' at byte {at}, where it must stand last",
            hint=_DAMAGED,
            offset=at,
        )
    if line != _checksum(body):
        raise IntegrityError(
            f"{_WHAT} is damaged: bytes 0 to {at} do not have the checksum in its last line", hint=_DAMAGED, offset=at
        )
    return body[:-1]


def _checksum(body: bytes) -> bytes:
    return f"{Digest.of(body)}\n".encode()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encode_named(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: _encode(data) for name, data in files.items()}


def _decode_named(trust: Fields, key: str, *, most: int, end: str = "") -> dict[str, bytes]:
    found = trust.mapping(key)
    if len(found) > most:
        raise trust.fail(f"'{key}' has {len(found)} files; at most {most} are read")
    for name in found:
        if not _NAME.match(name) or not name.endswith(end):
            raise trust.fail(f"'{key}' has a file with an odd name: {name[:80]!r}")
    return {name: _decode(trust, text, f"{key} {name}") for name, text in found.items()}


def _decode_blobs(fields: Fields) -> dict[Digest, bytes]:
    blobs = [_decode(fields, text, f"blobs[{at}]") for at, text in enumerate(fields.items("blobs", most=Limits.BLOBS))]
    digests = [Digest.of(blob) for blob in blobs]
    if any(one >= two for one, two in pairwise(digests)):
        raise fields.fail("'blobs' are not in the order of their digests, each once")
    return dict(zip(digests, blobs, strict=True))


def _decode(fields: Fields, text: Any, key: str) -> bytes:
    if not isinstance(text, str):
        raise fields.fail(f"'{key}' must be base64 text")
    data = fields.decode64(text, key)
    if len(data) > Limits.MANIFEST:
        raise fields.fail(f"'{key}' has {len(data)} bytes; at most {Limits.MANIFEST} are read")
    return data
