"""in-toto Statements v1 and the predicates that airpack writes. Plain canonical JSON.

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": "encoder@1.2.0", "digest": {"sha256": HEX}}],
     "predicateType": URI, "predicate": {...}}

The in-toto-attestation protobufs are not used to write: they turn integers into floats and know SLSA's verification
summary in another shape than its specification. Tests read our statements with them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self

from airpack.formats.canonical import emit as emit_canonical
from airpack.formats.canonical import parse_canonical
from airpack.formats.fields import Fields
from airpack.formats.names import check_product, check_version
from airpack.formats.times import emit_time
from airpack.types import Digest

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"

PREDICATE_RELEASE: Final = "https://airpack.dev/release/v1"
PREDICATE_PROVENANCE: Final = "https://slsa.dev/provenance/v1"
PREDICATE_COSIGN: Final = "https://sigstore.dev/cosign/sign/v1"
PREDICATE_BOM: Final = "https://cyclonedx.org/bom"  # as cosign, syft and in-toto call it, whatever its version
PREDICATE_VSA: Final = "https://slsa.dev/verification_summary/v1"

_CHANNEL = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*\Z", re.ASCII)
_CHANNEL_SIZE = 63  # characters


def is_channel_name(text: str) -> bool:
    """Return whether `text` can name a channel: as a product name, `[a-z0-9]+([._-][a-z0-9]+)*`, at most 63 long."""
    return len(text) <= _CHANNEL_SIZE and _CHANNEL.match(text) is not None


@dataclass(frozen=True, slots=True)
class Statement:
    """Says one thing about one subject: in-toto attestation framework v1, statement.md.

    Attributes:
        name: The subject's name, for people: `PRODUCT@VERSION`.
        digest: The subject's digest, which alone identifies it.
        predicate_type: URI that says how to read `predicate`.
        predicate: A JSON object without floats.
    """

    name: str
    digest: Digest
    predicate_type: str
    predicate: Mapping[str, Any]

    def emit(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return emit_canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": self.name, "digest": {"sha256": self.digest.hex}}],
                "predicateType": self.predicate_type,
                "predicate": dict(self.predicate),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a statement. Call it with bytes that a signature check has returned, and with no others.

        Raises:
            IntegrityError: Not canonical JSON, `_type` is another (in-toto links share the payload type), not exactly
                one subject, not exactly one SHA-256 digest, an unknown field.
        """
        fields = Fields(parse_canonical(data, what="statement"), what="statement")
        fields.text("_type", choices=(STATEMENT_TYPE,))
        subjects = fields.tables("subject", most=1)
        predicate_type = fields.text("predicateType")
        predicate = fields.mapping("predicate")
        fields.done()
        if not subjects:
            raise fields.fail("'subject' is empty; exactly one is expected")
        if not predicate_type:
            raise fields.fail("'predicateType' is empty")
        name, digest = _subject(subjects[0])
        return cls(name, digest, predicate_type, predicate)


@dataclass(frozen=True, slots=True)
class ReleasePredicate:
    """The predicate of `https://airpack.dev/release/v1`: these keys release the subject (docs/spec/trust.md).

    Attributes:
        product: Product name.
        version: Version name.
        sequence: Position in the product's history, from 1; sites hold a floor of it.
        channel: The channel it is released on, so that a signature for one channel is none for another.
        compat: Digest of the compatibility document.
    """

    product: str
    version: str
    sequence: int
    channel: str
    compat: Digest

    def emit(self) -> dict[str, Any]:
        """Return the predicate as a JSON value."""
        return {
            "product": self.product,
            "version": self.version,
            "sequence": self.sequence,
            "channel": self.channel,
            "compat": self.compat.value,
        }

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read the predicate of a verified statement.

        Raises:
            IntegrityError: A field is missing, unknown or of another type, or holds what no name or sequence is.
        """
        fields = Fields(value, what="release predicate")
        found = cls(
            product=check_product(fields.text("product")),
            version=check_version(fields.text("version")),
            sequence=fields.integer("sequence", low=1),
            channel=fields.text("channel"),
            compat=fields.digest("compat"),
        )
        fields.done()
        if not is_channel_name(found.channel):
            raise fields.fail(f"'channel' is {found.channel[:80]!r}; a name such as 'main' is expected")
        return found


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that a predicate points to: in-toto ResourceDescriptor v1 with a SHA-256 digest.

    Attributes:
        digest: Its digest.
        name: Its name there; empty for none.
        uri: Where it came from; empty for none.
    """

    digest: Digest
    name: str = ""
    uri: str = ""

    def emit(self) -> dict[str, Any]:
        """Return the descriptor as a JSON value."""
        value: dict[str, Any] = {"digest": {"sha256": self.digest.hex}}
        if self.name:
            value["name"] = self.name
        if self.uri:
            value["uri"] = self.uri
        return value


