"""Which bill of materials may be shown for a release: one that the builder's keys signed, and that agrees with it.

    1. statements   those about this release that the role `builder` of the policy in force signed, to its threshold
    2. named        each that a provenance among them names is there: nobody took it off on the way
    3. one          there is exactly one
    4. content      it is CycloneDX, and says of the release's parts what the release says (formats.bom)

No role of the policy asks for a bill of materials, so admission neither needs nor reads one.
This module is pure: bytes and values in, a `Bom` or an error out.
"""

from collections.abc import Collection, Iterator, Mapping

from airpack.crypto import signing
from airpack.errors import IntegrityError, NotFoundError, ThresholdError, TrustError
from airpack.formats.bom import BYPRODUCT, Bom, read_bom
from airpack.formats.canonical import emit
from airpack.formats.fields import Fields
from airpack.formats.release import Release
from airpack.formats.statement import PREDICATE_BOM, PREDICATE_PROVENANCE, Statement
from airpack.formats.trust import Role, TrustPolicy
from airpack.policy.admission import attached_bundles
from airpack.types import Digest

_BYPRODUCTS = 64  # of one provenance


def verified_bom(blobs: Mapping[Digest, bytes], release: Release, policy: TrustPolicy) -> Bom:
    """Return the bill of materials of `release`, verified before it is parsed.

    Args:
        blobs: Small blobs by digest: those of an admitted head, or those that a site keeps for the release.
        release: The release, from its trusted index.
        policy: The channel's policy in force.

    Raises:
        NotFoundError: The release carries none: nobody signed one, and the builder's provenance names none.
        TrustError: The builder's keys or threshold do not hold any more; a statement names another release; there are
            several bills of materials.
        IntegrityError: One that the provenance names is gone, or what was signed is not of this release.
    """
    role = policy.role("builder")
    bundles = attached_bundles(blobs, release).values()
    boms = _statements(bundles, role, release, PREDICATE_BOM)
    there = {_digest(statement) for statement in boms}
    gone = [
        digest
        for provenance in _statements(bundles, role, release, PREDICATE_PROVENANCE)
        for digest in _named(provenance)
        if digest not in there
    ]
    if gone:
        raise IntegrityError(
            f"the provenance of {release.name} names the bill of materials {gone[0]}, and no such one is signed by the "
            "builder: it was taken off or replaced on the way",
            hint="bring a whole copy of the package",
        )
    if not boms:
        raise NotFoundError(
            f"{release.name} carries no bill of materials",
            hint="a release keeps the attestations it was first built with; give it a new version to have one",
            release=release.digest,
        )
    if len(boms) > 1:
        raise TrustError(
            f"the builder signed {len(boms)} different bills of materials for {release.name}; expected one"
        )
    return read_bom(boms[0].predicate, release)


def _statements(bundles: Collection[bytes], role: Role, release: Release, predicate_type: str) -> tuple[Statement, ...]:
    if not bundles:
        raise ThresholdError(f"{release.name} has no attestation; one of role 'builder' is needed", role="builder")
    found = signing.verify_statements(bundles, role=role, subject=release.digest, predicate_type=predicate_type)
    for statement in found:
        if statement.name != release.name:
            raise TrustError(f"a statement of role 'builder' names {statement.name[:200]}, not {release.name}")
    return found


def _digest(statement: Statement) -> Digest:
    """Return the digest of a document, as the provenance names it."""
    return Digest.of(emit(dict(statement.predicate)))


def _named(provenance: Statement) -> Iterator[Digest]:
    """Return the digests of the bills of materials that a provenance says came out of the build."""
    fields = Fields(dict(provenance.predicate), what="provenance")
    if "runDetails" not in fields:
        return
    for item in fields.table("runDetails").tables("byproducts", most=_BYPRODUCTS, default=[]):
        if item.text("name", "") == BYPRODUCT:
            yield Digest(f"sha256:{item.table('digest').text('sha256')}")
