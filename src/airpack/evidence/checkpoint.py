"""Checkpoints under the site's key: the one place where a checkpoint is signed, and the one where it is believed."""

from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import TrustError
from airpack.formats.note import Checkpoint, Note, NoteSignature, key_id


def sign_checkpoint(checkpoint: Checkpoint, key: PrivateKey) -> bytes:
    """Return `checkpoint` as a note signed by `key` under the origin as its name.

    Ed25519 is deterministic (RFC 8032), so the same checkpoint has the same bytes whenever it is signed.

    Raises:
        TrustError: The key is not Ed25519.
    """
    text = checkpoint.text()
    identity = key_id(checkpoint.origin, key.public.raw)
    return Note(text, (NoteSignature(checkpoint.origin, identity, key.sign(text)),)).emit()


def open_checkpoint(data: bytes, *, origin: str, key: PublicKey, what: str) -> Checkpoint:
    """Verify a signed checkpoint and return it.

    Signatures by other keys (witnesses) are allowed and say nothing. signed-note, "Signatures": where name and key id
    match a known key, its signature must hold, each of them.

    Args:
        data: The note.
        origin: The log it must be of, `airpack/SITE_ID`; also the key's name.
        key: The site's pinned Ed25519 key.
        what: What is read, for messages.

    Raises:
        IntegrityError: Not a note, or its signed text is not a checkpoint.
        TrustError: Not signed by `key`, or of another log, or the key is not Ed25519.
    """
    note = Note.parse(data, what=what)
    signatures = note.by(origin, key_id(origin, key.raw))
    if not signatures:
        names = ", ".join(f"{each.name[:60]}+{each.key_id.hex()}" for each in note.signatures)
        raise TrustError(
            f"{what} is not signed by the key of {origin} ({key.fingerprint}); signatures on it: {names}",
            hint="the key to pin is the site's own SITE/evidence/site.pub, brought to you by another way",
        )
    if not all(key.verify(each.signature, note.text) for each in signatures):
        raise TrustError(f"{what}: the signature of {origin} does not hold")
    checkpoint = Checkpoint.parse(note.text, what=what)
    if checkpoint.origin != origin:
        raise TrustError(f"{what} is of the log {checkpoint.origin[:80]!r}; expected {origin!r}")
    return checkpoint
