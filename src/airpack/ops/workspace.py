"""The workspace: the build side's folder.

airpack.toml            schema and channel name
keys/                   root.json (what sites pin) and the public keys, PEM
manifests/              pack specs
registry/               OCI layout of the small blobs of releases built, where their large files lie (`places`), what
                        sites hold (`sites`), and the channel's TUF repository
.airpack/private/       private keys (0700, files 0600), ignored by a .gitignore of its own
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from airpack import fsops
from airpack.crypto.channel import Channel
from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import InputError, IntegrityError, NotFoundError
from airpack.formats import canonical, oci
from airpack.formats.fields import Fields
from airpack.formats.package import PAYLOAD_TYPE
from airpack.formats.statement import PREDICATE_COSIGN, PREDICATE_PROVENANCE, PREDICATE_RELEASE, is_channel_name
from airpack.formats.trust import PAYLOAD_TYPE_GRANT, Revocations, Role, TrustPolicy
from airpack.ops.layout import LAYOUT, REF_NAME
from airpack.ops.places import PlacesFolder
from airpack.types import Descriptor, Digest, Limits

Passphrase = Callable[[], bytes | None]

SCHEMA: Final = "airpack.workspace/1"
BUILT_SCHEMA: Final = "airpack.built/1"
CHANNEL_ROLES: Final = ("root", "targets", "snapshot", "timestamp")
ATTESTATION_ROLES: Final = ("release", "builder", "packer", "cosign")


@dataclass(frozen=True, slots=True)
class Built:
    """What the workspace remembers of a release that it built.

    Attributes:
        product: Its product.
        version: Its version.
        sequence: Its number within the product.
        release: Digest of its index.
        attestations: Digests of the referrer manifests that were signed for it.
        built: When, RFC 3339.
    """

    product: str
    version: str
    sequence: int
    release: Digest
    attestations: tuple[Digest, ...]
    built: str

    @property
    def name(self) -> str:
        """`product@version`."""
        return f"{self.product}@{self.version}"

    def emit(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.emit(
            {
                "schema": BUILT_SCHEMA,
                "product": self.product,
                "version": self.version,
                "sequence": self.sequence,
                "release": str(self.release),
                "attestations": [str(digest) for digest in self.attestations],
                "built": self.built,
            }
        )

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read what `emit` wrote.

        Raises:
            IntegrityError: It is not such a document.
        """
        fields = Fields(canonical.parse_canonical(data, what=what), what=what)
        fields.schema(BUILT_SCHEMA)
        built = cls(
            product=fields.text("product"),
            version=fields.text("version"),
            sequence=fields.integer("sequence", low=1),
            release=fields.digest("release"),
            attestations=tuple(Digest(text) for text in fields.texts("attestations", most=100)),
            built=fields.text("built"),
        )
        fields.done()
        return built


