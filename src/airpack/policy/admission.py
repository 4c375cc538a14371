"""Admission: from the bytes on a medium to a release that may be imported. Each step rests only on those before it.

    1. head          size bound, closing checksum, strict canonical JSON       (formats.head)
    2. channel       TUF refresh from the pinned root                          (crypto.client, given as a callable)
    3. policy        policy.json and revocations.json, targets of the channel
    4. package       the packer's signature over the package manifest
    5. release       the release is a target of the channel, not revoked, and the package holds all of it
    6. attestations  per role: predicate type, subject, threshold over distinct keys
    7. sequence      not below what already proved good here                   (a site's)
    8. compatibility model, runtime and host                                   (policy.compat)
    9. space         what it needs on disk; before it, as `bases`: what it builds on is held (a site's)
    10. volumes      every chunk against its signed digest                     (transport.reader)

This module decides 3 to 6 and orders the rest. It is pure: bytes and values in, an `Admitted` or an error out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airpack.crypto import signing
from airpack.crypto.client import TrustedChannel
from airpack.errors import (
    AirpackError,
    IncompatibleError,
    IntegrityError,
    PolicyError,
    RevokedError,
    ThresholdError,
    TrustError,
)
from airpack.formats import bundle, dsse, head
from airpack.formats.compat import CompatDoc
from airpack.formats.head import Head
from airpack.formats.package import PAYLOAD_TYPE, PackageManifest, is_newer, read_needs
from airpack.formats.release import Release, read_release
from airpack.formats.statement import ReleasePredicate, Statement
from airpack.formats.trust import POLICY_TARGET, REVOCATIONS_TARGET, Revocations, Role, TrustPolicy
from airpack.types import Check, Digest, Limits

SEQUENCE_FIELD = "sequence"
"""Of the `custom` object that the channel's targets role signs beside a release's digest."""


class Steps:
    """Runs named steps in order and keeps what each found, so that a refusal shows how far it got."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Run one step; the value is called with what was found.

        Raises:
            AirpackError: What the step raised, after it was kept as a failed check.
        """
        found: list[str] = []
        try:
            yield found.append
        except AirpackError as error:
            self.checks.append(Check(name, ok=False, detail=error.message))
            raise
        self.checks.append(Check(name, ok=True, detail="; ".join(found)))


def documents(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """Return checks as JSON values."""
    return [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]


@dataclass(frozen=True, slots=True)
class Attestation:
    """A signed statement about the release that met the threshold of a role."""

    role: str
    statement: Statement


@dataclass(frozen=True, slots=True)
class Admitted:
    """What passed steps 1 to 6. Only `admit` makes one; import, verify and build accept nothing else.

    Attributes:
        head: The parsed head.
        channel: The channel's trusted metadata.
        policy: The channel's policy.
        policy_digest: Digest of policy.json.
        manifest: The signed package manifest.
        manifest_digest: Digest of the package manifest's exact bytes.
        release: The release that the package carries.
        predicate: The release attestation's content, with the sequence.
        attestations: Every attestation that a role of the policy accepted.
    """

    head: Head
    channel: TrustedChannel
    policy: TrustPolicy
    policy_digest: Digest
    manifest: PackageManifest
    manifest_digest: Digest
    release: Release
    predicate: ReleasePredicate
    attestations: tuple[Attestation, ...]

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.manifest.product}@{self.manifest.version}"

    @property
    def small(self) -> Mapping[Digest, bytes]:
        """The small blobs that a site keeps: the release's documents and its attestations."""
        return self.head.blobs


