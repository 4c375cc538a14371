"""Small releases, a site to bring them to, the command line in and out of process, and a forger with every key."""

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from airpack.cli.main import main
from airpack.crypto import signing
from airpack.crypto.keys import PrivateKey
from airpack.formats import bundle, canonical, dsse, oci
from airpack.formats import head as heads
from airpack.formats.head import Head
from airpack.formats.package import PAYLOAD_TYPE, PackageManifest
from airpack.formats.statement import (
    PREDICATE_BOM,
    PREDICATE_COSIGN,
    PREDICATE_PROVENANCE,
    PREDICATE_RELEASE,
    ReleasePredicate,
    Statement,
)
from airpack.formats.times import parse_time
from airpack.ops.probes import isolation_available
from airpack.ops.site import Site
from airpack.ops.workspace import Workspace
from airpack.types import Descriptor, Digest

AIRPACK = Path(sys.executable).parent / "airpack"
TYPES = {
    "release": PREDICATE_RELEASE,
    "builder": PREDICATE_PROVENANCE,
    "cosign": PREDICATE_COSIGN,
    "bom": PREDICATE_BOM,
}
CHECK = '#!/bin/sh\n# Ends as its first word says; passes without one.\necho "checked $0"\nexit "${1:-0}"\n'


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout; anything beside it is an error."""
        return json.loads(self.out)

    def expect(self, code: int) -> "Result":
        """Hold the command to its exit code."""
        assert self.code == code, f"airpack {' '.join(self.words)}: {self.code}, not {code}\n{self.out}\n{self.err}"
        return self


def run_program(
    *words: str | Path, expect: int | None = 0, cwd: Path | None = None, before: Sequence[str] = (), **env: str | None
) -> Result:
    """Run the installed `airpack` as a process; `env` adds variables, or removes them where None."""
    texts = tuple(map(str, words))
    environment: dict[str, str] = {**os.environ, "AIRPACK_NO_PROGRESS": "1"}
    for name, value in env.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    done = subprocess.run(
        [*before, str(AIRPACK), *texts],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    result = Result(texts, done.returncode, done.stdout, done.stderr)
    return result if expect is None else result.expect(expect)


def run_here(*words: str | Path, expect: int | None = 0) -> Result:
    """Run the same command line in this process, for speed."""
    texts = tuple(map(str, words))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(texts))
    code = ended.value.code
    assert isinstance(code, int)
    result = Result(texts, code, out.getvalue(), err.getvalue())
    return result if expect is None else result.expect(expect)


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where the system has some: for tests that copy sites all the time, and lose no power."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def program() -> Callable[..., Result]:
    return run_program


@pytest.fixture(scope="session")
def airpack() -> Callable[..., Result]:
    return run_here


def safetensors(seed: str, count: int = 64) -> bytes:
    """Return a safetensors file of `count` floats that depend on `seed`."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    data = random.Random(seed).randbytes(4 * count)
    return len(header).to_bytes(8, "little") + header + data


@dataclass
class Bench:
    """The connected side: a workspace, and media that come from it."""

    folder: Path
    workspace: Path

    @property
    def root(self) -> Path:
        return self.workspace / "keys/root.json"

    def spec(
        self,
        version: str = "1.0.0",
        product: str = "tool",
        *,
        count: int = 64,
        check: str | None = CHECK,
        probe: str | None = '[probe]\nkind = "command"\ncommand = ["runtime/tool/check"]\n',
        kind: str = "files",
        platform: str = "",
        content: str = "",
    ) -> Path:
        """Write a pack spec with its files: one safetensors model, one script as runtime, a probe that runs it."""
        place = self.folder / "specs" / f"{product}-{version}"
        for name in ("model", "tool"):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "model/weights.safetensors").write_bytes(safetensors(content or product + version, count))
        text = f'[release]\nproduct = "{product}"\nversion = "{version}"\n'
        text += '[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
        if check is not None:
            (place / "tool/check").write_text(check)
            (place / "tool/check").chmod(0o755)
            text += f'[[runtime]]\nname = "tool"\nkind = "{kind}"\npath = "tool"\n'
            text += f'platform = "{platform}"\n' if platform else ""
            text += probe or ""
        (place / "pack.toml").write_text(text)
        return place / "pack.toml"

    def build(self, version: str = "1.0.0", product: str = "tool", *, volume_size: str = "2GiB", **spec: Any) -> Path:
        """Build a small release into a medium of its own and return the medium."""
        out = self.folder / f"medium-{product}-{version}"
        path = self.spec(version, product, **spec)
        run_here("build", path, "-o", out, "--workspace", self.workspace, "--volume-size", volume_size, "--json")
        return out


