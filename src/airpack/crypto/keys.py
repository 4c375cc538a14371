"""Key pairs: ECDSA P-256 with SHA-256, and Ed25519. Nothing else is accepted.

Private keys are PKCS#8 PEM, encrypted when a passphrase is given; public keys are SPKI PEM. A key is known by the
SHA-256 of its SPKI DER, so that thresholds count key material and never names.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Literal, Self

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from airpack.errors import TrustError
from airpack.types import Digest

# InternalError: OpenSSL found fault with a key in a way that cryptography has no name for.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, InternalError)

Algorithm = Literal["ecdsa-p256", "ed25519"]

_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key, known by the SHA-256 of its SPKI DER.

    Attributes:
        der: SubjectPublicKeyInfo, DER (RFC 5280 section 4.1).
        algorithm: `ecdsa-p256` or `ed25519`.
    """

    der: bytes
    algorithm: Algorithm

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an SPKI PEM.

        Raises:
            TrustError: No PEM public key, or neither P-256 nor Ed25519.
        """
        try:
            key = serialization.load_pem_public_key(pem)
        except _UNREADABLE as error:
            raise TrustError(f"not a public key in PEM: {error}") from error
        return cls._wrap(key)

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Read an SPKI DER.

        Raises:
            TrustError: No DER public key, not in DER's one form, or neither P-256 nor Ed25519.
        """
        try:
            key = serialization.load_der_public_key(der)
        except _UNREADABLE as error:
            raise TrustError(f"not a public key in DER: {error}") from error
        result = cls._wrap(key)
        if result.der != der:
            raise TrustError("a public key is not in its one DER form")
        return result

    @classmethod
    def _wrap(cls, key: object) -> Self:
        if isinstance(key, ed25519.Ed25519PublicKey):
            algorithm: Algorithm = "ed25519"
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            algorithm = "ecdsa-p256"
        else:
            raise TrustError("a public key is neither ECDSA P-256 nor Ed25519; no other kind is accepted")
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(der, algorithm)

    @property
    def native(self) -> _Public:
        """The `cryptography` object."""
        key = serialization.load_der_public_key(self.der)
        assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
        return key

    @property
    def pem(self) -> bytes:
        """SPKI PEM."""
        return self.native.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> Digest:
        """SHA-256 of the SPKI DER."""
        return Digest.of(self.der)

    @property
    def hint(self) -> str:
        """What cosign writes as `publicKey.hint`: base64(sha256(SPKI DER))."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @property
    def raw(self) -> bytes:
        """The 32 bytes of an Ed25519 public key (RFC 8032).

        Raises:
            TrustError: The key is of another kind.
        """
        key = self.native
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise TrustError("an Ed25519 key is needed here")
        return key.public_bytes_raw()

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Return whether `signature` over `data` is by this key. ECDSA signatures are DER (FIPS 186-5)."""
        key = self.native
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, data)
            else:
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """A private key that signs; its bytes leave only through `to_pem`."""

    def __init__(self, native: _Private) -> None:
        self._native = native

    @classmethod
    def generate(cls, algorithm: Algorithm = "ecdsa-p256") -> Self:
        """Make a new key."""
        if algorithm == "ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None) -> Self:
        """Read a PKCS#8 PEM.

        Args:
            pem: The file's bytes.
            passphrase: None for a key that is not encrypted.

        Raises:
            TrustError: Wrong or missing passphrase, no private key, or a kind that is not accepted.
        """
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except _UNREADABLE as error:
            raise TrustError(
                f"cannot open the private key: {error}",
                hint="give its passphrase at the prompt or in the file that AIRPACK_KEY_PASSPHRASE_FILE names",
            ) from error
        if isinstance(key, ed25519.Ed25519PrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key)
        raise TrustError("the private key is neither ECDSA P-256 nor Ed25519; no other kind is accepted")

    @property
    def native(self) -> _Private:
        """The `cryptography` object."""
        return self._native

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey._wrap(self._native.public_key())  # noqa: SLF001, same module

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """Return PKCS#8 PEM, encrypted when `passphrase` is given."""
        protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self._native.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data` (Ed25519: 64 bytes; ECDSA: DER, over SHA-256)."""
        if isinstance(self._native, ed25519.Ed25519PrivateKey):
            return self._native.sign(data)
        return self._native.sign(data, ec.ECDSA(hashes.SHA256()))