def provenance(
    *,
    build_type: str,
    external_parameters: Mapping[str, Any],
    resolved_dependencies: Sequence[Resource],
    byproducts: Sequence[Resource] = (),
    builder_id: str,
    builder_version: str,
    started: datetime,
    finished: datetime,
) -> dict[str, Any]:
    """Return a SLSA provenance predicate (slsa.dev/spec/v1.0/provenance): what went in, by what, how.

    Args:
        build_type: URI that says how to read `external_parameters`.
        external_parameters: What the caller of the build chose; JSON without floats.
        resolved_dependencies: All that went in.
        byproducts: What else came out, beside the subject.
        builder_id: URI of who built, as far as the reader's trust goes.
        builder_version: Version of airpack.
        started: When the build began.
        finished: When it ended.
    """
    details: dict[str, Any] = {
        "builder": {"id": builder_id, "version": {"airpack": builder_version}},
        "metadata": {"startedOn": emit_time(started), "finishedOn": emit_time(finished)},
    }
    if byproducts:
        details["byproducts"] = [item.emit() for item in byproducts]
    return {
        "buildDefinition": {
            "buildType": build_type,
            "externalParameters": dict(external_parameters),
            "resolvedDependencies": [item.emit() for item in resolved_dependencies],
        },
        "runDetails": details,
    }


def vsa(
    *,
    verifier_id: str,
    verifier_version: str,
    time_verified: datetime,
    resource_uri: str,
    policy: Resource,
    result: Literal["PASSED", "FAILED"],
    input_attestations: Sequence[Resource],
    verified_levels: Sequence[str],
) -> dict[str, Any]:
    """Return a SLSA verification summary predicate (slsa.dev/spec/v1.0/verification_summary): an import decision.

    Args:
        verifier_id: URI of who decided: the site.
        verifier_version: Version of airpack.
        time_verified: When.
        resource_uri: Of the release.
        policy: The policy decided by; its `uri` is required by the specification.
        result: The decision.
        input_attestations: The bundles that were looked at; each needs a `uri`.
        verified_levels: SLSA levels or own properties that hold.

    Raises:
        ValueError: The policy or an input has no `uri` (a caller's bug).
    """
    if not all(item.uri for item in (policy, *input_attestations)):
        raise ValueError("a verification summary names its policy and inputs by URI")
    return {
        "verifier": {"id": verifier_id, "version": {"airpack": verifier_version}},
        "timeVerified": emit_time(time_verified),
        "resourceUri": resource_uri,
        "policy": policy.emit(),
        "inputAttestations": [item.emit() for item in input_attestations],
        "verificationResult": result,
        "verifiedLevels": list(verified_levels),
        "slsaVersion": "1.0",
    }


def _subject(fields: Fields) -> tuple[str, Digest]:
    name = fields.text("name")
    digests = fields.table("digest")
    digest = Digest(f"sha256:{digests.text('sha256')}")
    digests.done()
    fields.done()
    return name, digest