@pytest.fixture(scope="session")
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Make a workspace of its own."""

    def make() -> Bench:
        folder = tmp_path_factory.mktemp("bench")
        run_here("init", folder / "workspace", "--channel", "main", "--no-passphrase", "--json")
        return Bench(folder, folder / "workspace")

    return make


@pytest.fixture(scope="module")
def bench(new_bench: Callable[[], Bench]) -> Bench:
    """One workspace for all tests of a file; what it holds already is read, never changed by a test."""
    return new_bench()


@dataclass
class Place:
    """A site, looked at from outside."""

    folder: Path

    def open(self) -> Site:
        return Site.open(self.folder)

    def run(self, *words: str | Path, expect: int | None = 0) -> Result:
        """Run a site command with --json, in this process."""
        return run_here(*words, "--site", self.folder, "--json", expect=expect)

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the evidence log."""
        lines = (self.folder / "evidence/log/entries.jsonl").read_bytes().splitlines()
        return [json.loads(line) for line in lines]

    def states(self) -> dict[str, str]:
        """Return `product@version` -> state."""
        return {f"{row['product']}@{row['version']}": row["state"] for row in self.run("list").json["releases"]}

    def current(self, product: str = "tool") -> str | None:
        """Return where the link of a product points, None where there is no link."""
        link = self.folder / "products" / product / "current"
        return str(link.readlink()) if link.is_symlink() else None

    def active(self, product: str = "tool") -> str | None:
        """Return the version that runs, by status; the link is held to say the same."""
        found = self.run("status").json["products"].get(product, {"active": None})["active"]
        assert (found is None) == (self.current(product) is None)
        return found["version"] if found else None

    def visible(self) -> dict[str, Any]:
        """Return everything that a refused operation must leave as it is.

        How fresh the channel is may change: what a refresh proves is kept, whatever becomes of the release.
        """
        return {
            "releases": self.run("list").json["releases"],
            "products": self.run("status").json["products"],
            "links": {path.parent.name: str(path.readlink()) for path in self.folder.glob("products/*/current")},
            "store": tree(self.folder / "store"),
            "generations": tree(self.folder / "generations"),
            "receipts": tree(self.folder / "evidence/receipts"),
        }

    def audit(self, out: Path) -> Any:
        """Export all evidence and return the auditor's document, which must be ok."""
        self.run("evidence", "export", "-o", out, "--force")
        found = run_here("audit", "verify", out, "--key", self.folder / "evidence/site.pub", "--json").json
        assert found["ok"] is True
        return found

    def allow(self, name: str) -> None:
        """Set a flag of the operator's policy."""
        file = self.folder / "policy.toml"
        file.write_text(file.read_text().replace(f"{name} = false", f"{name} = true"))


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return name -> (digest, mode, modification time in ns) of everything below `folder`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        moved = status.st_mtime_ns if not path.is_dir() else 0
        found[path.relative_to(folder).as_posix()] = (digest, status.st_mode, moved)
    return found


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, tuple[str, int, int]]]:
    return tree


@pytest.fixture(scope="session")
def place() -> Callable[[Path], Place]:
    return Place


@pytest.fixture
def new_site(tmp_path: Path) -> Callable[..., Place]:
    """Make a site that trusts a root, with probes allowed unisolated only where this machine isolates none."""
    made: list[Place] = []

    def make(root: Path, *words: str) -> Place:
        place = Place(tmp_path / f"site{len(made)}")
        run_here("site", "init", place.folder, "--root", root, *words, "--json")
        if not isolation_available():
            place.allow("allow_unisolated")
        made.append(place)
        return place

    return make


@pytest.fixture
def site(bench: Bench, new_site: Callable[..., Place]) -> Place:
    """A fresh site that trusts the bench's channel."""
    return new_site(bench.root)


