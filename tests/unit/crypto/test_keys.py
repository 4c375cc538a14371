import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from airpack.crypto.keys import Algorithm, PrivateKey, PublicKey
from airpack.errors import TrustError
from airpack.types import Digest

ALGORITHMS: list[Algorithm] = ["ecdsa-p256", "ed25519"]
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEachKind:
    def test_survives_pem(self, algorithm: Algorithm) -> None:
        key = PrivateKey.generate(algorithm)
        assert PrivateKey.from_pem(key.to_pem(None), None).public == key.public
        assert PublicKey.from_pem(key.public.pem) == key.public
        assert PublicKey.from_der(key.public.der) == key.public
        assert key.public.algorithm == algorithm

    def test_is_encrypted_under_a_passphrase(self, algorithm: Algorithm) -> None:
        key = PrivateKey.generate(algorithm)
        pem = key.to_pem(b"correct horse")
        assert b"ENCRYPTED" in pem
        assert PrivateKey.from_pem(pem, b"correct horse").public == key.public

    @pytest.mark.parametrize("passphrase", [None, b"wrong"])
    def test_stays_shut_without_its_passphrase(self, algorithm: Algorithm, passphrase: bytes | None) -> None:
        pem = PrivateKey.generate(algorithm).to_pem(b"correct horse")
        with pytest.raises(TrustError, match="cannot open the private key") as caught:
            PrivateKey.from_pem(pem, passphrase)
        assert "AIRPACK_KEY_PASSPHRASE_FILE" in caught.value.hint

    def test_verifies_what_it_signed_and_nothing_else(self, algorithm: Algorithm) -> None:
        key = PrivateKey.generate(algorithm)
        signature = key.sign(b"data")
        assert key.public.verify(signature, b"data")
        assert not key.public.verify(signature, b"other")
        assert not PrivateKey.generate(algorithm).public.verify(signature, b"data")

    @pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 10), slice(0, -1)])
    def test_takes_no_part_of_a_signature(self, algorithm: Algorithm, cut: slice) -> None:
        key = PrivateKey.generate(algorithm)
        assert not key.public.verify(key.sign(b"data")[cut], b"data")

    def test_takes_no_signature_with_something_after_it(self, algorithm: Algorithm) -> None:
        key = PrivateKey.generate(algorithm)
        assert not key.public.verify(key.sign(b"data") + b"\x00", b"data")

    def test_is_known_by_its_der(self, algorithm: Algorithm) -> None:
        key = PrivateKey.generate(algorithm).public
        assert key.fingerprint == Digest.of(key.der)
        assert base64.b64decode(key.hint) == hashlib.sha256(key.der).digest()


def test_ecdsa_is_the_default_because_cosign_and_hsms_have_it() -> None:
    assert PrivateKey.generate().public.algorithm == "ecdsa-p256"


def test_raw_is_of_ed25519_only() -> None:
    assert len(PrivateKey.generate("ed25519").public.raw) == 32
    with pytest.raises(TrustError, match="Ed25519"):
        _ = PrivateKey.generate("ecdsa-p256").public.raw


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_other_kinds_are_refused(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    public = key.public_key()
    with pytest.raises(TrustError, match="neither"):
        PrivateKey.from_pem(private_pem(key), None)
    with pytest.raises(TrustError, match="neither"):
        PublicKey.from_pem(public.public_bytes(serialization.Encoding.PEM, SPKI))
    with pytest.raises(TrustError, match="neither"):
        PublicKey.from_der(public.public_bytes(serialization.Encoding.DER, SPKI))


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        PublicKey.from_pem(data)
    with pytest.raises(TrustError):
        PublicKey.from_der(data)
    with pytest.raises(TrustError):
        PrivateKey.from_pem(data, None)


def test_a_key_of_ed25519_that_calls_itself_ed448_is_refused() -> None:
    pem = PrivateKey.generate("ed25519").to_pem(None)
    with pytest.raises(TrustError, match="cannot open the private key"):
        PrivateKey.from_pem(pem.replace(b"MC4CAQAwBQYDK2Vw", b"MC4CAQAwBQYDK2Vx"), None)


def test_a_compressed_point_is_not_the_one_der_form() -> None:
    """One key in two spellings would count as two."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    bits = b"\x03" + bytes([len(point) + 1]) + b"\x00" + point
    der = b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits
    with pytest.raises(TrustError, match="one DER form"):
        PublicKey.from_der(der)


def test_a_printed_private_key_shows_nothing() -> None:
    key = PrivateKey.generate()
    assert "PRIVATE" not in repr(key)
    assert key.to_pem(None).decode().splitlines()[1] not in repr(key)