class Workspace:
    """An open workspace.

    Args:
        root: Its folder.
        channel_name: The channel's name.
    """

    def __init__(self, root: Path, channel_name: str) -> None:
        self.root = root
        self.channel_name = channel_name

    @classmethod
    def find(cls, folder: Path | None, start: Path) -> Self:
        """Open `folder`, or the nearest workspace from `start` upwards.

        Raises:
            NotFoundError: There is none.
            InputError: Its airpack.toml cannot be read.
        """
        places = [folder] if folder is not None else [start, *start.parents]
        for place in places:
            if (place / "airpack.toml").is_file():
                return cls._open(place.resolve())
        raise NotFoundError(
            f"no workspace: no airpack.toml in {folder or start}" + ("" if folder else " or any folder above it"),
            hint="make one with `airpack init DIR`, or name it with --workspace DIR",
        )

    @classmethod
    def _open(cls, root: Path) -> Self:
        path = root / "airpack.toml"
        fields = Fields.from_toml(fsops.read_regular(path, Limits.DOCUMENT), what=str(path), error=InputError)
        fields.schema(SCHEMA)
        name = fields.text("channel")
        fields.done()
        if not is_channel_name(name):
            raise fields.fail(f"'channel' is {name[:80]!r}; expected lower-case letters and digits joined by . _ -")
        return cls(root, name)

    @classmethod
    def create(cls, folder: Path, *, channel: str, passphrase: bytes | None, now: datetime) -> Self:
        """Make a workspace with a starter channel: every role has one key here, and every threshold is 1.

        Args:
            folder: Made when missing; may hold other files, but no workspace.
            channel: The channel's name.
            passphrase: Encrypts the private keys; None leaves them in the clear.
            now: Start of validity of the channel's metadata.

        Raises:
            InputError: There is a workspace already, or the name cannot be.
        """
        if not is_channel_name(channel):
            raise InputError(f"channel name {channel[:80]!r}: expected lower-case letters and digits joined by . _ -")
        for taken in ("airpack.toml", ".airpack", "keys/root.json", "registry/channel"):
            if (folder / taken).exists():
                raise InputError(f"{folder} already holds {taken}", hint="choose another folder for the new workspace")
        workspace = cls(folder.resolve(), channel)
        for name in ("keys", "manifests", "registry/blobs/sha256", "registry/releases"):
            fsops.make_dir(workspace.root / name)
        fsops.make_dir(workspace.root / ".airpack", 0o700)
        fsops.make_dir(workspace.root / ".airpack/private", 0o700)
        fsops.write_durable(workspace.root / ".airpack/.gitignore", b"*\n")
        keys = workspace._make_keys(passphrase)
        Channel.create(
            workspace.root / "registry/channel",
            name=channel,
            keys={role: keys[role] for role in CHANNEL_ROLES},
            targets=_first_targets(channel, keys),
            now=now,
            starter=True,
        )
        fsops.write_durable(workspace.root / "registry/oci-layout", LAYOUT)
        workspace._write_layout_index()
        fsops.write_durable(workspace.pinned_root, workspace.channel().metadata()["1.root.json"])
        fsops.write_durable(workspace.root / "airpack.toml", f'schema = "{SCHEMA}"\nchannel = "{channel}"\n'.encode())
        return workspace

    def _make_keys(self, passphrase: bytes | None) -> dict[str, PrivateKey]:
        keys = {}
        for role in (*CHANNEL_ROLES, *ATTESTATION_ROLES):
            key = keys[role] = PrivateKey.generate()
            fsops.write_durable(self._private_path(role), key.to_pem(passphrase), mode=0o600, replace=False)
            fsops.write_durable(self.root / "keys" / f"{role}.pub", key.public.pem)
        return keys

    @property
    def pinned_root(self) -> Path:
        """The root that sites pin."""
        return self.root / "keys/root.json"

    @property
    def lock(self) -> fsops.Lock:
        """The lock that every change of the workspace holds."""
        return fsops.Lock(self.root / ".airpack/lock")

    @property
    def places(self) -> PlacesFolder:
        """Where the large files of releases lie."""
        return PlacesFolder(self.root)

    def channel(self) -> Channel:
        """Open the channel."""
        return Channel.load(self.root / "registry/channel")

    def public_key(self, role: str) -> PublicKey:
        """Return the public key of `role`."""
        return PublicKey.from_pem(fsops.read_regular(self.root / "keys" / f"{role}.pub", Limits.DOCUMENT))

    def private_keys(self, roles: Iterable[str], passphrase: Passphrase) -> dict[str, PrivateKey]:
        """Open private keys; the passphrase is asked for once, and only when a key is encrypted.

        Raises:
            NotFoundError: A key is not here.
            TrustError: A key's file is open to others, or the passphrase is wrong.
        """
        pems = {role: self._read_private(role) for role in roles}
        secret = passphrase() if any(b"ENCRYPTED" in pem for pem in pems.values()) else None
        return {role: PrivateKey.from_pem(pem, secret if b"ENCRYPTED" in pem else None) for role, pem in pems.items()}

    def _read_private(self, role: str) -> bytes:
        path = self._private_path(role)
        try:
            return fsops.read_private(path, Limits.DOCUMENT)
        except NotFoundError as error:
            raise NotFoundError(
                f"the private key of role '{role}' is not in this workspace: no file {path}",
                hint="private keys stay where `airpack init` made them: run this command there, or put back a copy; "
                "without one, docs/howto/reach-a-site.md says what is left",
                path=str(path),
            ) from error

    def _private_path(self, role: str) -> Path:
        return self.root / ".airpack/private" / f"{role}.pem"

    def releases(self) -> list[Built]:
        """Return the releases built here, by product and sequence."""
        folder = self.root / "registry/releases"
        found = [
            Built.parse(fsops.read_regular(path, Limits.DOCUMENT), path.name) for path in sorted(folder.glob("*.json"))
        ]
        return sorted(found, key=lambda built: (built.product, built.sequence))

    def remember(self, built: Built, blobs: Mapping[Digest, bytes]) -> None:
        """Keep the small blobs of a release and what was built, durably."""
        for digest, data in blobs.items():
            if not self._is_kept(digest):
                fsops.write_durable(self._blob_path(digest), data)
        fsops.write_durable(self.root / "registry/releases" / f"{built.name}.json", built.emit())
        self._write_layout_index()

    def blob(self, digest: Digest) -> bytes:
        """Return a small blob that is kept here, hashed again.

        Raises:
            NotFoundError: It is not kept.
            IntegrityError: Its bytes have changed.
        """
        path = self._blob_path(digest)
        data = fsops.read_regular(path, Limits.MANIFEST)
        found = Digest.of(data)
        if found != digest:
            raise IntegrityError(
                f"{path} has changed since it was written: expected {digest}, found {found}",
                hint="build its release again: the same inputs give the same bytes",
                path=str(path),
            )
        return data

    def _is_kept(self, digest: Digest) -> bool:
        try:
            self.blob(digest)
        except (NotFoundError, IntegrityError):
            return False
        return True

    def _blob_path(self, digest: Digest) -> Path:
        return self.root / "registry/blobs/sha256" / digest.hex

    def _write_layout_index(self) -> None:
        children = tuple(
            Descriptor(
                oci.INDEX,
                built.release,
                len(self.blob(built.release)),
                {REF_NAME: built.name},
            )
            for built in self.releases()
        )
        fsops.write_durable(self.root / "registry/index.json", oci.emit_index(oci.Index(children)))


def _first_targets(channel: str, keys: Mapping[str, PrivateKey]) -> dict[str, bytes]:
    def role(name: str, *, predicate: str = "", payload: str = "") -> Role:
        return Role(threshold=1, keys=(keys[name].public.der,), predicate_type=predicate, payload_type=payload)

    policy = TrustPolicy(
        channel=channel,
        roles={
            "release": role("release", predicate=PREDICATE_RELEASE),
            "builder": role("builder", predicate=PREDICATE_PROVENANCE),
            "packer": role("packer", payload=PAYLOAD_TYPE),
            "cosign": role("cosign", predicate=PREDICATE_COSIGN),
            "grant": role("release", payload=PAYLOAD_TYPE_GRANT),
        },
        sites={"*": {}},
    )
    return {"policy.json": policy.emit(), "revocations.json": Revocations({}).emit()}
