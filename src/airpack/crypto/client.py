"""The site's view of a channel: which keys and releases are trusted now, decided by python-tuf from a head's metadata.

TUF specification 1.0 section 5 (detailed client workflow) is python-tuf's work; this module feeds it from memory,
gives it the time, keeps the four rules that are airpack's own, and says in plain words why something is refused:

1. the site's pinned root is the only start; the head must carry every root from version 1, so that the walk never gaps;
2. an *older medium* is normal: where the head's timestamp is older than the site's, the site's stored set is used and
   the head adds nothing but roots. Nothing is ever lowered, and the release must still be listed;
3. a role's keys are distinct key material of an accepted kind, so that a threshold of two means two keys;
4. a state that passed holds the bytes of `policy.json` and `revocations.json` too, so that it serves older media later.

Metadata is parsed as strict JSON of bounded size before python-tuf sees it. Nothing here can reach a network.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.fetcher import FetcherInterface

from airpack.crypto.keys import PublicKey
from airpack.errors import (
    AirpackError,
    ExpiredError,
    NotFoundError,
    RollbackError,
    StorageError,
    ThresholdError,
    TrustError,
)
from airpack.formats.canonical import parse as parse_json
from airpack.formats.fields import Fields
from airpack.formats.statement import is_channel_name
from airpack.formats.times import emit_time, parse_time
from airpack.formats.trust import POLICY_TARGET, REVOCATIONS_TARGET
from airpack.fsops import make_dir, read_regular, remove_file, write_durable
from airpack.types import Digest, Limits

ROLES: Final = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
"""TUF's four top-level roles, in the order in which they are checked."""

CHANNEL_FIELD: Final = "x-airpack"
"""Of the signed root: {"channel": NAME, "starter": true or false}."""

ISSUED_FIELD: Final = "x-airpack-issued"
"""Of the signed timestamp: when it was signed, RFC 3339."""

_BASE = "memory:///"
_VERSIONED = re.compile(r"([1-9][0-9]{0,8})\.([A-Za-z0-9_.%-]{1,200})\.json\Z", re.ASCII)
_KEPT = (POLICY_TARGET, REVOCATIONS_TARGET)
_ECDSA = ("ecdsa", "ecdsa-sha2-nistp256")
_ED25519 = ("ed25519", "ed25519")
_RENEW = "ask for a package with fresh metadata: on the build side `airpack publish`"
_NOTHING: Mapping[str, int] = MappingProxyType({})
_HIGHEST_VERSION = 2**31 - 1
_NEVER_EXPIRED = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RootInfo:
    """What a root says of itself.

    Attributes:
        channel: The channel's name.
        starter: Whether this is a starter channel: one machine holds every key.
        version: Version of this root.
        expires: When it expires.
        fingerprint: SHA-256 of the root file's bytes: what people compare and sites pin.
    """

    channel: str
    starter: bool
    version: int
    expires: datetime
    fingerprint: Digest