@pytest.fixture
def carry(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a medium, so that a test may damage it."""

    def copy(medium: Path) -> Path:
        target = tmp_path / f"carried-{medium.name}-{time.monotonic_ns()}"
        shutil.copytree(medium, target)
        return target

    return copy


@dataclass
class Forger:
    """Somebody with every key of a channel, who signs whatever a test wants."""

    workspace: Path
    keys: dict[str, PrivateKey] = field(init=False)

    def __post_init__(self) -> None:
        roles = ("release", "builder", "packer", "cosign", "targets", "snapshot", "timestamp")
        self.keys = Workspace.find(self.workspace, self.workspace).private_keys(roles, lambda: None)

    @staticmethod
    def file(medium: Path) -> Path:
        """Return the head file of a medium."""
        (path,) = medium.glob("*.airpack")
        return path

    def read(self, medium: Path) -> Head:
        return heads.parse(self.file(medium).read_bytes())

    def write(self, medium: Path, head: Head) -> None:
        self.file(medium).write_bytes(heads.emit(head))

    def write_all(self, medium: Path, head: Head) -> None:
        """Write the head, and the headers of the volumes that go with it."""
        self.write(medium, head)
        manifest, payload = self.manifest(head), Digest.of(dsse.parse(head.package).payload)
        for position, info in enumerate(manifest.volumes):
            with (medium / info.name).open("r+b") as stream:
                stream.write(manifest.header(payload, position).emit())

    def write_body(self, medium: Path, body: bytes) -> None:
        """Write any JSON text as the head, under a right checksum line."""
        text = body + b"\n"
        self.file(medium).write_bytes(text + f"{Digest.of(text)}\n".encode())

    @staticmethod
    def body(medium: Path) -> dict[str, Any]:
        """Return the head's JSON document."""
        text = Forger.file(medium).read_bytes().rsplit(b"\n", 2)[0]
        value: dict[str, Any] = json.loads(text)
        return value

    @staticmethod
    def manifest(head: Head) -> PackageManifest:
        return PackageManifest.parse(dsse.parse(head.package).payload)

    def packed(self, head: Head, payload: bytes, *, key: PrivateKey | None = None, kind: str = PAYLOAD_TYPE) -> Head:
        """Return the head with any payload as its package manifest, signed."""
        envelope = signing.sign(key or self.keys["packer"], kind, payload)
        return replace(head, package=dsse.emit(envelope))

    def attestation(
        self,
        head: Head,
        role: str,
        *,
        release: Digest | None = None,
        name: str = "",
        key: PrivateKey | None = None,
        predicate: Mapping[str, Any] | None = None,
        predicate_type: str = "",
        subject: Digest | None = None,
        size: int = 0,
    ) -> dict[Digest, bytes]:
        """Return the two blobs of an attestation as role `role` makes it, but for what is given.

        `bom` is no role of its own: the builder's key signs it.
        """
        manifest = self.manifest(head)
        release = release or manifest.release
        found = self.statements(head).get(role)
        statement = Statement(
            name or f"{manifest.product}@{manifest.version}",
            release,
            predicate_type or TYPES.get(role, PREDICATE_COSIGN),
            predicate if predicate is not None else dict(found.predicate) if found else {},
        )
        signed = signing.sign_statement(key or self.keys["builder" if role == "bom" else role], statement)
        about = Descriptor(oci.INDEX, subject or release, size or len(head.blobs[subject or release]))
        refers = bundle.referrer(signed, about, statement.predicate_type, "2026-01-01T00:00:00Z")
        return {Digest.of(signed): signed, Digest.of(refers): refers}

    @staticmethod
    def referrers(head: Head) -> dict[Digest, Digest]:
        """Return referrer manifest -> bundle of every attestation in a head."""
        return {
            digest: bundle.parse_referrer(data)[1].digest
            for digest, data in head.blobs.items()
            if bundle.is_referrer(data)
        }

    def statements(self, head: Head) -> dict[str, Statement]:
        """Return role, or `bom`, -> what a head's attestations say."""
        roles = {kind: role for role, kind in TYPES.items()}
        found = [Statement.parse(bundle.parse(head.blobs[body])[0].payload) for body in self.referrers(head).values()]
        return {roles[item.predicate_type]: item for item in found}

    def without(self, head: Head, *roles: str) -> Head:
        """Return the head without the attestations of `roles`."""
        gone: set[Digest] = set()
        for referrer, body in self.referrers(head).items():
            kind = Statement.parse(bundle.parse(head.blobs[body])[0].payload).predicate_type
            if kind in {TYPES[role] for role in roles}:
                gone |= {referrer, body}
        return self.with_blobs(head, remove=gone)

    @staticmethod
    def with_blobs(head: Head, add: Mapping[Digest, bytes] | None = None, remove: Iterable[Digest] = ()) -> Head:
        gone = set(remove)
        kept = {digest: data for digest, data in head.blobs.items() if digest not in gone}
        return replace(head, blobs={**kept, **(add or {})})

    def listed(
        self,
        head: Head,
        change: Mapping[str, bytes | None],
        *,
        lower: bool = False,
        sequence: int = 0,
        expires: Mapping[str, datetime] | None = None,
    ) -> Head:
        """Return the head with a newer set of channel metadata that lists other targets; None takes one off the list.

        Args:
            head: As built.
            change: Target name -> bytes, or None.
            sequence: Number that the channel gives each release in `change`; 0 for the one it had.
            lower: Number the new targets below the old ones, which only a thief of keys would do.
            expires: Role -> expiry.
        """
        files = dict(head.metadata)
        timestamp: Timestamp = Metadata[Timestamp].from_bytes(files.pop("timestamp.json")).signed
        snapshot: Snapshot = (
            Metadata[Snapshot].from_bytes(files.pop(f"{timestamp.snapshot_meta.version}.snapshot.json")).signed
        )
        version = snapshot.meta["targets.json"].version
        targets: Targets = Metadata[Targets].from_bytes(files.pop(f"{version}.targets.json")).signed
        for name, data in change.items():
            before = targets.targets.pop(name, None)
            if data is not None:
                targets.targets[name] = TargetFile.from_data(name, data, ["sha256"])
                targets.targets[name].unrecognized_fields |= before.unrecognized_fields if before else {}
                if sequence and "@" in name:
                    targets.targets[name].unrecognized_fields["custom"] = {"sequence": sequence}
        targets.version += -1 if lower else 1
        snapshot.version += 1
        timestamp.version += 1
        for signed in (targets, snapshot, timestamp):
            signed.expires = (expires or {}).get(signed.type, signed.expires)
        data = self._signed(targets, "targets")
        files[f"{targets.version}.targets.json"] = data
        snapshot.meta["targets.json"] = MetaFile.from_data(targets.version, data, ["sha256"])
        data = self._signed(snapshot, "snapshot")
        files[f"{snapshot.version}.snapshot.json"] = data
        timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        files["timestamp.json"] = self._signed(timestamp, "timestamp")
        small = {name: data for name, data in change.items() if data is not None and "@" not in name}
        return replace(head, metadata=files, targets={**head.targets, **small})

    def _signed(self, signed: Any, role: str) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(CryptoSigner(self.keys[role].native))
        return metadata.to_bytes()

    def released(self, head: Head, edit: Callable[[str, Any], Any]) -> Head:
        """Return a head whose release has other documents, every one of them signed and listed as it should be.

        Args:
            head: As built.
            edit: Given `index`, `manifest` or `config` and a document, returns another, or its very bytes.
        """
        manifest = self.manifest(head)
        blobs: dict[Digest, bytes] = {Digest.of(bundle.EMPTY): bundle.EMPTY}

        def kept(value: Any) -> tuple[str, int]:
            data = value if isinstance(value, bytes) else canonical.emit(value)
            blobs[Digest.of(data)] = data
            return str(Digest.of(data)), len(data)

        index = json.loads(head.blobs[manifest.release])
        compat = Digest.of(b"")
        for child in index["manifests"]:
            document = json.loads(head.blobs[Digest(child["digest"])])
            config = document["config"]
            config["digest"], config["size"] = kept(edit("config", json.loads(head.blobs[Digest(config["digest"])])))
            if child["annotations"][oci.COMPONENT_ANNOTATION] == "compat":
                compat = Digest(config["digest"])
            child["digest"], child["size"] = kept(edit("manifest", document))
        release = Digest(kept(edit("index", index))[0])
        made = self.packed(replace(head, blobs=blobs), replace(manifest, release=release).emit())
        name = f"{manifest.product}@{manifest.version}"
        said = ReleasePredicate.parse(self.statements(head)["release"].predicate)
        predicates = {"release": replace(said, compat=compat).emit(), "builder": {}, "cosign": {}}
        for role, predicate in predicates.items():
            made = self.with_blobs(made, self.attestation(made, role, release=release, predicate=predicate))
        return self.listed(made, {f"{name}.json": blobs[release]})


@pytest.fixture(scope="session")
def new_forger() -> Callable[[Bench], Forger]:
    return lambda bench: Forger(bench.workspace)


@pytest.fixture(scope="module")
def forger(bench: Bench) -> Forger:
    return Forger(bench.workspace)


@pytest.fixture(scope="session")
def offline(request: pytest.FixtureRequest) -> list[str]:
    """The words that start a command in an empty network namespace; a machine without one fails, and says why."""
    reasons = []
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if shutil.which(words[0]) is None:
            reasons.append(f"there is no {words[0]}")
            continue
        tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return words
        reasons.append(tried.stderr.strip())
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None, "without a terminal nobody would see why the network was there"
    terminal.write_line(f"the story runs with the network there; no network namespace: {'; '.join(reasons)}")
    return []


@pytest.fixture(scope="session")
def expiry() -> Callable[[Path], datetime]:
    """Return when the timestamp of a medium's channel expires."""

    def find(medium: Path) -> datetime:
        metadata = Forger.body(medium)["trust"]["metadata"]
        signed = json.loads(base64.b64decode(metadata["timestamp.json"]))["signed"]
        return parse_time(signed["expires"], what="expires")

    return find