def admit(data: bytes, *, refresh: Callable[[Head], TrustedChannel], have: str, steps: Steps) -> Admitted:
    """Run steps 1 to 6.

    Args:
        data: The head's bytes, read once.
        refresh: Runs the TUF refresh on the head's metadata.
        have: The version of this airpack, against the head's `needs_airpack`.
        steps: Receives what each step found.

    Raises:
        IntegrityError: Bytes are damaged, malformed, or not what was signed.
        TrustError: A signature, a key, a threshold or an expiry does not hold.
        RollbackError: Metadata is older than what is held.
        PolicyError: Revoked, or made for a newer airpack.
    """
    with steps.step("head") as found:
        parsed = head.parse(data)
        found(f"{len(data)} bytes, checksum and form hold")
    with steps.step("channel") as found:
        channel = refresh(parsed)
        found(f"channel {channel.channel}, timestamp version {channel.versions['timestamp']}")
    with steps.step("policy") as found:
        policy_bytes = channel.target(POLICY_TARGET)
        policy = TrustPolicy.parse(policy_bytes)
        revocations = Revocations.parse(channel.target(REVOCATIONS_TARGET))
        if policy.channel != channel.channel:
            raise TrustError(f"policy.json is of channel {policy.channel!r}, the root of {channel.channel!r}")
        found(f"{len(policy.roles)} roles, {len(revocations.releases)} revocations")
    with steps.step("package") as found:
        manifest, manifest_digest = open_package(parsed, policy, have=have)
        found(f"{len(manifest.files)} files in {len(manifest.volumes)} volumes, signed by the packer")
    with steps.step("release") as found:
        release = _release(parsed, channel, manifest)
        _check_revoked(release, revocations)
        found(f"{release.name} {release.digest}")
    with steps.step("attestations") as found:
        attestations, predicate = _attestations(parsed, release, policy)
        _check_sequence(predicate, channel.custom(f"{release.name}.json"))
        found(", ".join(f"{item.role}: {item.statement.predicate_type}" for item in attestations))
    return Admitted(
        head=parsed,
        channel=channel,
        policy=policy,
        policy_digest=Digest.of(policy_bytes),
        manifest=manifest,
        manifest_digest=manifest_digest,
        release=release,
        predicate=predicate,
        attestations=attestations,
    )


def open_package(parsed: Head, policy: TrustPolicy, *, have: str) -> tuple[PackageManifest, Digest]:
    """Step 4: return the package manifest that the packers of `policy` signed, and the digest of its bytes.

    Raises:
        IntegrityError: What was signed is no package manifest.
        TrustError: Too few of the packers' keys signed it.
        PolicyError: It was made for a newer airpack than `have`.
    """
    payload = _verified_package(parsed.package, policy.role("packer"))
    _check_version(read_needs(payload), have)
    manifest = PackageManifest.parse(payload)
    return manifest, Digest.of(payload)


def _verified_package(envelope: bytes, role: Role) -> bytes:
    parsed = dsse.parse(envelope, "package envelope", limit=Limits.HEAD)
    return signing.verify([parsed], keys=signing.role_keys(role), threshold=role.threshold, payload_type=PAYLOAD_TYPE)


def _check_version(needs: str, have: str) -> None:
    """Refuse by name of the version that is needed, before a form that only a newer airpack reads is called damaged."""
    if is_newer(needs, have):
        raise PolicyError(
            f"this package needs airpack {needs} or newer; this is airpack {have}",
            hint="bring a newer airpack to this site first: import and activate the channel's release of the product "
            "airpack and run the install.py in it, or ask for a site kit (docs/howto/reach-a-site.md)",
            needs=needs,
            have=have,
        )


def _release(parsed: Head, channel: TrustedChannel, manifest: PackageManifest) -> Release:
    name = f"{manifest.product}@{manifest.version}"
    listed = channel.digest(f"{name}.json")
    if listed != manifest.release:
        raise IntegrityError(f"the channel lists {name} as {listed}, the package carries {manifest.release}")

    def blob(digest: Digest) -> bytes:
        data = parsed.blobs.get(digest)
        if data is None:
            raise IntegrityError(f"the head lacks blob {digest}, which {name} is made of")
        return data

    release = read_release(channel.check(f"{name}.json", blob(listed)), blob)
    if release.name != name:
        raise IntegrityError(f"the package says {name}, its index says {release.name}")
    _check_files(release, manifest)
    return release


def _check_files(release: Release, manifest: PackageManifest) -> None:
    """Hold the package and its bases to exactly the files of the release: none missing, none riding along.

    A base may have files that are not of the release: frames refer to them, and no site gets them from here.
    """
    wanted = {file.digest: file.size for file in release.files}
    packed = {file.digest: file.size for file in manifest.files}
    reused = {file.digest: file.size for file in manifest.base_files}
    missing, extra = wanted.items() - packed.items() - reused.items(), packed.items() - wanted.items()
    if missing or extra:
        raise IntegrityError(
            f"the package is not exactly its release: {len(missing)} files missing, {len(extra)} not of it"
        )


