import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import CryptoSigner

from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.crypto.signing import role_keys, sign, sign_statement, verify, verify_statement, verify_statements
from airpack.errors import IntegrityError, ThresholdError, TrustError
from airpack.formats import bundle
from airpack.formats.dsse import PAYLOAD_TYPE_STATEMENT, Envelope
from airpack.formats.statement import PREDICATE_BOM, PREDICATE_PROVENANCE, PREDICATE_RELEASE, Statement
from airpack.formats.trust import Role
from airpack.types import Digest

TYPE = "application/vnd.airpack.package.v1+json"
A, B, C = (PrivateKey.generate("ed25519") for _ in range(3))
SUBJECT = Digest.of(b"index")


def check(envelopes: Sequence[Envelope], *keys: PrivateKey, threshold: int = 1) -> bytes:
    return verify(envelopes, keys=[key.public for key in keys], threshold=threshold, payload_type=TYPE)


def statement(predicate_type: str = PREDICATE_RELEASE, subject: Digest = SUBJECT, name: str = "enc@1") -> Statement:
    return Statement(name, subject, predicate_type, {"sequence": 1})


def role(*keys: PrivateKey, threshold: int = 1, predicate_type: str = PREDICATE_RELEASE) -> Role:
    return Role(threshold, tuple(key.public.der for key in keys), predicate_type=predicate_type)


class TestVerify:
    @pytest.mark.parametrize("key", [PrivateKey.generate("ecdsa-p256"), A])
    def test_returns_the_signed_bytes(self, key: PrivateKey) -> None:
        assert check([sign(key, TYPE, b"payload")], key) == b"payload"

    def test_agrees_with_securesystemslib(self) -> None:
        signer = CryptoSigner(A.native)
        other = OtherEnvelope(b"payload", TYPE, {})
        signature = bytes.fromhex(other.sign(signer).signature)
        assert check([Envelope(b"payload", TYPE, (signature,))], A) == b"payload"

    def test_a_threshold_is_reached_by_two_envelopes_of_one_payload(self) -> None:
        assert check([sign(A, TYPE, b"p"), sign(B, TYPE, b"p")], A, B, C, threshold=2) == b"p"

    def test_a_threshold_is_reached_by_two_signatures_in_one_envelope(self) -> None:
        both = Envelope(b"p", TYPE, (*sign(A, TYPE, b"p").signatures, *sign(B, TYPE, b"p").signatures))
        assert check([both], A, B, threshold=2) == b"p"

    @pytest.mark.parametrize("threshold", [1, 2])
    def test_one_key_signs_once_in_one_envelope(self, threshold: int) -> None:
        key = PrivateKey.generate("ecdsa-p256")  # whose signatures differ each time
        twice = Envelope(b"p", TYPE, (*sign(key, TYPE, b"p").signatures, *sign(key, TYPE, b"p").signatures))
        assert twice.signatures[0] != twice.signatures[1]
        with pytest.raises(TrustError, match="two signatures by one key"):
            check([twice], key, B, threshold=threshold)

    def test_one_key_counts_once_in_many_envelopes(self) -> None:
        with pytest.raises(ThresholdError, match=r"2 of 2 trusted keys must sign the same .* document; 1 did"):
            check([sign(A, TYPE, b"p")] * 5, A, B, threshold=2)

    def test_one_key_listed_twice_counts_once(self) -> None:
        with pytest.raises(ThresholdError, match="2 of 1 trusted keys"):
            check([sign(A, TYPE, b"p")] * 2, A, A, threshold=2)

    def test_two_keys_must_sign_the_same_payload(self) -> None:
        with pytest.raises(ThresholdError, match="1 did"):
            check([sign(A, TYPE, b"p"), sign(B, TYPE, b"q")], A, B, threshold=2)

    def test_an_unknown_key_neither_helps_nor_harms(self) -> None:
        envelopes = [sign(C, TYPE, b"evil"), sign(C, TYPE, b"p"), sign(A, TYPE, b"p")]
        assert check(envelopes, A, B) == b"p"
        with pytest.raises(ThresholdError, match="1 did, and 2 signatures are by no trusted key"):
            check(envelopes, A, B, threshold=2)

    def test_another_payload_type_never_counts(self) -> None:
        envelope = sign(A, "application/vnd.airpack.grant.v1+json", b"p")
        with pytest.raises(TrustError, match=r"no signed document of type .*package.*; found .*grant"):
            check([envelope], A)

    def test_a_signature_is_bound_to_the_payload_type(self) -> None:
        signature = sign(A, "application/vnd.airpack.grant.v1+json", b"p").signatures
        with pytest.raises(ThresholdError, match="0 did"):
            check([Envelope(b"p", TYPE, signature)], A)

    def test_a_changed_payload_is_refused(self) -> None:
        with pytest.raises(ThresholdError, match="0 did"):
            check([Envelope(b"q", TYPE, sign(A, TYPE, b"p").signatures)], A)

    def test_two_documents_that_both_hold_are_one_too_many(self) -> None:
        with pytest.raises(TrustError, match="2 different documents"):
            check([sign(A, TYPE, b"p"), sign(A, TYPE, b"q")], A)

    def test_nothing_is_not_enough(self) -> None:
        with pytest.raises(TrustError, match="found nothing"):
            check([], A)

    @pytest.mark.parametrize("threshold", [0, -1])
    def test_a_threshold_below_one_is_a_bug(self, threshold: int) -> None:
        with pytest.raises(ValueError, match="below 1"):
            check([sign(A, TYPE, b"p")], A, threshold=threshold)

    def test_no_keys_accept_nothing(self) -> None:
        with pytest.raises(ThresholdError, match="0 trusted keys"):
            check([sign(A, TYPE, b"p")])

    def test_looks_at_a_bounded_number_only(self) -> None:
        with pytest.raises(TrustError, match="more than 256"):
            check([sign(A, TYPE, b"p")] * 257, A)

    def test_lengths_in_the_signed_bytes_count_bytes(self) -> None:
        kind = "application/vnd.é+json"
        assert verify([sign(A, kind, b"p")], keys=[A.public], threshold=1, payload_type=kind) == b"p"


