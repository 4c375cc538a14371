"""Inspect: what a head says is in the package, without keys and without bulk data. Nothing here is verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpack.errors import IntegrityError
from airpack.formats import bundle, dsse, head
from airpack.formats.dsse import Envelope
from airpack.formats.head import Head
from airpack.formats.package import PackageManifest
from airpack.formats.release import Release, read_release
from airpack.formats.statement import PREDICATE_BOM, Statement
from airpack.formats.words import spoken
from airpack.ops.medium import find_head, names, read_head, unlisted
from airpack.types import Digest, Limits


@dataclass(frozen=True, slots=True)
class Claim:
    """A signed statement that the head carries; its signature is not checked here.

    Attributes:
        predicate_type: What kind of statement it says it is.
        about: Digest of its subject.
        key_hint: What it says of its key: base64 of the SHA-256 of the public key's DER.
    """

    predicate_type: str
    about: Digest
    key_hint: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a head says. Unverified: `airpack verify` checks it.

    Attributes:
        head: The head file.
        size: Its length in bytes.
        digest: Its SHA-256, to compare or read aloud.
        manifest: The package manifest.
        payload: SHA-256 of the manifest's bytes: what every volume begins with.
        signatures: How many signatures the manifest has.
        release: The release.
        bases: For each file that the site must have from a base, the base's `product@version`.
        claims: The attestations it carries.
        present: Names of listed volumes that lie beside the head, whatever they are: none is opened.
        ignored: Names beside the head that it does not list.
    """

    head: Path
    size: int
    digest: Digest
    manifest: PackageManifest
    payload: Digest
    signatures: int
    release: Release
    bases: Mapping[Digest, str]
    claims: tuple[Claim, ...]
    present: frozenset[str]
    ignored: tuple[str, ...]

    @property
    def words(self) -> str:
        """The head's digest to read aloud: its first 64 bits."""
        return spoken(self.digest)

    @property
    def has_bom(self) -> bool:
        """Whether a bill of materials comes along; whether it is a good one, `airpack verify --bom` says."""
        return any(claim.predicate_type == PREDICATE_BOM for claim in self.claims)

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "verified": False,
            "head": str(self.head),
            "head_digest": str(self.digest),
            "head_size": self.size,
            "release": str(self.release.digest),
            "product": self.manifest.product,
            "version": self.manifest.version,
            "needs_airpack": self.manifest.needs_airpack,
            "words": self.words,
            "manifest": str(self.payload),
            "signatures": self.signatures,
            "bytes_raw": self.manifest.total,
            "bytes_stored": self.manifest.stored,
            "files": [
                {
                    "path": file.path,
                    "size": file.size,
                    "digest": str(file.digest),
                    "media_type": file.media_type,
                    "component": file.component,
                    "license": file.license,
                    "executable": file.executable,
                    "base": self.bases.get(file.digest),
                }
                for file in self.release.files
            ],
            "volumes": [
                {
                    "name": volume.name,
                    "size": volume.size,
                    "table": str(volume.table),
                    "present": volume.name in self.present,
                }
                for volume in self.manifest.volumes
            ],
            "parity": [
                {
                    "name": volume.name,
                    "size": volume.size,
                    "table": str(volume.table),
                    "present": volume.name in self.present,
                    "covers": [group.first + 1, group.first + group.count],
                }
                for group in self.manifest.parity
                for volume in group.volumes
            ],
            "bases": [
                {"release": str(base.release), "product": base.product, "version": base.version}
                for base in self.manifest.bases
            ],
            "bom": self.has_bom,
            "claims": [
                {"predicate_type": claim.predicate_type, "about": str(claim.about), "key_hint": claim.key_hint}
                for claim in self.claims
            ],
            "ignored": list(self.ignored),
        }


def inspect_package(path: Path) -> Inspection:
    """Read the head at `path`, or the only one in the folder `path`.

    Raises:
        NotFoundError: No head.
        IntegrityError: The head is damaged, or contradicts itself.
    """
    file = find_head(path)
    data = read_head(file)
    parsed = head.parse(data)
    envelope = _envelope(parsed)
    manifest = PackageManifest.parse(envelope.payload)

    def blob(digest: Digest) -> bytes:
        if digest not in parsed.blobs:
            raise IntegrityError(f"the head lacks blob {digest}")
        return parsed.blobs[digest]

    release = read_release(blob(manifest.release), blob)
    beside = set(names(file.parent))
    return Inspection(
        head=file,
        size=len(data),
        digest=Digest.of(data),
        manifest=manifest,
        payload=Digest.of(envelope.payload),
        signatures=len(envelope.signatures),
        release=release,
        bases={file.digest: base.name for base in manifest.bases for file in base.files},
        claims=tuple(_claims(parsed)),
        present=frozenset(beside.intersection(manifest.names)),
        ignored=tuple(unlisted(file, manifest)),
    )


def claimed_manifest(parsed: Head) -> PackageManifest:
    """Return the package manifest that a head carries, its signature not looked at.

    Raises:
        IntegrityError: It is none.
    """
    return PackageManifest.parse(_envelope(parsed).payload)


def _envelope(parsed: Head) -> Envelope:
    return dsse.parse(parsed.package, "package envelope", limit=Limits.HEAD)


def _claims(parsed: Head) -> list[Claim]:
    claims = []
    contents = {bundle.parse_referrer(data)[1].digest for data in parsed.blobs.values() if bundle.is_referrer(data)}
    for digest in sorted(contents):  # each once, however many referrers name it
        content = parsed.blobs.get(digest)
        if content is None:
            raise IntegrityError("the head lacks a bundle that one of its referrers names")
        envelope, hint = bundle.parse(content)
        statement = Statement.parse(envelope.payload)
        claims.append(Claim(statement.predicate_type, statement.digest, hint))
    return sorted(claims, key=lambda claim: claim.predicate_type)
