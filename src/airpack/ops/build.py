"""Build: a pack spec becomes a signed release, and the release a package (or a plain OCI layout).

    1. inputs are found, formats read, wheels checked against their RECORD while they are packed
    2. one pass writes the volumes; the digests that come out of it make the release's documents
    3. the packer signs the package manifest; release, builder and cosign keys sign their attestations, the builder's
       also a bill of materials
    4. the channel lists the release and issues fresh metadata; the head is written; all of it is admitted once,
       by the workspace's own root, before anybody is told that it is done

The same inputs give the same release digest. An identical rebuild keeps its sequence and its attestations; a
`product@version` that is released already and would change is refused.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import airpack
from airpack import fsops
from airpack.crypto import signing
from airpack.crypto.keys import PrivateKey
from airpack.errors import InputError, IntegrityError, NotFoundError
from airpack.facts.licenses import declared
from airpack.formats import bom, bundle, canonical, dsse, head, oci, packspec
from airpack.formats.package import PAYLOAD_TYPE, PackageManifest
from airpack.formats.packspec import PackSpec
from airpack.formats.release import ReleaseDocs, assemble, read_release
from airpack.formats.statement import (
    PREDICATE_BOM,
    PREDICATE_COSIGN,
    PREDICATE_PROVENANCE,
    PREDICATE_RELEASE,
    ReleasePredicate,
    Resource,
    Statement,
    provenance,
)
from airpack.formats.times import emit_time
from airpack.ops.inputs import Inputs, gather
from airpack.ops.inspect_ import claimed_manifest
from airpack.ops.layout import LayoutWriter
from airpack.ops.medium import read_head
from airpack.ops.verify import fresh_refresh
from airpack.ops.workspace import Built, Passphrase, Workspace
from airpack.policy.admission import SEQUENCE_FIELD, Steps, admit
from airpack.policy.compat import judge_release, refuse
from airpack.transport.writer import VOLUME_SIZE, PackWriter, volumes_in
from airpack.types import Descriptor, Digest, Limits, Reporter, Silent

Form = Literal["package", "oci"]
BUILD_TYPE: Final = "https://airpack.dev/build/v1"
NEEDS_AIRPACK: Final = "0.1.0"
_SIGNERS: Final = ("release", "builder", "packer", "cosign", "targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made.

    Attributes:
        built: The release.
        head: The head file; None for an OCI layout or a dry run.
        volumes: The volume files.
        out: The folder.
        bytes_raw: Bytes of the release's files, equal ones once.
        bytes_packed: Bytes of all files written; 0 for a dry run.
        files: Number of files in the release.
        repeated: Whether this very release had been built before.
    """

    built: Built | None
    product: str
    version: str
    head: Path | None
    volumes: tuple[Path, ...]
    out: Path
    bytes_raw: int
    bytes_packed: int
    files: int
    repeated: bool

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        return {
            "release": str(self.built.release) if self.built else None,
            "product": self.product,
            "version": self.version,
            "sequence": self.built.sequence if self.built else None,
            "head": str(self.head) if self.head else None,
            "volumes": [str(path) for path in self.volumes],
            "out": str(self.out),
            "bytes_raw": self.bytes_raw,
            "bytes_packed": self.bytes_packed,
            "files": self.files,
            "repeated": self.repeated,
        }