class TestVerifyStatement:
    def test_returns_the_statement(self) -> None:
        found = verify_statement([sign_statement(A, statement())], role=role(A), subject=SUBJECT)
        assert found == statement()

    def test_two_people_sign_two_bundles(self) -> None:
        bundles = [sign_statement(key, statement()) for key in (A, B)]
        assert verify_statement(bundles, role=role(A, B, C, threshold=2), subject=SUBJECT) == statement()

    def test_two_bundles_by_one_key_count_once(self) -> None:
        key = PrivateKey.generate("ecdsa-p256")
        bundles = [sign_statement(key, statement()) for _ in range(2)]
        assert bundles[0] != bundles[1]
        with pytest.raises(ThresholdError, match="1 did"):
            verify_statement(bundles, role=role(key, B, threshold=2), subject=SUBJECT)

    def test_bundles_of_other_roles_are_passed_over(self) -> None:
        bundles = [sign_statement(B, statement(PREDICATE_PROVENANCE)), sign_statement(A, statement())]
        assert verify_statement(bundles, role=role(A), subject=SUBJECT).predicate_type == PREDICATE_RELEASE

    def test_a_key_of_two_roles_signs_both(self) -> None:
        bundles = [sign_statement(A, statement(PREDICATE_PROVENANCE)), sign_statement(A, statement())]
        for kind in (PREDICATE_RELEASE, PREDICATE_PROVENANCE):
            assert verify_statement(bundles, role=role(A, predicate_type=kind), subject=SUBJECT).predicate_type == kind

    def test_a_builder_key_cannot_release(self) -> None:
        with pytest.raises(ThresholdError, match="0 did") as caught:
            verify_statement([sign_statement(B, statement())], role=role(A), subject=SUBJECT)
        assert B.public.hint in caught.value.message
        assert caught.value.context["unknown"] == [B.public.hint]
        assert caught.value.context["trusted"] == [A.public.hint]

    def test_another_predicate_type_by_the_right_key_is_refused(self) -> None:
        bundles = [sign_statement(A, statement(PREDICATE_PROVENANCE))]
        with pytest.raises(TrustError, match=f"no signed statement of type {PREDICATE_RELEASE}"):
            verify_statement(bundles, role=role(A), subject=SUBJECT)

    def test_another_subject_is_refused(self) -> None:
        other = Digest.of(b"other")
        with pytest.raises(TrustError, match=f"is about {SUBJECT}; signed is: .* about {other}"):
            verify_statement([sign_statement(A, statement(subject=other))], role=role(A), subject=SUBJECT)

    def test_statements_that_contradict_each_other_are_refused(self) -> None:
        bundles = [sign_statement(A, statement(name=name)) for name in ("enc@1", "enc@2")]
        with pytest.raises(TrustError, match="2 different signed statements"):
            verify_statement(bundles, role=role(A), subject=SUBJECT)

    def test_what_too_few_signed_is_never_parsed(self) -> None:
        evil = bundle.emit(sign(A, PAYLOAD_TYPE_STATEMENT, b"{ not json"), A.public.hint)
        with pytest.raises(ThresholdError):
            verify_statement([evil], role=role(A, B, threshold=2), subject=SUBJECT)

    def test_signed_bytes_that_are_no_statement_are_refused(self) -> None:
        link = bundle.emit(sign(A, PAYLOAD_TYPE_STATEMENT, b'{"_type":"link"}'), A.public.hint)
        with pytest.raises(IntegrityError, match="_type"):
            verify_statement([link], role=role(A), subject=SUBJECT)

    def test_a_hint_decides_nothing(self) -> None:
        lying = bundle.emit(sign(B, PAYLOAD_TYPE_STATEMENT, statement().emit()), A.public.hint)
        with pytest.raises(ThresholdError):
            verify_statement([lying], role=role(A), subject=SUBJECT)
        odd = bundle.emit(sign(A, PAYLOAD_TYPE_STATEMENT, statement().emit()), "\x1b[2Jnobody")
        assert verify_statement([odd], role=role(A), subject=SUBJECT) == statement()

    def test_a_hint_cannot_reach_the_terminal(self) -> None:
        odd = bundle.emit(sign(B, PAYLOAD_TYPE_STATEMENT, statement().emit()), "\x1b[2Jnobody")
        with pytest.raises(ThresholdError) as caught:
            verify_statement([odd], role=role(A), subject=SUBJECT)
        assert "\x1b" not in caught.value.message + repr(caught.value.context)

    def test_a_role_without_statements_is_a_bug(self) -> None:
        with pytest.raises(ValueError, match="signs no statements"):
            verify_statement([], role=role(A, predicate_type=""), subject=SUBJECT)


