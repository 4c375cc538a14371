"""Verify: everything an import would check that needs no site, every byte of every volume included."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import airpack
from airpack import fsops
from airpack.crypto.client import TrustedChannel, refresh
from airpack.errors import AirpackError, InputError
from airpack.formats.bom import Bom
from airpack.formats.head import Head
from airpack.formats.release import Release
from airpack.ops.medium import Presented, find_package, say_mended
from airpack.ops.naming import ByPath
from airpack.policy.admission import Admitted, Steps, admit, documents
from airpack.policy.bom import verified_bom
from airpack.policy.compat import judge_release, refuse
from airpack.transport import reader
from airpack.transport.damage import Range
from airpack.transport.outcome import Outcome, places
from airpack.transport.spare import SpareState, check_spare
from airpack.types import Check, Reporter, Silent


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found.

    Attributes:
        admitted: The release that was admitted.
        checks: Each check, in order.
        ignored: Names on the medium that the package does not list.
        bom: Where the bill of materials was written; None where it was not asked for.
        mended: Volumes of which bytes were not as signed and were had otherwise, and these bytes.
        spare: How the parity volumes are; None where the package has none.
    """

    admitted: Admitted
    checks: tuple[Check, ...]
    ignored: tuple[str, ...]
    bom: Path | None = None
    mended: Mapping[str, Sequence[Range]] = field(default_factory=dict)
    spare: SpareState | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            **admitted_document(self.admitted),
            "checks": documents(self.checks),
            "ignored": list(self.ignored),
            "bom": str(self.bom) if self.bom else None,
            "mended": places(self.mended),
            "parity": self.spare and {"missing": list(self.spare.missing), "damaged": places(self.spare.damaged)},
        }


def admitted_document(admitted: Admitted) -> dict[str, Any]:
    """Return the JSON keys of what was verified, and by whose keys."""
    return {
        "ok": True,
        "release": str(admitted.release.digest),
        "product": admitted.manifest.product,
        "version": admitted.manifest.version,
        "sequence": admitted.predicate.sequence,
        "channel": admitted.channel.channel,
        "starter": admitted.channel.starter,
        "root_fingerprint": str(admitted.channel.root_fingerprint),
    }


def verify_package(
    paths: Sequence[Path],
    *,
    root: bytes,
    now: datetime,
    bom: Path | None = None,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Verification:
    """Verify the package that `paths` present together against a pinned root.

    Args:
        paths: Folders that hold its volumes, and head files; at least one head among them.
        root: Bytes of the root to trust.
        now: The time to judge freshness by.
        bom: The file to write the bill of materials to, once everything holds; None for none.
        replace: Whether an existing file may be replaced.
        reporter: Receives progress.

    Raises:
        InputError: `bom` exists.
        NotFoundError: No head; or `bom` is asked for, and the release carries none.
        AirpackError: As an import would; `document` holds the checks so far, with `ok` false.
    """
    if bom is not None and os.path.lexists(bom) and not replace:
        raise InputError(f"{bom} exists", hint="choose another name, or give --force to replace it")
    steps = Steps()
    release: str | None = None
    try:
        presented, data = present(paths, steps)
        admitted = admit(data, refresh=fresh_refresh(root, now), have=airpack.__version__, steps=steps)
        release = str(admitted.release.digest)
        check_compatibility(admitted.release, steps)
        materials = _materials(admitted, steps) if bom is not None else None
        with steps.step("volumes") as found:
            outcome, spare = _read_volumes(admitted, presented, ByPath(reporter or Silent(), admitted.release))
            found(f"{len(admitted.manifest.files)} files, {admitted.manifest.total} bytes match their digests")
        if bom is not None and materials is not None:
            fsops.write_durable(bom.absolute(), materials.data, replace=replace)
    except AirpackError as error:
        error.document = {"ok": False, "release": release, "checks": documents(steps.checks)}
        raise
    written = bom.absolute() if bom is not None else None
    ignored = tuple(presented.unlisted(admitted.manifest))
    return Verification(admitted, tuple(steps.checks), ignored, written, outcome.mended, spare)


def _read_volumes(admitted: Admitted, presented: Presented, reporter: Reporter) -> tuple[Outcome, SpareState | None]:
    """Read all volumes, and what of them has to be had otherwise; then the parity volumes."""
    manifest, wanted = admitted.manifest, {file.digest for file in admitted.manifest.files}
    with reader.open_media(manifest, admitted.manifest_digest, presented.folders) as media:
        outcome = reader.unpack_whole(media, wanted=wanted, sink=reader.NullSink(), reporter=reporter, task="verify")
        spare = check_spare(media, reporter) if manifest.parity else None
        say_mended(media, reporter, spare)
    return outcome, spare


def _materials(admitted: Admitted, steps: Steps) -> Bom:
    with steps.step("bom") as found:
        materials = verified_bom(admitted.small, admitted.release, admitted.policy)
        found(f"{len(materials.components)} components, signed by the builder")
    return materials


def check_compatibility(release: Release, steps: Steps) -> None:
    """Judge whether model and runtime fit each other, as a step of its own.

    Raises:
        PolicyError: They do not.
    """
    with steps.step("compatibility") as found:
        findings = judge_release(release.compat)
        refuse(findings)
        found(f"{len(findings)} rules about model and runtime hold")


def present(paths: Sequence[Path], steps: Steps) -> tuple[Presented, bytes]:
    """Return the package that `paths` present together, and the bytes of its head, read once.

    Raises:
        AirpackError: There is none, or it cannot be read; noted as the step `head`.
    """
    try:
        presented = find_package(paths)
        return presented, presented.read()
    except AirpackError as error:
        steps.checks.append(Check("head", ok=False, detail=error.message))
        raise


def fresh_refresh(root: bytes, now: datetime) -> Callable[[Head], TrustedChannel]:
    """Return a TUF refresh that starts from nothing but `root`, for those who hold no site (`airpack verify`)."""

    def run(head: Head) -> TrustedChannel:
        with tempfile.TemporaryDirectory(prefix="airpack-") as folder:
            channel = refresh(Path(folder), metadata=head.metadata, targets=head.targets, root=root, now=now)
            if channel.issued > now:
                # It was signed after `now`, so `now` is not the present: judge by the signed time, as a site does.
                later = channel.issued
                channel = refresh(Path(folder), metadata=head.metadata, targets=head.targets, root=root, now=later)
            return channel

    return run
