"""Signs and verifies DSSE envelopes. Verification comes first: only the bytes it returns may be parsed.

What holds, for every function that verifies:

1. a signature counts only over `pae(expected payloadType, payload)`, so no document passes as one of another kind;
2. keys are those the caller gives; what an envelope or bundle says about keys is never followed;
3. a threshold counts distinct key material over the *same* payload bytes: one key counts once, however often it
   signed and in however many envelopes;
4. a signature by an unknown key neither helps nor harms; the error names it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import ThresholdError, TrustError
from airpack.formats import bundle, dsse
from airpack.formats.dsse import PAYLOAD_TYPE_STATEMENT, Envelope
from airpack.formats.statement import Statement
from airpack.formats.trust import Role
from airpack.types import Digest

_MOST_ENVELOPES = 256  # looked at in one call; with 64 keys that is a second or two of work


def sign(key: PrivateKey, payload_type: str, payload: bytes) -> Envelope:
    """Return the envelope of `payload` with one signature by `key` (DSSE v1.0.2, protocol.md)."""
    return Envelope(payload, payload_type, (key.sign(dsse.pae(payload_type, payload)),))


def sign_statement(key: PrivateKey, statement: Statement) -> bytes:
    """Return the Sigstore bundle of `statement`, signed by `key`."""
    envelope = sign(key, PAYLOAD_TYPE_STATEMENT, statement.emit())
    return bundle.emit(envelope, key.public.hint)


def role_keys(role: Role) -> tuple[PublicKey, ...]:
    """Return the keys of a policy's role.

    Raises:
        TrustError: One is no key of an accepted kind, or not in DER's one form (two forms would count twice).
    """
    return tuple(PublicKey.from_der(der) for der in role.keys)


def verify(envelopes: Iterable[Envelope], *, keys: Sequence[PublicKey], threshold: int, payload_type: str) -> bytes:
    """Return the payload that enough of `keys` signed as `payload_type`.

    Args:
        envelopes: Untrusted; at most 256.
        keys: Those whose signatures count.
        threshold: How many distinct keys must have signed the same payload; at least 1.
        payload_type: The only type that counts.

    Raises:
        ThresholdError: Fewer keys signed any one payload.
        TrustError: Nothing is of `payload_type`, or two different payloads reach the threshold.
        ValueError: `threshold` is below 1 (a caller's bug).
    """
    tally = _Tally(keys, threshold, payload_type)
    for envelope in envelopes:
        tally.add(envelope, "")
    payloads = tally.reached()
    if len(payloads) > 1:
        raise TrustError(
            f"{len(payloads)} different documents of type {payload_type} are signed; exactly one is expected",
            payload_type=payload_type,
        )
    return payloads[0]


def verify_statement(bundles: Iterable[bytes], *, role: Role, subject: Digest) -> Statement:
    """Return the one statement of `role`'s predicateType about `subject` that enough of its keys signed.

    Bundles of other roles may be among `bundles`: their keys do not count here.

    Args:
        bundles: Untrusted Sigstore bundles; at most 256.
        role: Keys, threshold and predicateType, from the channel's policy.
        subject: Digest that the statement must be about.

    Raises:
        IntegrityError: One of `bundles` is no bundle, or what was signed is no statement.
        ThresholdError: Fewer keys than the threshold signed any one statement.
        TrustError: What they signed is of another predicateType or about another subject, or they signed two
            different statements that both fit.
    """
    if not role.predicate_type:
        raise ValueError("the role signs no statements")
    found = _signed_statements(bundles, role)
    fitting = [item for item in found if item.predicate_type == role.predicate_type and item.digest == subject]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise TrustError(
            f"{len(fitting)} different signed statements of type {role.predicate_type} are about {subject};"
            " exactly one is expected",
            predicate_type=role.predicate_type,
            subject=subject.value,
        )
    said = "; ".join(f"{item.predicate_type} about {item.digest}" for item in found[:4])
    raise TrustError(
        f"no signed statement of type {role.predicate_type} is about {subject}; signed is: {said}",
        predicate_type=role.predicate_type,
        subject=subject.value,
    )


def verify_statements(
    bundles: Iterable[bytes], *, role: Role, subject: Digest, predicate_type: str
) -> tuple[Statement, ...]:
    """Return every statement of `predicate_type` about `subject` that enough of `role`'s keys signed; perhaps none.

    For what a role's keys may say beside the one statement that the policy asks of them.

    Args:
        bundles: Untrusted Sigstore bundles; at most 256.
        role: Keys and threshold, from the channel's policy; its own predicateType is not looked at.
        subject: Digest that the statements must be about.
        predicate_type: The only type that counts.

    Raises:
        IntegrityError: One of `bundles` is no bundle, or what was signed is no statement.
        ThresholdError: Fewer keys than the threshold signed any one statement, of whatever type.
        TrustError: There is no statement at all.
    """
    found = _signed_statements(bundles, role)
    return tuple(item for item in found if item.predicate_type == predicate_type and item.digest == subject)


def _signed_statements(bundles: Iterable[bytes], role: Role) -> list[Statement]:
    tally = _Tally(role_keys(role), role.threshold, PAYLOAD_TYPE_STATEMENT)
    for data in bundles:
        tally.add(*bundle.parse(data))
    return [Statement.parse(payload) for payload in tally.reached()]


@dataclass(slots=True)
class _Tally:
    """Counts who signed what.

    Attributes:
        signers: Payload -> DER of each known key that signed it.
        unknown: Hints of signatures that no known key made, "" where there is no hint.
        other_types: Payload types that were passed over.
    """

    keys: Sequence[PublicKey]
    threshold: int
    payload_type: str
    signers: dict[bytes, set[bytes]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    other_types: set[str] = field(default_factory=set)
    looked_at: int = 0

    def __post_init__(self) -> None:
        if self.threshold < 1:
            raise ValueError("a threshold below 1 would accept what nobody signed")

    def add(self, envelope: Envelope, hint: str) -> None:
        """Try each signature of `envelope` with each key."""
        self.looked_at += 1
        if self.looked_at > _MOST_ENVELOPES:
            raise TrustError(f"more than {_MOST_ENVELOPES} signed documents; no more are looked at")
        if envelope.payload_type != self.payload_type:
            self.other_types.add(envelope.payload_type)
            return
        signed = dsse.pae(envelope.payload_type, envelope.payload)
        here: set[bytes] = set()
        for signature in envelope.signatures:
            signer = next((key for key in self.keys if key.verify(signature, signed)), None)
            if signer is None:
                self.unknown.append(hint)
            elif signer.der in here:
                raise TrustError(
                    f"one envelope holds two signatures by one key, {signer.fingerprint}: no signer makes that",
                    key=signer.fingerprint,
                )
            else:
                here.add(signer.der)
        if here:
            self.signers.setdefault(envelope.payload, set()).update(here)

    def reached(self) -> list[bytes]:
        """Return the payloads that reach the threshold: at least one.

        Raises:
            ThresholdError: None does.
            TrustError: There was nothing of the expected type.
        """
        payloads = [payload for payload, signers in self.signers.items() if len(signers) >= self.threshold]
        if payloads:
            return payloads
        if not self.signers and not self.unknown:
            found = ", ".join(ascii(kind[:80]) for kind in sorted(self.other_types)[:4]) or "nothing"
            raise TrustError(
                f"no signed document of type {self.payload_type} is there; found {found}",
                payload_type=self.payload_type,
            )
        raise self._too_few()

    def _too_few(self) -> ThresholdError:
        best = max(self.signers.values(), key=len, default=set())
        message = (
            f"{self.threshold} of {len({key.der for key in self.keys})} trusted keys must sign the same"
            f" {self.payload_type} document; {len(best)} did"
        )
        if self.unknown:
            hints = ", ".join(ascii(hint[:64]) for hint in self.unknown[:4] if hint)
            message += f", and {len(self.unknown)} signatures are by no trusted key" + (f" ({hints})" if hints else "")
        return ThresholdError(
            message,
            hint="get the missing signatures: on the build side `airpack sign`",
            threshold=self.threshold,
            signed_by=sorted(PublicKey.from_der(der).hint for der in best),
            trusted=sorted(key.hint for key in self.keys),
            unknown=[ascii(hint[:64])[1:-1] for hint in self.unknown],
        )