def test_role_keys_are_read_from_the_policy() -> None:
    assert role_keys(role(A, B)) == (A.public, B.public)
    with pytest.raises(TrustError):
        role_keys(Role(1, (b"junk",), predicate_type=PREDICATE_RELEASE))


def test_a_bundle_names_its_key_as_cosign_does() -> None:
    envelope, hint = bundle.parse(sign_statement(A, statement()))
    assert envelope.payload == statement().emit()
    assert base64.b64decode(hint) == PublicKey.from_der(A.public.der).fingerprint.raw


def test_the_example_of_the_specification_page_can_be_made_again() -> None:
    """Ed25519 is deterministic, and the key is that of RFC 8032 section 7.1, test 1."""
    page = (Path(__file__).parents[3] / "docs/spec/trust.md").read_text()
    example, payload = re.findall(r"```json\n(.*?)```", page, re.DOTALL)[:2]
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    shown = json.loads(payload)
    made = sign_statement(
        key,
        Statement(
            shown["subject"][0]["name"],
            Digest("sha256:" + shown["subject"][0]["digest"]["sha256"]),
            shown["predicateType"],
            shown["predicate"],
        ),
    )
    assert json.loads(made) == json.loads(example)


class TestVerifyStatements:
    """What a role's keys say beside the one statement that the policy asks of them."""

    BUILDER = role(A, B, predicate_type=PREDICATE_PROVENANCE)

    def found(self, *bundles: bytes, role: Role = BUILDER) -> tuple[Statement, ...]:
        return verify_statements(bundles, role=role, subject=SUBJECT, predicate_type=PREDICATE_BOM)

    def test_returns_those_of_the_type_about_the_subject(self) -> None:
        one, two = statement(PREDICATE_BOM), statement(PREDICATE_BOM, name="enc@2")
        signed = [sign_statement(A, one), sign_statement(B, two), sign_statement(A, statement(PREDICATE_PROVENANCE))]
        assert self.found(*signed) == (one, two)

    def test_returns_none_where_the_keys_signed_other_things_only(self) -> None:
        elsewhere = statement(PREDICATE_BOM, Digest.of(b"another"))
        assert self.found(sign_statement(A, statement(PREDICATE_PROVENANCE)), sign_statement(B, elsewhere)) == ()

    def test_one_statement_in_two_bundles_is_one(self) -> None:
        assert (
            len(self.found(sign_statement(A, statement(PREDICATE_BOM)), sign_statement(B, statement(PREDICATE_BOM))))
            == 1
        )

    def test_other_keys_do_not_count(self) -> None:
        signed = [sign_statement(C, statement(PREDICATE_BOM)), sign_statement(A, statement(PREDICATE_PROVENANCE))]
        assert self.found(*signed) == ()
        with pytest.raises(ThresholdError):
            self.found(signed[0])

    def test_the_threshold_of_the_role_holds(self) -> None:
        strict = role(A, B, threshold=2, predicate_type=PREDICATE_PROVENANCE)
        both = [sign_statement(key, statement(PREDICATE_PROVENANCE)) for key in (A, B)]
        one = sign_statement(A, statement(PREDICATE_BOM))
        assert self.found(*both, one, role=strict) == ()
        assert len(self.found(*both, one, sign_statement(B, statement(PREDICATE_BOM)), role=strict)) == 1

    def test_what_is_no_bundle_is_refused(self) -> None:
        with pytest.raises(IntegrityError):
            self.found(b"{}")
