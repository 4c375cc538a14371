"""Signed notes and log checkpoints: bytes to values and back. Signing and verifying is up to the caller's key.

Followed: C2SP signed-note v1.0.0 (https://c2sp.org/signed-note@v1.0.0) and tlog-checkpoint v1.0.0
(https://c2sp.org/tlog-checkpoint@v1.0.0). Stricter than the specifications allow a reader to be: base64 has one
spelling, a note is at most `MAX_NOTE` bytes with at most `MAX_SIGNATURES` signatures, and a checkpoint has no extension
lines, because those stand outside what the log's records can prove.

The example of docs/spec/evidence.md, a checkpoint of three records:

    airpack/5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40
    3
    b0mGJV4OKp19rZqcbS8VpVFRE3Ssq5dh9bT8XPhQgQI=

    — airpack/5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40 <base64 of key id and signature>
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from airpack.errors import IntegrityError

MAX_NOTE: Final = 128 << 10  # bytes: sixteen signatures of the post-quantum size of 5 kB, and text
MAX_SIGNATURES: Final = 16  # what signed-note asks every verifier to accept
KEY_ID: Final = 4  # bytes
HASH: Final = 32  # bytes of SHA-256
_ED25519: Final = b"\x01"  # signature type identifier byte
_PUBLIC: Final = 32  # bytes of an Ed25519 public key
_DASH: Final = "— "  # em dash U+2014 and a space
_MAX_SIZE: Final = 2**53 - 1  # records; what JSON numbers hold exactly
_SIZE = re.compile(r"(0|[1-9][0-9]{0,15})\Z")
_SITE = re.compile(r"[0-9a-f]{32}\Z")


def site_origin(site_id: str) -> str:
    """Return the origin of a site's log, `airpack/SITE_ID`; it is also the name of the site's note key.

    Args:
        site_id: 128 bits as 32 lower-case hex digits.

    Raises:
        ValueError: `site_id` is something else (a caller's bug).
    """
    if not _SITE.match(site_id):
        raise ValueError(f"a site id is 32 lower-case hex digits, not {site_id[:60]!r}")
    return f"airpack/{site_id}"


def key_id(name: str, public: bytes) -> bytes:
    """Return the 4-byte id of the Ed25519 key `public` (32 bytes, RFC 8032) under `name`.

    signed-note, "Ed25519 signatures": SHA-256(name || 0x0A || 0x01 || public)[:4].

    Raises:
        ValueError: `public` has another length (a caller's bug).
    """
    if len(public) != _PUBLIC:
        raise ValueError(f"an Ed25519 public key has {_PUBLIC} bytes, not {len(public)}")
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:KEY_ID]


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not verified.

    Attributes:
        name: The key's name: no spaces, no plus sign.
        key_id: 4 bytes.
        signature: What the key's algorithm made over the note's text (Ed25519: 64 bytes).
    """

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """Return the line without its newline."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the signatures under it, none of them verified.

    Attributes:
        text: The signed bytes, UTF-8, ending in a newline.
        signatures: In the order of their lines; 1 to 16.
    """

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def emit(self) -> bytes:
        """Return the note's bytes.

        Raises:
            ValueError: They would not be read back as this note (a caller's bug).
        """
        lines = "".join(f"{signature.line()}\n" for signature in self.signatures)
        data = self.text + b"\n" + lines.encode()
        try:
            same = Note.parse(data, what="note") == self
        except IntegrityError as error:
            raise ValueError(error.message) from error
        if not same:
            raise ValueError("the note's text or a signature would be read back differently")
        return data

    @classmethod
    def parse(cls, data: bytes, *, what: str) -> Self:
        """Read a signed note. The text means nothing until a signature of a known key has been verified.

        Args:
            data: The note, at most `MAX_NOTE` bytes.
            what: What is read, for messages.

        Raises:
            IntegrityError: Not a note as signed-note v1.0.0 describes, or beyond the bounds of this module.
        """
        if len(data) > MAX_NOTE:
            raise IntegrityError(f"{what} has {len(data)} bytes; a signed note of at most {MAX_NOTE} is read")
        content = _text(data, what)
        if any(character < " " and character != "\n" for character in content):
            raise IntegrityError(f"{what} holds a control character")
        # The last empty line divides, because the text may have empty lines of its own.
        text, blank, rest = content.rpartition("\n\n")
        if not blank or not text or not rest.endswith("\n"):
            raise IntegrityError(f"{what} is not a signed note: text, an empty line, signature lines")
        lines = rest[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise IntegrityError(f"{what} has {len(lines)} signature lines; at most {MAX_SIGNATURES} are read")
        return cls(f"{text}\n".encode(), tuple(_signature(line, what) for line in lines))

    def by(self, name: str, identity: bytes) -> tuple[NoteSignature, ...]:
        """Return the signatures that claim to be by the key `name` with the 4-byte key id `identity`."""
        return tuple(each for each in self.signatures if each.name == name and each.key_id == identity)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from error


def _signature(line: str, what: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).rpartition(" ")
    if not line.startswith(_DASH) or not space or not _is_name(name):
        raise IntegrityError(f"{what}: not a signature line, `— <name> <base64>`: {line[:80]!r}")
    raw = _base64(encoded, f"{what}: the signature of {name[:80]}")
    if len(raw) <= KEY_ID:
        raise IntegrityError(f"{what}: the signature of {name[:80]} is empty")
    return NoteSignature(name, raw[:KEY_ID], raw[KEY_ID:])


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() for character in name)


def _base64(text: str, what: str) -> bytes:
    """Decode RFC 4648 section 4, in its one canonical spelling."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"{what} is not base64: {error}") from error
    if base64.b64encode(raw).decode() != text:
        raise IntegrityError(f"{what} is not base64 in its one canonical spelling")
    return raw


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's tree head: tlog-checkpoint v1.0.0, "Note text".

    Attributes:
        origin: Who the log is: `airpack/SITE_ID`.
        size: Number of records.
        root: RFC 6962 root hash of those records, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> bytes:
        """Return the note text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @classmethod
    def parse(cls, text: bytes, *, what: str) -> Self:
        """Read the text of a note whose signature has been verified.

        Args:
            text: The note's text with its final newline.
            what: What is read, for messages.

        Raises:
            IntegrityError: Not UTF-8; not three lines of origin, size without leading zeros, and 32-byte root; or
                extension lines.
        """
        lines = _text(text, what).split("\n")
        if len(lines) != 4 or lines[3]:  # noqa: PLR2004, three lines and what follows the last newline
            raise IntegrityError(f"{what}: a checkpoint has three lines (origin, size, root); found {len(lines) - 1}")
        origin, size, root = lines[:3]
        if not _is_name(origin):
            raise IntegrityError(f"{what}: not an origin: {origin[:80]!r}")
        if not _SIZE.match(size) or int(size) > _MAX_SIZE:
            raise IntegrityError(f"{what}: not a tree size in decimal without leading zeros: {size[:40]!r}")
        digest = _base64(root, f"{what}: the root hash")
        if len(digest) != HASH:
            raise IntegrityError(f"{what}: the root hash has {len(digest)} bytes; expected {HASH}")
        return cls(origin, int(size), digest)
