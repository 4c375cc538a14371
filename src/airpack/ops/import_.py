"""Import: from a package on a medium to a release in the store. The medium is read once and never written.

The order of admission stands in policy.admission. Whatever is refused, is refused with a record in the log and nothing
visible changed. From the intent on:

    bases (held, and hashed where they lie)
    volumes → quarantine (each chunk hashed before it is decoded, each file hashed and synced)
            → facts read again from the quarantined bytes
            → store (rename, folder synced) → one catalog transaction → receipt → result on record

A kill anywhere leaves a quarantine, and so does a medium that lacks something: importing the same package again, from
whichever media, goes on from there and reads only the rest.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import airpack
from airpack import fsops
from airpack.catalog.catalog import ReleaseRow
from airpack.crypto import signing
from airpack.errors import AirpackError, RollbackError, StorageError
from airpack.evidence.records import Event, Outcome, Subject, clip
from airpack.facts.identify import HEAD, identify
from airpack.formats.package import PackageManifest
from airpack.formats.release import Release
from airpack.formats.statement import PREDICATE_VSA, Resource, Statement, vsa
from airpack.formats.times import emit_time
from airpack.ops.generations import renew_damaged
from airpack.ops.held import held_bases
from airpack.ops.host import check_host
from airpack.ops.incomplete import incomplete, settle
from airpack.ops.journal import read_progress
from airpack.ops.medium import Presented, find_package, say_mended
from airpack.ops.naming import ByPath
from airpack.ops.quarantine import fetch, kept_bytes, quarantine_of, size_of
from airpack.ops.receipts import write_receipt
from airpack.ops.recover import exclusive
from airpack.ops.site import Site, recorded
from airpack.ops.trust import site_refresh
from airpack.policy import lifecycle
from airpack.policy.admission import Admitted, Steps, admit, check_formats, documents
from airpack.transport.outcome import refuse_missing
from airpack.transport.reader import Bases, open_media
from airpack.transport.volumes import Media
from airpack.types import Digest, Reporter, Silent, State


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to.

    Attributes:
        row: The release as the site holds it; None after a dry run of a release that is not held.
        name: `product@version`.
        release: Its digest.
        receipt: The receipt's file; None after a dry run.
        repeated: Whether it was held already, so that nothing was written.
        bytes_needed: Bytes that the import writes, or wrote.
        ignored: Names on the medium that the package does not list.
    """

    row: ReleaseRow | None
    name: str
    release: Digest
    receipt: Path | None
    repeated: bool
    bytes_needed: int
    ignored: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        product, _, version = self.name.partition("@")
        return {
            "release": str(self.release),
            "product": product,
            "version": version,
            "state": lifecycle.shown(self.row.state) if self.row else None,
            "receipt": str(self.receipt) if self.receipt else None,
            "repeated": self.repeated,
            "bytes_needed": self.bytes_needed,
            "ignored": list(self.ignored),
        }


def import_package(
    site: Site, paths: Sequence[Path], *, dry_run: bool = False, reporter: Reporter | None = None
) -> Imported:
    """Import the package that `paths` present together.

    Args:
        site: The site.
        paths: Folders that hold its volumes, and head files; at least one head among them.
        dry_run: Check steps 1 to 9 and say what would be written; nothing is changed or recorded.
        reporter: Receives progress.

    Raises:
        NotFoundError: No head.
        InputError: Several heads that differ.
        IntegrityError: Bytes of the head are not what was signed, or what was signed is wrong.
        TrustError: Signature, threshold, key or expiry.
        PolicyError: Revoked, or it does not fit this host.
        RollbackError: Older than what proved good here.
        PartialError: Volumes, or a base, are missing; what was read is kept. Its context says what is needed.
        DamagedError: Likewise, and bytes of some volumes are not as signed, or cannot be read.
        StorageError: The disk is short or fails, or the evidence log cannot append.
        BusyError: Another airpack works on this site.
    """
    presented = find_package(paths)
    with exclusive(site), ExitStack() as stack:
        run = _Import(site, presented, stack, reporter or Silent(), dry_run=dry_run)
        try:
            admitted = run.admit()
        except AirpackError as error:
            run.refuse(error)
            raise
        return run.finish(admitted)


