"""The build side of a channel: a TUF repository in a folder (TUF specification 1.0; docs/spec/trust.md).

    FOLDER/metadata/  1.root.json …, timestamp.json, N.snapshot.json, N.targets.json
    FOLDER/targets/   <SHA-256>.<name>

File names are those of a TUF repository with consistent snapshots, so nothing that is current is ever overwritten but
`timestamp.json`, which is written last: a crash before leaves the old state whole, and what it wrote is written again.
Snapshot and timestamp pin length and SHA-256 of what they name, so two sets cannot be mixed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from airpack.crypto.client import CHANNEL_FIELD, ISSUED_FIELD, ROLES, RootInfo, check_root
from airpack.crypto.keys import PrivateKey
from airpack.errors import ExpiredError, InputError, NotFoundError, TrustError
from airpack.formats.statement import is_channel_name
from airpack.formats.times import emit_time
from airpack.fsops import Lock, make_dir, read_regular, write_durable
from airpack.types import Digest, Limits

LIFETIMES: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        Root.type: timedelta(days=5 * 365),
        Targets.type: timedelta(days=365),
        Snapshot.type: timedelta(days=90),
        Timestamp.type: timedelta(days=90),
    }
)
"""How long metadata of each role lasts from its signing. The timestamp's is the staleness that sites tolerate."""

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}\Z", re.ASCII)
_RELEASE = "@"  # stands in the path of every release's index and in no other
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class _Held:
    """What the folder holds, all of it verified down from root version 1."""

    files: dict[str, bytes]
    info: RootInfo
    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets


class Channel:
    """A channel on the build side. Made by `create` or `load`."""

    def __init__(self, folder: Path, held: _Held) -> None:
        self._folder = folder
        self._held = held

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        keys: Mapping[str, PrivateKey],
        targets: Mapping[str, bytes],
        now: datetime,
        starter: bool,
    ) -> Self:
        """Make a new channel: version 1 of every role, one key and threshold 1 each.

        Args:
            folder: Where it will lie; made when missing.
            name: The channel's name.
            keys: Role -> key, for `root`, `targets`, `snapshot` and `timestamp`; four different ones.
            targets: The first target files: `policy.json`, `revocations.json`.
            now: The time of signing, with a time zone.
            starter: Whether one machine holds every key; sites show it.

        Raises:
            InputError: There is a channel already; a name, path or key that cannot be.
            StorageError: The folder cannot be written.
        """
        _check_new(folder, name, keys)
        moment = _moment(now)
        root = Root(
            expires=moment + LIFETIMES[Root.type],
            consistent_snapshot=True,
            unrecognized_fields={CHANNEL_FIELD: {"channel": name, "starter": starter}},
        )
        for role in ROLES:
            root.add_key(CryptoSigner(keys[role].native).public_key, role)
        make_dir(folder / "metadata")
        make_dir(folder / "targets")
        with Lock(folder / ".lock"):
            write_durable(folder / "metadata" / "1.root.json", _signed(root, keys[Root.type]))
            files = {path: _target_file(path, data, None) for path, data in targets.items()}
            _write_targets(folder, files, targets)
            _issue(
                folder, keys, targets=Targets(targets=files), snapshot=Snapshot(), timestamp=Timestamp(), moment=moment
            )
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a channel and verify it, signatures and digests, but not whether it has expired.

        Raises:
            NotFoundError: There is no channel, or a file of it is missing.
            TrustError: A signature, version or digest does not hold.
            StorageError: It cannot be read.
        """
        return cls(folder, _read(folder))

    def publish(
        self,
        keys: Mapping[str, PrivateKey],
        add: Mapping[str, bytes],
        now: datetime,
        custom: Mapping[str, Mapping[str, Any]] = _NOTHING,
    ) -> None:
        """List more targets; with nothing to add, renew timestamp and snapshot, and targets past half its life.

        Args:
            keys: Role -> key: `snapshot` and `timestamp`, and `targets` when something is added or it is renewed.
            add: Target path -> bytes. A path with `@` is a release's index and never changes; others are replaced.
            now: The time of signing, with a time zone.
            custom: Target path -> JSON object without floats, signed beside the digest.

        Raises:
            InputError: A release that is listed already would change; a key is missing or is not the role's.
            ExpiredError: The root has expired; nothing signed under it would be accepted.
            BusyError: Another process publishes.
            StorageError: The folder cannot be written; what was published before stays whole.
        """
        moment = _moment(now)
        with Lock(self._folder / ".lock"):
            held = _read(self._folder)
            if held.root.is_expired(moment):
                raise ExpiredError(
                    f"the channel's root expired at {emit_time(held.root.expires)}; it is {emit_time(moment)} now",
                    hint="the holders of the root keys must sign a new root",
                )
            files = _merge(held.targets.targets, add, custom)
            renewed = held.targets.expires - moment < LIFETIMES[Targets.type] / 2
            targets = None
            if files != held.targets.targets or renewed:
                targets = held.targets
                targets.version += 1
                targets.targets = files
            _check_keys(held.root, keys, [Targets.type] * bool(targets) + [Snapshot.type, Timestamp.type])
            held.snapshot.version += 1
            held.timestamp.version += 1
            _write_targets(self._folder, files, add)
            _issue(self._folder, keys, targets=targets, snapshot=held.snapshot, timestamp=held.timestamp, moment=moment)
            self._held = _read(self._folder)

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._held.info.channel

    @property
    def starter(self) -> bool:
        """Whether one machine holds every key."""
        return self._held.info.starter

    @property
    def root(self) -> bytes:
        """The newest root's bytes: what new sites pin."""
        return self._held.files[f"{self._held.root.version}.root.json"]

    @property
    def versions(self) -> dict[str, int]:
        """Version of each role's metadata."""
        return {role: signed.version for role, signed in self._roles().items()}

    @property
    def expires(self) -> dict[str, datetime]:
        """Expiry of each role's metadata."""
        return {role: signed.expires for role, signed in self._roles().items()}

    @property
    def custom(self) -> dict[str, dict[str, Any]]:
        """Target path -> what was signed beside its digest; empty for nothing."""
        return {path: dict(info.custom or {}) for path, info in self._held.targets.targets.items()}

    def metadata(self) -> dict[str, bytes]:
        """Return the metadata that a head carries: every root from version 1, timestamp, and what it names."""
        return dict(self._held.files)

    def targets(self) -> dict[str, bytes]:
        """Return the bytes of every listed target by its path.

        Raises:
            NotFoundError: A target file is missing.
            TrustError: A target file is not what is listed.
        """
        return {path: self.target(path) for path in sorted(self._held.targets.targets)}

    def target(self, path: str) -> bytes:
        """Return the bytes of one listed target.

        Raises:
            NotFoundError: It is not listed, or its file is missing.
            TrustError: Its file is not what is listed.
        """
        info = self._held.targets.targets.get(path)
        if info is None:
            raise NotFoundError(f"channel {self.name} does not list {path}", hint="see `airpack releases`")
        data = read_regular(_target_path(self._folder, info), Limits.MANIFEST)
        _check_file(info, data, path)
        return data

    def _roles(self) -> dict[str, Signed]:
        held = self._held
        return {
            Root.type: held.root,
            Timestamp.type: held.timestamp,
            Snapshot.type: held.snapshot,
            Targets.type: held.targets,
        }


