"""A TUF repository in memory that can be made to do wrong, and a site that refreshes from it as import does."""

import copy
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from airpack.crypto.client import TrustedChannel, refresh
from airpack.crypto.keys import PrivateKey

NOW = datetime(2031, 1, 1, tzinfo=UTC)  # years from the real clock, which no decision may rest on


@dataclass
class Medium:
    metadata: dict[str, bytes]
    targets: dict[str, bytes]


@dataclass
class Simulator:
    """Every field may be changed between `issue` calls; nothing is checked."""

    now: datetime = NOW
    root: Root = field(init=False)
    keys: dict[str, list[PrivateKey]] = field(init=False)
    files: dict[str, bytes] = field(default_factory=dict)
    contents: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = {role: [PrivateKey.generate("ed25519")] for role in ("root", "timestamp", "snapshot", "targets")}
        self.root = Root(
            expires=self.now + timedelta(days=1825),
            unrecognized_fields={"x-airpack": {"channel": "main", "starter": True}},
        )
        for role, (key,) in self.keys.items():
            self.root.add_key(CryptoSigner(key.native).public_key, role)
        self.targets = Targets(expires=self.now + timedelta(days=365))
        self.snapshot = Snapshot(expires=self.now + timedelta(days=90))
        self.timestamp = Timestamp(expires=self.now + timedelta(days=90))
        self.timestamp.unrecognized_fields["x-airpack-issued"] = "2031-01-01T00:00:00Z"
        self.contents = {"policy.json": b"policy 1", "revocations.json": b"revocations 1"}
        self.issue_root()
        self.issue(bump=False)

    @staticmethod
    def sign(signed: Any, keys: Iterable[PrivateKey]) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for key in keys:
            metadata.sign(CryptoSigner(key.native), append=True)
        return metadata.to_bytes()

    def issue_root(self, *, also: Iterable[PrivateKey] = ()) -> None:
        self.files[f"{self.root.version}.root.json"] = self.sign(self.root, [*self.keys["root"], *also])

    def rotate(self, role: str) -> None:
        """Replace the keys of `role` by one new key, in a new root that old and new root keys sign."""
        old_root_keys = list(self.keys["root"])
        self.root = copy.deepcopy(self.root)
        self.root.version += 1
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        self.keys[role] = [PrivateKey.generate("ed25519")]
        self.root.add_key(CryptoSigner(self.keys[role][0].native).public_key, role)
        self.issue_root(also=old_root_keys if role == "root" else ())

    def issue(self, *, bump: bool = True) -> None:
        """Write targets, snapshot and timestamp, each naming the one before by version, length and digest."""
        for signed in (self.targets, self.snapshot, self.timestamp):
            signed.version += int(bump)
        self.targets.targets = {name: TargetFile.from_data(name, data) for name, data in self.contents.items()}
        self.issue_targets()
        self.issue_snapshot()
        self.issue_timestamp()

    def issue_targets(self) -> None:
        data = self.sign(self.targets, self.keys["targets"])
        self.files[f"{self.targets.version}.targets.json"] = data
        self.snapshot.meta["targets.json"] = MetaFile.from_data(self.targets.version, data, ["sha256"])

    def issue_snapshot(self) -> None:
        data = self.sign(self.snapshot, self.keys["snapshot"])
        self.files[f"{self.snapshot.version}.snapshot.json"] = data
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])

    def issue_timestamp(self) -> None:
        self.files["timestamp.json"] = self.sign(self.timestamp, self.keys["timestamp"])

    def medium(self) -> Medium:
        """Return what a head written now carries."""
        current = {
            "timestamp.json",
            f"{self.snapshot.version}.snapshot.json",
            f"{self.targets.version}.targets.json",
        }
        files = {n: data for n, data in self.files.items() if n in current or n.endswith(".root.json")}
        return Medium(files, dict(self.contents))


@dataclass
class Site:
    """Works on a copy of its state and keeps the copy only when refresh passes, as import does."""

    folder: Path
    root: bytes

    @property
    def state(self) -> Path:
        return self.folder / "trust"

    def refresh(self, medium: Medium, now: datetime = NOW, minimum: Mapping[str, int] | None = None) -> TrustedChannel:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        if self.state.exists():
            shutil.copytree(self.state, work, symlinks=True)
        trusted = refresh(
            work, metadata=medium.metadata, targets=medium.targets, root=self.root, now=now, minimum=minimum or {}
        )
        shutil.rmtree(self.state, ignore_errors=True)
        work.rename(self.state)
        return trusted


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def sim() -> Simulator:
    return Simulator()


@pytest.fixture
def site(sim: Simulator, tmp_path: Path) -> Site:
    return Site(tmp_path, sim.files["1.root.json"])


@pytest.fixture
def new_site(tmp_path: Path) -> Any:
    """Make another site with a given pinned root."""

    def make(root: bytes) -> Site:
        folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Site(folder, root)

    return make