def build(
    workspace: Workspace,
    spec_path: Path,
    out: Path,
    *,
    form: Form = "package",
    passphrase: Passphrase,
    now: datetime,
    volume_size: int = VOLUME_SIZE,
    parity: int = 0,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> BuildResult:
    """Build what the pack spec says into `out`.

    Args:
        workspace: Keys, channel, and what was built before.
        spec_path: The pack spec; paths in it are relative to it.
        out: Folder for the package; files of the same package in it are replaced, others are left alone.
        form: `package`, or `oci` for a plain layout.
        passphrase: Asked once when keys are encrypted.
        now: The time of signing.
        volume_size: Largest volume in bytes.
        parity: Parity volumes for each group of volumes; 0 for none.
        dry_run: Find and check the inputs, write nothing.
        reporter: Receives progress.

    Raises:
        InputError: The spec, or what it names; or a release that exists already would change.
        NotFoundError: The spec or a key is not there.
        IncompatibleError: Model and runtime do not fit, or a format is unsafe.
        IntegrityError: A wheel is not what its RECORD says.
        TrustError: A key cannot be opened.
        StorageError: Disk.
    """
    reporter = reporter or Silent()
    try:
        text = fsops.read_regular(spec_path, Limits.DOCUMENT)
    except NotFoundError as error:
        raise NotFoundError(f"no pack spec {spec_path}", path=str(spec_path)) from error
    spec = packspec.parse(text, spec_path.name)
    with ExitStack() as stack:
        inputs = gather(spec, spec_path.absolute().parent, stack)
        if dry_run:
            sizes = inputs.size
            return BuildResult(
                None,
                spec.product,
                spec.version,
                None,
                (),
                out.resolve(),
                sizes,
                0,
                len(inputs.sources),
                repeated=False,
            )
        stack.enter_context(workspace.lock)
        keys = workspace.private_keys(_SIGNERS, passphrase)
        work = _Build(workspace, spec, Digest.of(text), inputs, keys, now, reporter)
        return work.package(out.resolve(), volume_size, parity) if form == "package" else work.layout(out.resolve())


class _Build:
    """One build under way."""

    def __init__(  # noqa: PLR0917, one caller, right above
        self,
        workspace: Workspace,
        spec: PackSpec,
        spec_digest: Digest,
        inputs: Inputs,
        keys: Mapping[str, PrivateKey],
        now: datetime,
        reporter: Reporter,
    ) -> None:
        self._workspace, self._spec, self._spec_digest = workspace, spec, spec_digest
        self._inputs, self._keys, self._now, self._reporter = inputs, keys, now, reporter

    @property
    def _name(self) -> str:
        return f"{self._spec.product}@{self._spec.version}"

    def package(self, out: Path, volume_size: int, parity: int) -> BuildResult:
        """Write head and volumes."""
        name = f"{self._spec.product}-{self._spec.version}".lower()
        fsops.make_dir(out)
        self._check_place(out / f"{name}{head.SUFFIX}")
        for stale in out.glob(".airpack-*.part"):
            fsops.remove_tree(stale)
        staging = Path(tempfile.mkdtemp(prefix=".airpack-", suffix=".part", dir=out))
        try:
            with PackWriter(
                staging, name, volume_size=volume_size, parity_volumes=parity, reporter=self._reporter
            ) as writer:
                docs = self._documents(writer.pack(self._inputs.sources))
                files, volumes = writer.close()
                manifest = PackageManifest(
                    docs.digest,
                    self._spec.product,
                    self._spec.version,
                    NEEDS_AIRPACK,
                    files,
                    volumes,
                    parity=writer.groups,
                )
                payload = manifest.emit()
                writer.seal(payload)
            built, blobs, repeated = self._release(docs)
            envelope = signing.sign(self._keys["packer"], PAYLOAD_TYPE, payload)
            data = self._head(dsse.emit(envelope), blobs)
            self._check(data)
            fsops.write_durable(staging / f"{name}{head.SUFFIX}", data)
            paths = _move(staging, out, [*manifest.names, f"{name}{head.SUFFIX}"])
        finally:
            fsops.remove_tree(staging)
        return BuildResult(
            built=built,
            product=self._spec.product,
            version=self._spec.version,
            head=paths[-1],
            volumes=tuple(paths[:-1]),
            out=out,
            bytes_raw=manifest.total,
            bytes_packed=sum(path.stat().st_size for path in paths),
            files=docs.compat.total_files,
            repeated=repeated,
        )

    def _check_place(self, path: Path) -> None:
        """Refuse to replace the package of another release: two names may become one file name."""
        if not os.path.lexists(path):
            return
        try:
            manifest = claimed_manifest(head.parse(read_head(path)))
        except IntegrityError as error:
            raise InputError(f"{path} is there already, and no package: {error.message}", path=str(path)) from error
        if (manifest.product, manifest.version) != (self._spec.product, self._spec.version):
            raise InputError(
                f"{path} is the package of {manifest.product}@{manifest.version}; {self._name} would replace it",
                hint="choose another folder",
                path=str(path),
            )

    def layout(self, out: Path) -> BuildResult:
        """Write a plain OCI layout."""
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} is not empty", hint="choose a new folder for the layout")
        writer = LayoutWriter(out)
        digests = writer.add(self._inputs.sources, self._reporter)
        docs = self._documents(digests)
        built, blobs, repeated = self._release(docs)
        for data in blobs.values():
            writer.put(data)
        referrers = {digest: blobs[digest] for digest in built.attestations}
        writer.finish(built.name, Descriptor(oci.INDEX, docs.digest, len(docs.index)), referrers)
        sizes = {digest: source.size for digest, source in zip(digests, self._inputs.sources, strict=True)}
        return BuildResult(
            built=built,
            product=self._spec.product,
            version=self._spec.version,
            head=None,
            volumes=(),
            out=out,
            bytes_raw=sum(sizes.values()),
            bytes_packed=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            files=docs.compat.total_files,
            repeated=repeated,
        )

    def _documents(self, digests: list[Digest]) -> ReleaseDocs:
        models, runtimes, golden = self._inputs.parts(digests)
        docs = assemble(
            self._spec.product,
            self._spec.version,
            models=models,
            runtimes=runtimes,
            probe=self._spec.probe,
            golden=golden,
            memory=self._spec.require.memory,
        )
        refuse(judge_release(docs.compat))
        return docs

    def _release(self, docs: ReleaseDocs) -> tuple[Built, dict[Digest, bytes], bool]:
        """Sign and list the release, or find that it is signed and listed; return it with all its small blobs."""
        known = {built.name: built for built in self._workspace.releases()}
        before = known.get(self._name)
        channel = self._workspace.channel()
        listed = channel.targets().get(f"{self._name}.json")
        if listed is not None and listed != docs.index:
            raise InputError(
                f"{self._name} is released already with another content: {Digest.of(listed)}, now {docs.digest}",
                hint="a release never changes: give the new content a new version",
            )
        if before is not None and before.release == docs.digest:
            if self._spec.sequence not in {None, before.sequence}:
                raise InputError(
                    f"{self._name} was released with sequence {before.sequence}; the spec says {self._spec.sequence}",
                    hint="a release never changes: leave `sequence` as it was, or give it a new version",
                )
            built, blobs = before, self._kept(before, docs)
        else:
            built, blobs = self._sign(docs, self._sequence(known))
            self._workspace.remember(built, blobs)
        if listed is None:
            path = f"{self._name}.json"
            channel.publish(self._keys, {path: docs.index}, self._now, {path: {SEQUENCE_FIELD: built.sequence}})
        else:
            channel.publish(self._keys, {}, self._now)
        return built, blobs, before is not None and before.release == docs.digest

    def _sequence(self, known: Mapping[str, Built]) -> int:
        others = [built for built in known.values() if built.product == self._spec.product and built.name != self._name]
        last = max((built.sequence for built in others), default=0)
        wanted = self._spec.sequence
        if wanted is not None and wanted <= last:
            raise InputError(
                f"sequence {wanted} is not above {last}, the last one of {self._spec.product}",
                hint="leave `sequence` out for the next one",
            )
        return last + 1 if wanted is None else wanted

    def _kept(self, built: Built, docs: ReleaseDocs) -> dict[Digest, bytes]:
        blobs = dict(docs.blobs)
        for digest in built.attestations:
            blobs[digest] = self._workspace.blob(digest)
            content = bundle.parse_referrer(blobs[digest])[1].digest
            blobs[content] = self._workspace.blob(content)
        blobs[Digest.of(bundle.EMPTY)] = bundle.EMPTY
        return blobs

    def _sign(self, docs: ReleaseDocs, sequence: int) -> tuple[Built, dict[Digest, bytes]]:
        predicate = ReleasePredicate(
            self._spec.product, self._spec.version, sequence, self._workspace.channel_name, docs.compat_digest
        )
        materials = self._bom(docs)
        # The builder signs two: what its role in the policy asks for, and what no role asks for and sites may read.
        statements: list[tuple[str, str, dict[str, Any]]] = [
            ("release", PREDICATE_RELEASE, predicate.emit()),
            ("builder", PREDICATE_PROVENANCE, self._provenance(docs, Digest.of(canonical.emit(materials)))),
            ("builder", PREDICATE_BOM, materials),
            ("cosign", PREDICATE_COSIGN, {}),
        ]
        subject = Descriptor(oci.INDEX, docs.digest, len(docs.index))
        blobs = {**docs.blobs, Digest.of(bundle.EMPTY): bundle.EMPTY}
        manifests = []
        for role, predicate_type, content in statements:
            statement = Statement(self._name, docs.digest, predicate_type, content)
            signed = signing.sign_statement(self._keys[role], statement)
            manifest = bundle.referrer(signed, subject, predicate_type, emit_time(self._now))
            blobs |= {Digest.of(signed): signed, Digest.of(manifest): manifest}
            manifests.append(Digest.of(manifest))
        built = Built(
            self._spec.product, self._spec.version, sequence, docs.digest, tuple(manifests), emit_time(self._now)
        )
        return built, blobs

    def _bom(self, docs: ReleaseDocs) -> dict[str, Any]:
        release = read_release(docs.index, docs.blobs.__getitem__)
        licenses = {model.name: declared(model.license) for model in release.models}
        wheels = {
            (f"runtime/{component.spec.name}", wheel.name): bom.WheelFile(
                wheel.filename, wheel.digest, wheel.size, wheel.licenses
            )
            for component in self._inputs.components
            if (wheel := component.wheel) is not None
        }
        known = {name: found for name, found in licenses.items() if found is not None}
        return bom.emit_bom(release, licenses=known, wheels=wheels, airpack=airpack.__version__)

    def _provenance(self, docs: ReleaseDocs, materials: Digest) -> dict[str, Any]:
        wheels = [component.wheel for component in self._inputs.components if component.wheel is not None]
        models = [
            Resource(child.digest, name=child.annotations[oci.COMPONENT_ANNOTATION])
            for child in oci.parse_index(docs.index).manifests
            if child.annotations[oci.COMPONENT_ANNOTATION].startswith("model/")
        ]
        return provenance(
            build_type=BUILD_TYPE,
            external_parameters={
                "product": self._spec.product,
                "version": self._spec.version,
                "spec": {"sha256": self._spec_digest.hex},
            },
            resolved_dependencies=[*models, *(Resource(wheel.digest, name=wheel.filename) for wheel in wheels)],
            byproducts=[Resource(materials, name=bom.BYPRODUCT)],
            builder_id=f"https://airpack.dev/workspace/{self._workspace.channel_name}",
            builder_version=airpack.__version__,
            started=self._now,
            finished=self._now,
        )

    def _head(self, envelope: bytes, blobs: Mapping[Digest, bytes]) -> bytes:
        channel = self._workspace.channel()
        documents = {path: data for path, data in channel.targets().items() if "@" not in path}
        return head.emit(head.Head(channel.metadata(), documents, envelope, blobs))

    def _check(self, data: bytes) -> None:
        """Admit the new head as a site would: what leaves the desk has passed the gate it will meet."""
        root = fsops.read_regular(self._workspace.pinned_root, Limits.ROOT)
        admit(data, refresh=fresh_refresh(root, self._now), have=airpack.__version__, steps=Steps())


def _move(staging: Path, out: Path, names: list[str]) -> list[Path]:
    """Move the files of one package into `out`, the head last, so that a head never stands before its volumes.

    Volumes that an earlier build of the same package left, and this one did not write, go.
    """
    listed = set(names)
    for path in volumes_in(out, names[-1].removesuffix(head.SUFFIX)):
        if path.name not in listed:
            fsops.remove_file(path)
    for name in names:
        fsops.rename_durable(staging / name, out / name)
    return [out / name for name in names]