def _check_revoked(release: Release, revocations: Revocations) -> None:
    reason = revocations.releases.get(release.digest)
    if reason is not None:
        raise RevokedError(f"{release.name} was revoked by its channel: {reason}", release=release.digest)


def _attestations(
    parsed: Head, release: Release, policy: TrustPolicy
) -> tuple[tuple[Attestation, ...], ReleasePredicate]:
    """Hold the release to every role of the policy that signs statements; what its keys did not sign stays unread."""
    bundles = attached_bundles(parsed.blobs, release)
    accepted = []
    predicate: ReleasePredicate | None = None
    for name, role in sorted(policy.roles.items()):
        if not role.predicate_type:
            continue
        if not bundles:
            raise ThresholdError(f"the head carries no attestation; one of role '{name}' is needed", role=name)
        statement = signing.verify_statement(bundles.values(), role=role, subject=release.digest)
        if statement.name != release.name:
            raise TrustError(f"the attestation of role '{name}' names {statement.name}, not {release.name}")
        accepted.append(Attestation(name, statement))
        if name == "release":
            predicate = _checked_predicate(statement, release, policy)
    if predicate is None:
        raise TrustError("the channel's policy has no role 'release', so nothing says the sequence")
    return tuple(accepted), predicate


def attached_bundles(blobs: Mapping[Digest, bytes], release: Release) -> dict[Digest, bytes]:
    """Return the bundles that referrers attach to the release; any other small blob must be part of it.

    Args:
        blobs: Small blobs by digest: those of a head, or those that a site keeps for the release.
        release: The release.

    Raises:
        IntegrityError: A referrer is about another release, its bundle is not there, or a blob belongs to nothing.
    """
    found: dict[Digest, bytes] = {}
    known = {*release.small, Digest.of(bundle.EMPTY)}
    for digest, data in blobs.items():
        if digest in known or not bundle.is_referrer(data):
            continue
        subject, content = bundle.parse_referrer(data)
        if (subject.digest, subject.size) != (release.digest, len(blobs[release.digest])):
            raise IntegrityError(
                f"referrer {digest.short} is about {subject.digest} of {subject.size} bytes, not about this release"
            )
        body = blobs.get(content.digest)
        if body is None or len(body) != content.size:
            raise IntegrityError(f"bundle {content.digest} of referrer {digest.short} is missing, or of another size")
        found[content.digest] = body
        known |= {digest, content.digest}
    stray = [digest for digest in blobs if digest not in known]
    if stray:
        raise IntegrityError(f"{len(stray)} small blobs belong to nothing, the first is {stray[0]}")
    return found


def _checked_predicate(statement: Statement, release: Release, policy: TrustPolicy) -> ReleasePredicate:
    predicate = ReleasePredicate.parse(statement.predicate)
    said = (f"{predicate.product}@{predicate.version}", predicate.channel, predicate.compat)
    found = (release.name, policy.channel, release.compat_digest)
    if said != found:
        raise TrustError(
            f"the release attestation says {said[0]} in channel {said[1]} with compat document {said[2]}; the package "
            f"holds {found[0]} of channel {found[1]} with {found[2]}"
        )
    return predicate


def check_formats(compat: CompatDoc, found: Mapping[str, str]) -> None:
    """Hold what the model files' bytes say now against the signed compat document.

    Args:
        compat: The signed document.
        found: Generation path of each model file to the format that its bytes were found to be.

    Raises:
        IncompatibleError: A file is something else than was signed.
    """
    for file in compat.files:
        if found[file.path] != file.format:
            raise IncompatibleError(
                f"{file.path} is {found[file.path]} by its bytes; the release calls it {file.format}", path=file.path
            )


def _check_sequence(predicate: ReleasePredicate, listed: Mapping[str, Any]) -> None:
    """Hold the release key to the number that the channel listed, so that it alone renumbers nothing."""
    if listed != {SEQUENCE_FIELD: predicate.sequence}:
        raise TrustError(
            f"the release attestation says number {predicate.sequence}; the channel lists {dict(listed) or 'none'}",
            said=predicate.sequence,
        )