class _Import:
    """One import under way."""

    def __init__(
        self, site: Site, presented: Presented, stack: ExitStack, reporter: Reporter, *, dry_run: bool
    ) -> None:
        self._site, self._presented, self._stack = site, presented, stack
        self._reporter, self._dry_run = reporter, dry_run
        self._subject: list[Subject] = []
        self._steps = Steps()
        self._missing: list[Digest] = []
        self._needed = 0
        self._held: ReleaseRow | None = None
        self._media: Media | None = None
        self._bases: Bases | None = None

    def admit(self) -> Admitted:
        """Steps 1 to 9 of admission; then which volumes there are."""
        data = self._presented.read()
        self._subject = [Subject(clip(self._presented.heads[0].name), Digest.of(data))]
        refresh = site_refresh(self._site, keep=not self._dry_run)
        admitted = admit(data, refresh=refresh, have=airpack.__version__, steps=self._steps)
        self._subject.append(Subject(admitted.name, admitted.release.digest))
        self._held = self._find_held(admitted)
        with self._steps.step("sequence"):
            self._check_sequence(admitted)
        with self._steps.step("compatibility"):
            check_host(admitted.release)
        sizes = {file.digest: file.size for file in admitted.release.files}
        self._missing = self._site.store.missing(sizes.items())
        if admitted.manifest.bases and self._missing:
            with self._steps.step("bases"):
                self._open_bases(admitted.manifest, sizes.keys() - set(self._missing))
        with self._steps.step("space"):
            self._check_space(admitted)
        with self._steps.step("volumes"):
            self._look(admitted)
        return admitted

    def _look(self, admitted: Admitted) -> None:
        """Look for the volumes; a head that came alone, for a release that is held, needs none."""
        manifest, digest = admitted.manifest, admitted.manifest_digest
        media = open_media(manifest, digest, self._presented.folders)
        self._stack.callback(media.close)
        if self._missing or self._held is None or not media.is_empty:
            self._media = media
        if self._missing and self._dry_run:
            read = read_progress(quarantine_of(self._site, digest), manifest, digest)
            whole = {number for number, info in enumerate(manifest.volumes) if read.count(number) == info.entries}
            refuse_missing(media, [manifest.volumes[number].name for number in media.hopeless if number not in whole])

    def _find_held(self, admitted: Admitted) -> ReleaseRow | None:
        row = self._site.catalog.release(admitted.release.digest)
        return row if row is not None and row.state is not State.SUPERSEDED else None

    def _check_sequence(self, admitted: Admitted) -> None:
        if self._held is not None and self._held.sequence == admitted.predicate.sequence:
            return  # an import repeated changes nothing, so the floor has nothing to say
        manifest, sequence = admitted.manifest, admitted.predicate.sequence
        floor = self._site.catalog.floor(manifest.product)
        lifecycle.check_floor(manifest.product, manifest.version, sequence, floor, known=False)
        for row in self._site.catalog.releases(manifest.product):
            same_name, same_number = row.version == manifest.version, row.sequence == sequence
            if (same_name or same_number) and (row.digest, row.sequence) != (admitted.release.digest, sequence):
                raise RollbackError(
                    f"{admitted.name} (number {sequence}) contradicts {row.name} (number {row.sequence}), "
                    "which this site holds",
                    hint="ask the build side why it released two things under one name",
                )

    def _open_bases(self, manifest: PackageManifest, held: Collection[Digest]) -> None:
        """Find what the package builds on; files of the release that are held were hashed just now."""
        bases = self._stack.enter_context(held_bases(self._site.store, manifest, checked=held, reporter=self._reporter))
        self._bases = bases.read

    def _check_space(self, admitted: Admitted) -> None:
        sizes = {file.digest: file.size for file in admitted.release.files}
        self._needed = sum(sizes[digest] for digest in self._missing)
        copies = sum(file.size for file in admitted.release.files if file.executable) if self._missing else 0
        wanted = self._needed + copies + (fsops.spare_bytes(self._needed) if self._missing else 0)
        have = fsops.free_bytes(self._site.root) + size_of(quarantine_of(self._site, admitted.manifest_digest))
        if wanted > have:
            raise StorageError(
                f"not enough space: {admitted.name} needs {wanted} bytes in {self._site.root}, {have} are free",
                hint="airpack gc removes what is no longer kept",
                needed=wanted,
                free=have,
            )

    def refuse(self, error: AirpackError) -> None:
        """Put a refusal on record; it changed nothing."""
        error.document = {"checks": documents(self._steps.checks)}
        if self._dry_run:
            return
        step = self._steps.checks[-1].name if self._steps.checks else "head"
        with recorded(error):
            self._site.log.note(
                Event.IMPORT,
                _outcome(error),
                reason=error.code,
                subject=self._subject,
                data={"step": step, "head": clip(self._presented.heads[0].name), "message": clip(error.message)},
            )

    def finish(self, admitted: Admitted) -> Imported:
        """Step 10 and what follows; or nothing, for a dry run or a release that is held already."""
        ignored = tuple(self._presented.unlisted(admitted.manifest))
        if ignored:
            self._reporter.note(f"{len(ignored)} files on the medium are not of this package and were not opened")
        whole = self._held is not None and not self._missing
        if self._dry_run or self._media is None:
            receipt = self._repeat(admitted, ignored) if not self._dry_run else None
            return Imported(self._held, admitted.name, admitted.release.digest, receipt, whole, self._needed, ignored)
        self._say_needed(admitted)
        corr = self._site.log.intent(
            Event.IMPORT,
            subject=self._subject,
            data={
                "sequence": admitted.predicate.sequence,
                "bytes": self._needed,
                "ignored_files": len(ignored),
                "package": str(admitted.manifest_digest),
                "policy": str(admitted.policy_digest),
                "older_medium": admitted.channel.older_medium,
            },
        )
        try:
            row = self._commit(admitted, self._media)
        except AirpackError as error:
            data = {"message": clip(error.message)}
            with recorded(error):
                self._site.log.result(corr, _outcome(error), reason=error.code, subject=self._subject, data=data)
            raise
        receipt = write_receipt(self._site, row)
        self._site.log.result(corr, Outcome.DONE, subject=self._subject, data={"receipt": str(Digest.of(row.receipt))})
        return Imported(row, admitted.name, row.digest, receipt, whole, self._needed, ignored)

    def _say_needed(self, admitted: Admitted) -> None:
        """Say how many bytes will be written, before any is read."""
        manifest, digest = admitted.manifest, admitted.manifest_digest
        left = self._needed - kept_bytes(self._site, manifest, digest, set(self._missing))
        if left:
            self._reporter.note(f"{left} bytes will be written to {self._site.root}")

    def _repeat(self, admitted: Admitted, ignored: tuple[str, ...]) -> Path:
        assert self._held is not None
        for data in admitted.small.values():
            self._site.store.put(data)
        self._site.catalog.add_release(self._held, _sizes(admitted))
        self._site.log.note(
            Event.IMPORT, Outcome.DONE, subject=self._subject, data={"repeated": True, "ignored_files": len(ignored)}
        )
        return write_receipt(self._site, self._held)

    def _commit(self, admitted: Admitted, media: Media) -> ReleaseRow:
        fetched = fetch(
            self._site,
            media,
            admitted.manifest_digest,
            wanted=set(self._missing),
            bases=self._bases,
            reporter=ByPath(self._reporter, admitted.release),
        )
        say_mended(media, self._reporter)
        if not fetched.outcome.is_whole:
            raise incomplete(self._site, admitted.manifest, admitted.manifest_digest, fetched.outcome)
        self._check_facts(admitted.release, fetched.folder)
        self._site.store.adopt((digest, fetched.folder / digest.hex) for digest in self._missing)
        for data in admitted.small.values():
            self._site.store.put(data)
        row = self._held if self._held is not None and not self._missing else self._row(admitted)
        self._site.catalog.add_release(row, _sizes(admitted))
        fsops.remove_tree(fetched.folder)
        settle(self._site, admitted.manifest)
        renew_damaged(self._site, set(self._missing))
        return row

    def _check_facts(self, release: Release, quarantine: Path) -> None:
        """Read the formats again, from the bytes that will be used, and hold them against the signed ones."""
        digests = {file.path: file.digest for file in release.files}
        formats = {}
        for file in release.compat.files:
            digest = digests[file.path]
            path = quarantine / digest.hex
            source = path if path.exists() else self._site.store.path(digest)
            formats[file.path] = identify(file.path, fsops.read_start(source, HEAD), file.size).name
        check_formats(release.compat, formats)

    def _row(self, admitted: Admitted) -> ReleaseRow:
        now = self._site.now()
        held = self._held
        return ReleaseRow(
            digest=admitted.release.digest,
            product=admitted.manifest.product,
            version=admitted.manifest.version,
            sequence=admitted.predicate.sequence,
            state=held.state if held else State.IMPORTED,
            proven=held.proven if held else False,
            was_good=held.was_good if held else False,
            tries=held.tries if held else 0,
            imported=emit_time(now),
            receipt=_receipt(self._site, admitted),
        )


def _outcome(error: AirpackError) -> Outcome:
    return Outcome.FAILED if isinstance(error, StorageError) else Outcome.REFUSED


def _sizes(admitted: Admitted) -> dict[Digest, int]:
    small = {digest: len(data) for digest, data in admitted.small.items()}
    return small | {file.digest: file.size for file in admitted.release.files}


def _receipt(site: Site, admitted: Admitted) -> bytes:
    """Return the signed account of the import: a SLSA verification summary by the site's key."""
    bundles = [digest for digest in admitted.small if digest not in admitted.release.small]
    predicate = vsa(
        verifier_id=f"https://airpack.dev/site/{site.site_id}",
        verifier_version=airpack.__version__,
        time_verified=site.now(),
        resource_uri=f"airpack:{admitted.policy.channel}/{admitted.name}",
        policy=Resource(admitted.policy_digest, uri="policy.json"),
        result="PASSED",
        input_attestations=[Resource(digest, uri=f"airpack:blob/{digest.hex}") for digest in sorted(bundles)],
        verified_levels=["SLSA_BUILD_LEVEL_1"],
    )
    statement = Statement(admitted.name, admitted.release.digest, PREDICATE_VSA, predicate)
    return signing.sign_statement(site.key, statement)