def _check_new(folder: Path, name: str, keys: Mapping[str, PrivateKey]) -> None:
    if not is_channel_name(name):
        raise InputError(f"a channel's name is [a-z0-9]+([._-][a-z0-9]+)*, at most 63 characters; found {name[:80]!r}")
    if set(keys) != set(ROLES) or len({key.public.der for key in keys.values()}) != len(ROLES):
        raise InputError(f"a channel needs four different keys, for {', '.join(ROLES)}; found {', '.join(keys)}")
    if (folder / "metadata" / "timestamp.json").exists():
        raise InputError(f"there is a channel in {folder} already", hint="see `airpack channel`")


def _moment(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("a point in time needs a time zone")
    return now.astimezone(UTC).replace(microsecond=0)


def _merge(
    listed: Mapping[str, TargetFile], add: Mapping[str, bytes], custom: Mapping[str, Mapping[str, Any]]
) -> dict[str, TargetFile]:
    """Return the targets to list from now on."""
    result = dict(listed)
    for path, data in add.items():
        old = listed.get(path)
        said = custom.get(path, old.custom if old else None)
        new = _target_file(path, data, said)
        if old and _RELEASE in path and new != old:
            raise InputError(
                f"{path} is published already, as {old.hashes['sha256'][:12]}; a release never changes,"
                f" this would be {new.hashes['sha256'][:12]}",
                hint="give the release another version",
                target=path,
            )
        result[path] = new
    return result


def _target_file(path: str, data: bytes, custom: Mapping[str, Any] | None) -> TargetFile:
    if not _PATH.match(path):
        raise InputError(f"a target's name is made of letters, digits and . _ @ - only; found {path[:80]!r}")
    if len(data) > Limits.MANIFEST:
        raise InputError(f"target {path} has {len(data)} bytes; at most {Limits.MANIFEST} are read")
    info = TargetFile.from_data(path, data, ["sha256"])
    if custom:
        info.unrecognized_fields["custom"] = dict(custom)
    return info


def _check_keys(root: Root, keys: Mapping[str, PrivateKey], roles: list[str]) -> None:
    """Refuse before anything is written what would be refused by every site."""
    for role in roles:
        if role not in keys:
            raise InputError(f"the channel's {role} key is needed to sign", hint="see `airpack keys`", role=role)
        keyid = CryptoSigner(keys[role].native).public_key.keyid
        if keyid not in root.roles[role].keyids:
            raise InputError(
                f"the key given for {role} is not the channel's {role} key", hint="see `airpack keys`", role=role
            )


def _issue(
    folder: Path,
    keys: Mapping[str, PrivateKey],
    *,
    targets: Targets | None,
    snapshot: Snapshot,
    timestamp: Timestamp,
    moment: datetime,
) -> None:
    """Sign and write, each before what names it. `targets` is None when it stays as it is."""
    metadata = folder / "metadata"
    if targets:
        targets.expires = moment + LIFETIMES[Targets.type]
        data = _signed(targets, keys[Targets.type])
        write_durable(metadata / f"{targets.version}.targets.json", data)
        snapshot.meta["targets.json"] = MetaFile.from_data(targets.version, data, ["sha256"])
    snapshot.expires = moment + LIFETIMES[Snapshot.type]
    data = _signed(snapshot, keys[Snapshot.type])
    write_durable(metadata / f"{snapshot.version}.snapshot.json", data)
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
    timestamp.expires = moment + LIFETIMES[Timestamp.type]
    timestamp.unrecognized_fields[ISSUED_FIELD] = emit_time(moment)
    write_durable(metadata / "timestamp.json", _signed(timestamp, keys[Timestamp.type]))


def _signed(signed: Root | Timestamp | Snapshot | Targets, key: PrivateKey) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(CryptoSigner(key.native))
    return metadata.to_bytes()


def _write_targets(folder: Path, files: Mapping[str, TargetFile], add: Mapping[str, bytes]) -> None:
    for path, data in add.items():
        target = _target_path(folder, files[path])
        if not target.exists():
            write_durable(target, data)


def _target_path(folder: Path, info: TargetFile) -> Path:
    return folder / "targets" / f"{info.hashes['sha256']}.{info.path}"


def _read(folder: Path) -> _Held:
    """Read and verify: roots upwards from version 1, then timestamp, snapshot and targets downwards."""
    metadata = folder / "metadata"
    if not (metadata / "timestamp.json").exists():
        raise NotFoundError(f"there is no channel in {folder}", hint="`airpack init` makes a workspace with one")
    files = {"1.root.json": read_regular(metadata / "1.root.json", Limits.ROOT)}
    info = check_root(files["1.root.json"])
    root = _load(Root, files["1.root.json"], None)
    while (path := metadata / f"{len(files) + 1}.root.json").exists():
        files[path.name] = read_regular(path, Limits.ROOT)
        info = check_root(files[path.name])
        root = _load(Root, files[path.name], root)
        if root.version != len(files):
            raise TrustError(f"{path.name} holds root version {root.version}")
    files["timestamp.json"] = read_regular(metadata / "timestamp.json", Limits.DOCUMENT)
    timestamp = _load(Timestamp, files["timestamp.json"], root)
    snapshot = _load_named(Snapshot, metadata, timestamp.snapshot_meta, root, files)
    targets = _load_named(Targets, metadata, snapshot.meta["targets.json"], root, files)
    return _Held(files, info, root, timestamp, snapshot, targets)


def _load_named(kind: type[_T], folder: Path, meta: MetaFile, root: Root, files: dict[str, bytes]) -> _T:
    """Read the version of a role's metadata that `meta` names, and put it to `files`."""
    name = f"{meta.version}.{kind.type}.json"
    files[name] = read_regular(folder / name, Limits.DOCUMENT)
    _check_file(meta, files[name], name)
    signed = _load(kind, files[name], root)
    if signed.version != meta.version:
        raise TrustError(f"{name} holds version {signed.version}")
    return signed


def _load(kind: type[_T], data: bytes, root: Root | None) -> _T:
    """Read metadata of `kind`, signed as `root` asks; None for the first root, which `check_root` has checked."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        if root:
            root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
    except tuf_errors.RepositoryError as error:
        raise TrustError(f"the channel's {kind.type} metadata does not hold: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise TrustError(f"expected {kind.type} metadata, found {metadata.signed.type}")
    return metadata.signed


def _check_file(meta: MetaFile | TargetFile, data: bytes, name: str) -> None:
    try:
        meta.verify_length_and_hashes(data)
    except tuf_errors.LengthOrHashMismatchError as error:
        raise TrustError(
            f"{name} is not the file that was signed: {error}",
            hint="restore the channel's folder from a backup",
            found=Digest.of(data).value,
        ) from error