@dataclass(frozen=True, slots=True)
class TrustedChannel:
    """A channel's state that passed every check. Only `refresh` makes one.

    Attributes:
        channel: The channel's name.
        starter: Whether this is a starter channel.
        root_fingerprint: SHA-256 of the pinned root's bytes.
        issued: When the timestamp was signed: a lower bound of the present time.
        versions: Version of `root`, `timestamp`, `snapshot` and `targets`.
        expires: Expiry of the same four.
        older_medium: Whether the head's metadata was older than the site's, whose own was used.
    """

    channel: str
    starter: bool
    root_fingerprint: Digest
    issued: datetime
    versions: Mapping[str, int]
    expires: Mapping[str, datetime]
    older_medium: bool
    _listed: Mapping[str, TargetFile]
    _offered: Mapping[str, tuple[bytes, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The targets that the channel lists, sorted."""
        return tuple(sorted(self._listed))

    def digest(self, path: str) -> Digest:
        """Return the digest that the channel lists for `path`.

        Raises:
            TrustError: It is not listed.
        """
        return _digest(self._info(path))

    def custom(self, path: str) -> Mapping[str, Any]:
        """Return what the channel's targets role says about `path` beside its digest; empty for nothing.

        Raises:
            TrustError: It is not listed.
        """
        value = self._info(path).custom
        return MappingProxyType(dict(value)) if isinstance(value, dict) else MappingProxyType({})

    def check(self, path: str, data: bytes) -> bytes:
        """Return `data` if it is what the channel lists as `path`.

        Raises:
            TrustError: `path` is not listed, or its listed length or digest is another.
        """
        info = self._info(path)
        try:
            info.verify_length_and_hashes(data)
        except tuf_errors.LengthOrHashMismatchError as error:
            raise TrustError(
                f"{path} is not the one that channel {self.channel} lists:"
                f" expected {info.length} bytes with {_digest(info)}, got {len(data)} bytes with {Digest.of(data)}",
                target=path,
            ) from error
        return data

    def target(self, path: str) -> bytes:
        """Return the bytes of `path`, from the head or from what the site kept.

        Raises:
            TrustError: Not listed, or the bytes that are there are others.
            NotFoundError: Listed, but there are no bytes of that name.
        """
        listed = self.digest(path)
        offered = self._offered.get(path, ())
        for data in offered:
            if Digest.of(data) == listed:
                return self.check(path, data)
        if not offered:
            raise NotFoundError(f"channel {self.channel} lists {path}, but neither the head nor the site has it")
        return self.check(path, offered[0])

    def _info(self, path: str) -> TargetFile:
        if path not in self._listed:
            raise TrustError(
                f"channel {self.channel} does not list {path} (targets version {self.versions[Targets.type]})",
                hint="on the build side `airpack publish` lists it; a release that was withdrawn stays unlisted",
                target=path,
            )
        return self._listed[path]


def root_fingerprint(root: bytes) -> Digest:
    """Return what people compare and sites pin: the SHA-256 of the root file's bytes."""
    return Digest.of(root)


def check_root(root: bytes) -> RootInfo:
    """Check that a root that is to be pinned holds together. Whether it is the right one, only people can tell.

    Args:
        root: The bytes of a TUF `root.json`, at most `Limits.ROOT`.

    Raises:
        IntegrityError: Not strict JSON.
        TrustError: Not a TUF root; not signed by its own threshold; keys that are not distinct or of another kind;
            without airpack's field.
    """
    return _root_info(_self_signed_root(root), root_fingerprint(root))


def refresh(
    state: Path,
    *,
    metadata: Mapping[str, bytes],
    targets: Mapping[str, bytes],
    root: bytes,
    now: datetime,
    minimum: Mapping[str, int] = _NOTHING,
) -> TrustedChannel:
    """Bring a copy of the site's TUF state up to the head's metadata and return what is trusted now.

    Args:
        state: Folder that python-tuf works in: a *copy* of the site's, or an empty one. The caller promotes it
            durably when this returns, and throws it away when this raises.
        metadata: The head's TUF metadata by file name: `1.root.json` and on, `timestamp.json`, `N.snapshot.json`,
            `N.targets.json`.
        targets: The head's target files by target name.
        root: The pinned root.
        now: The time to judge expiry by, with a time zone.
        minimum: Role -> lowest version accepted, from enrolment.

    Raises:
        IntegrityError: Metadata is not strict JSON.
        ExpiredError: A role's metadata has expired at `now`.
        RollbackError: Below `minimum`, or the head's set would lower a version inside its snapshot or timestamp.
        ThresholdError: Too few keys signed a role.
        TrustError: Everything else that does not hold: another channel's root, a root missing from the chain, files
            that do not belong together, a policy whose bytes are not those listed.
        NotFoundError: A policy is listed, but neither the head nor the site has it.
        StorageError: `state` cannot be written.
        ValueError: `now` has no time zone (a caller's bug).
    """
    if now.tzinfo is None:
        raise ValueError("a point in time needs a time zone")
    pinned = check_root(root)
    _check_metadata(metadata, pinned, root)
    make_dir(state)
    trusted, older = _update(state, metadata, root, pinned, now)
    channel = _trusted_channel(trusted, pinned, older=older, offered=_offered(state, trusted.targets, targets))
    _check_minimum(channel, minimum)
    _keep(state, channel)
    return channel


def reload(state: Path, *, root: bytes) -> TrustedChannel:
    """Return what a stored state says, every signature checked again, whether or not it has expired since.

    Args:
        state: A *copy* of the site's state; python-tuf writes to it.
        root: The pinned root.

    Raises:
        NotFoundError: Nothing was ever refreshed into it.
        TrustError: It does not hold.
    """
    pinned = check_root(root)
    stored = _stored(state)
    if "timestamp.json" not in stored:
        raise NotFoundError("the site has seen no channel metadata yet")
    updater = _updater(state, _Memory({"timestamp.json": stored["timestamp.json"]}, stored), root, _NEVER_EXPIRED)
    try:
        _run(updater)
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
        raise _refusal(error, _trusted(updater), stored, _NEVER_EXPIRED) from error
    trusted = _trusted(updater)
    return _trusted_channel(trusted, pinned, older=False, offered=_offered(state, trusted.targets, {}))


class _Memory(FetcherInterface):
    """Serves files from memory. There is no other way out."""

    def __init__(self, files: Mapping[str, bytes], stored: Mapping[str, bytes]) -> None:
        self._files = files
        self._stored = stored  # by name without version, as python-tuf stores them

    def download_bytes(self, url: str, max_length: int) -> bytes:
        name = unquote(url.removeprefix(_BASE))
        data = self._files.get(name)
        if data is None and (match := _VERSIONED.match(name)):
            data = self._stored.get(f"{match[2]}.json")
        if data is None:
            # 404 ends the walk over roots: TUF specification 5.3.3.
            raise tuf_errors.DownloadHTTPError(name, 404)
        if len(data) > max_length:
            raise tuf_errors.DownloadLengthMismatchError(f"{name} has {len(data)} bytes; at most {max_length} are read")
        return data

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter((self.download_bytes(url, Limits.DOCUMENT),))


def _check_metadata(metadata: Mapping[str, bytes], pinned: RootInfo, root: bytes) -> None:
    """Bound and pre-parse the head's metadata, and see that its roots are ours and without a gap."""
    versions = set()
    for name, data in metadata.items():
        match = _VERSIONED.match(name)
        if name != "timestamp.json" and not match:
            raise TrustError(f"the head's trust metadata holds {name[:80]!r}, which is no TUF file name")
        if match and match[2] == Root.type:
            versions.add(int(match[1]))
        parse_json(data, what=name, limit=Limits.DOCUMENT)
    if len(versions) > Limits.ROOTS:
        raise TrustError(f"the head holds {len(versions)} root versions; at most {Limits.ROOTS} are followed")
    missing = next((version for version in range(1, len(versions) + 1) if version not in versions), None)
    if not versions or missing:
        raise TrustError(f"root version {missing or 1} is missing from the head; every root from version 1 is needed")
    own = metadata.get(f"{pinned.version}.root.json", root)
    if own != root:
        raise TrustError(
            f"the package is from another channel: expected root {pinned.fingerprint}, got {root_fingerprint(own)}",
            hint="compare the fingerprints with the channel's owners; never pin a root that came with the medium alone",
            expected=pinned.fingerprint.value,
            found=root_fingerprint(own).value,
        )


def _update(
    state: Path, metadata: Mapping[str, bytes], root: bytes, pinned: RootInfo, now: datetime
) -> tuple[TrustedMetadataSet, bool]:
    """Run python-tuf on the head's set; where that is an older one, on the roots of both and the site's own set."""
    updater = _updater(state, _Memory(metadata, {}), root, now)
    try:
        _run(updater)
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
        if not _is_older(_trusted(updater), metadata, state, pinned):
            raise _refusal(error, _trusted(updater), metadata, now) from error
    else:
        return _trusted(updater), False
    roots = {name: data for name, data in metadata.items() if name.endswith(".root.json")}
    stored = _stored(state)
    updater = _updater(state, _Memory(roots | {"timestamp.json": stored["timestamp.json"]}, stored), root, now)
    try:
        _run(updater)
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
        raise _refusal(error, _trusted(updater), stored, now) from error
    return _trusted(updater), True


def _updater(state: Path, fetcher: FetcherInterface, root: bytes, now: datetime) -> Updater:
    config = UpdaterConfig(max_root_rotations=Limits.ROOTS, root_max_length=Limits.ROOT)
    try:
        updater = Updater(str(state), _BASE, fetcher=fetcher, config=config, bootstrap=root)
    except OSError as error:
        raise StorageError(f"cannot write the trust state in {state}: {error.strerror}", path=str(state)) from error
    _trusted(updater).reference_time = now
    return updater


def _trusted(updater: Updater) -> TrustedMetadataSet:
    """Return what python-tuf trusts so far.

    Private in python-tuf 7, which offers no other way to set the time or to read versions; hence `tuf>=7,<8`.
    """
    return updater._trusted_set  # noqa: SLF001


def _run(updater: Updater) -> None:
    try:
        updater.refresh()
    except OSError as error:
        raise StorageError(f"cannot write the trust state: {error.strerror}", path=str(error.filename)) from error


def _is_older(trusted: TrustedMetadataSet, metadata: Mapping[str, bytes], state: Path, pinned: RootInfo) -> bool:
    """Return whether the head was refused only because its genuine timestamp is older than the site's.

    Genuine is what the trusted root's timestamp keys signed; or those of an older root that the site walked through
    and where the head ends, because the head was made before a rotation. The answer opens nothing: it leads to the
    site's own set.
    """
    data = metadata.get("timestamp.json")
    if data is None or Timestamp.type not in trusted:
        return False
    offered = _signed_timestamp(trusted.root, data)
    if offered is not None:
        return offered.version < trusted.timestamp.version
    newest = max(int(name.split(".")[0]) for name in metadata if name.endswith(".root.json"))
    if not pinned.version <= newest < trusted.root.version:
        return False
    walked = read_regular(state / "root_history" / f"{newest}.root.json", Limits.ROOT)
    return _signed_timestamp(_self_signed_root(walked), data) is not None


def _signed_timestamp(root: Root, data: bytes) -> Timestamp | None:
    """Return the timestamp in `data` if `root`'s keys signed it."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        root.verify_delegate(Timestamp.type, metadata.signed_bytes, metadata.signatures)
    except (tuf_errors.RepositoryError, DeserializationError):
        return None
    return metadata.signed if isinstance(metadata.signed, Timestamp) else None


def _stored(state: Path) -> dict[str, bytes]:
    """Return the site's own set by the names python-tuf stores it under."""
    names = [f"{role}.json" for role in ROLES if role != Root.type]
    return {name: read_regular(state / name, Limits.DOCUMENT) for name in names if (state / name).exists()}


def _refusal(error: Exception, trusted: TrustedMetadataSet, files: Mapping[str, bytes], now: datetime) -> AirpackError:
    """Say in plain words what python-tuf refused."""
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        return _expired(trusted, files, now)
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return ThresholdError(
            f"too few trusted keys signed the channel's metadata: {error}",
            hint="the medium is damaged, or its metadata is by keys that the channel does not trust: get a fresh one",
        )
    if isinstance(error, tuf_errors.BadVersionNumberError) and _lowers(trusted, files):
        return RollbackError(
            f"the channel's metadata would go back to an older version: {error}",
            hint="get a newer package; if there is none, the channel's keys may be in wrong hands",
        )
    if isinstance(error, tuf_errors.BadVersionNumberError | tuf_errors.LengthOrHashMismatchError):
        return TrustError(f"the channel's metadata files do not belong together: {error}", hint=_RENEW)
    if isinstance(error, tuf_errors.DownloadHTTPError):
        return TrustError(f"the channel's metadata is incomplete: {error} is missing", hint=_RENEW)
    return TrustError(f"the channel's metadata does not hold: {error}")


def _expired(trusted: TrustedMetadataSet, files: Mapping[str, bytes], now: datetime) -> ExpiredError:
    loaded: list[Signed] = [trusted[role] for role in ROLES if role in trusted]
    expired = next((signed for signed in loaded if signed.is_expired(now)), None)
    if expired is None:
        # python-tuf loads no expired targets, but has checked its digest and signature before it looks at the date.
        data = _find(files, Targets.type, trusted.snapshot.meta[f"{Targets.type}.json"].version)
        assert data is not None
        expired = Metadata[Targets].from_bytes(data).signed
    return ExpiredError(
        f"the channel's {expired.type} metadata expired at {emit_time(expired.expires)}; it is {emit_time(now)} now",
        hint="the channel's owners must issue a new root" if expired.type == Root.type else _RENEW,
        role=expired.type,
        expired=emit_time(expired.expires),
        now=emit_time(now),
    )


def _lowers(trusted: TrustedMetadataSet, files: Mapping[str, bytes]) -> bool:
    """Return whether a version was refused because the site holds a higher one, not because files do not fit."""
    if Timestamp.type not in trusted:
        return False
    if Snapshot.type not in trusted:
        return True
    data = _find(files, Snapshot.type, trusted.timestamp.snapshot_meta.version)
    if data is None:
        return False
    offered = Metadata[Snapshot].from_bytes(data).signed.meta
    return any(name in offered and offered[name].version < held.version for name, held in trusted.snapshot.meta.items())


def _find(files: Mapping[str, bytes], role: str, version: int) -> bytes | None:
    return files.get(f"{version}.{role}.json") or files.get(f"{role}.json")


def _offered(state: Path, listed: Targets, targets: Mapping[str, bytes]) -> dict[str, tuple[bytes, ...]]:
    """Return what there is of each target: the head's bytes, and the site's for what it keeps."""
    offered: dict[str, tuple[bytes, ...]] = {name: (data,) for name, data in targets.items()}
    for name in _KEPT:
        if name in listed.targets and (path := _kept_path(state, name, _digest(listed.targets[name]))).exists():
            offered[name] = (*offered.get(name, ()), read_regular(path, Limits.DOCUMENT))
    return offered


def _keep(state: Path, channel: TrustedChannel) -> None:
    """Store the trusted policy and revocations beside the metadata that lists them, and drop those they replace."""
    folder = state / "targets"
    make_dir(folder)
    kept = {
        _kept_path(state, name, channel.digest(name)): channel.target(name) for name in _KEPT if name in channel.names
    }
    for path, data in kept.items():
        if not path.exists():
            write_durable(path, data)
    for path in folder.iterdir():
        if path not in kept:
            remove_file(path)


def _kept_path(state: Path, name: str, digest: Digest) -> Path:
    return state / "targets" / f"{digest.hex}.{name}"


def _digest(info: TargetFile) -> Digest:
    if "sha256" not in info.hashes:
        raise TrustError(f"the channel lists {info.path} without a SHA-256 digest")
    return Digest(f"sha256:{info.hashes['sha256']}")


def _trusted_channel(
    trusted: TrustedMetadataSet, pinned: RootInfo, *, older: bool, offered: Mapping[str, tuple[bytes, ...]]
) -> TrustedChannel:
    newest = _root_info(trusted.root, pinned.fingerprint)
    if newest.channel != pinned.channel:
        raise TrustError(f"root version {newest.version} is of channel {newest.channel}, not of {pinned.channel}")
    highest = max(trusted[role].version for role in ROLES)
    if highest > _HIGHEST_VERSION:
        raise TrustError(f"the channel's metadata has version {highest}; no channel comes near {_HIGHEST_VERSION}")
    issued = trusted.timestamp.unrecognized_fields.get(ISSUED_FIELD)
    if not isinstance(issued, str):
        raise TrustError(f"the timestamp has no field {ISSUED_FIELD}, so nobody knows when it was signed")
    return TrustedChannel(
        channel=newest.channel,
        starter=newest.starter,
        root_fingerprint=pinned.fingerprint,
        issued=parse_time(issued, what=f"timestamp {ISSUED_FIELD}"),
        versions=MappingProxyType({role: trusted[role].version for role in ROLES}),
        expires=MappingProxyType({role: trusted[role].expires for role in ROLES}),
        older_medium=older,
        _listed=MappingProxyType(dict(trusted.targets.targets)),
        _offered=MappingProxyType(dict(offered)),
    )


def _check_minimum(channel: TrustedChannel, minimum: Mapping[str, int]) -> None:
    for role, low in minimum.items():
        if channel.versions[role] < low:
            raise RollbackError(
                f"the channel's {role} metadata has version {channel.versions[role]};"
                f" this site was enrolled with {low} as the lowest",
                hint="get a newer package: an old medium at a new site is how a rollback looks",
                role=role,
                version=channel.versions[role],
                minimum=low,
            )


def _self_signed_root(data: bytes) -> Root:
    """Read a root and check it against itself (TUF specification 5.3.2)."""
    parse_json(data, what="TUF root", limit=Limits.ROOT)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        root = metadata.signed
        if not isinstance(root, Root):
            raise TrustError(f"expected a TUF root, got TUF metadata of type {root.type!r}")
        root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (DeserializationError, SerializationError) as error:  # strict JSON with fractions is no canonical TUF
        raise TrustError(f"not a TUF root: {error.__cause__ or error}") from error
    except tuf_errors.UnsignedMetadataError as error:
        raise ThresholdError(f"the root does not vouch for itself: {error}") from error
    return root


def _root_info(root: Root, fingerprint: Digest) -> RootInfo:
    """Read airpack's field of a root whose signatures hold, and check its keys."""
    _check_distinct_keys(root)
    fields = Fields(root.unrecognized_fields.get(CHANNEL_FIELD), what=f"root {CHANNEL_FIELD}", error=TrustError)
    name, starter = fields.text("channel"), fields.flag("starter")
    fields.done()
    if not is_channel_name(name):
        raise fields.fail(f"'channel' is {name[:80]!r}; a name such as 'main' is expected")
    return RootInfo(name, starter, root.version, root.expires, fingerprint)


def _check_distinct_keys(root: Root) -> None:
    """See that each role's keys are distinct material: TUF counts key ids, and one key can be listed under two."""
    for name, role in root.roles.items():
        material = [_material(root, keyid) for keyid in role.keyids]
        if len(set(material)) != len(material):
            raise TrustError(f"root role '{name}' lists one key twice, so its threshold does not mean what it says")


def _material(root: Root, keyid: str) -> bytes:
    key = root.keys.get(keyid)
    if key is None:
        raise TrustError(f"the root names a key {keyid[:16]} that it does not hold")
    public = str(key.keyval.get("public", ""))
    kind = (key.keytype, key.scheme)
    if kind == _ECDSA:
        return PublicKey.from_pem(public.encode()).der
    if kind == _ED25519:
        try:
            return bytes.fromhex(public)
        except ValueError as error:
            raise TrustError(f"the root's key {keyid[:16]} is not hex: {error}") from error
    raise TrustError(f"the root's key {keyid[:16]} is of kind {kind}; only P-256 and Ed25519 are accepted")
