"""Somebody with every key, who signs whatever the fuzzer made up: so that it reaches what stands behind signatures.

An input of several documents is a JSON object of texts, its *parts*. In a part, `@digest:NAME@`, `@hex:NAME@`
and `"@size:NAME@"` stand for the digest and the size of a part before it. All keys are made from their names.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from airpack.crypto import signing
from airpack.crypto.client import refresh
from airpack.crypto.keys import PrivateKey
from airpack.errors import AirpackError
from airpack.evidence import export
from airpack.evidence.archive import write_archive
from airpack.evidence.checkpoint import sign_checkpoint
from airpack.evidence.merkle import Frontier, leaf_hash
from airpack.evidence.records import Record
from airpack.formats import bom, bundle, dsse, head, oci
from airpack.formats.compat import CompatWheel
from airpack.formats.head import Head
from airpack.formats.note import Checkpoint, Note, NoteSignature, key_id
from airpack.formats.package import (
    PAYLOAD_TYPE,
    FileInfo,
    PackageManifest,
    ParityGroup,
    ParityInfo,
    VolumeInfo,
    parity_size,
)
from airpack.formats.probe import Probe
from airpack.formats.release import ModelPart, PackedFile, Release, ReleaseDocs, RuntimePart, assemble, read_release
from airpack.formats.repair_volume import emit_bitmap, repair_header
from airpack.formats.trust import (
    DOCUMENT_ROLES,
    POLICY_TARGET,
    REVOCATIONS_TARGET,
    STATEMENT_ROLES,
    Revocations,
    Role,
    TrustPolicy,
)
from airpack.formats.volume import ENTRY, HEADER, Codec, Entry, emit_table
from airpack.transport.parity import Code
from airpack.types import Descriptor, Digest

NOW: Final = datetime(2031, 1, 1, tzinfo=UTC)
EXPIRES: Final = datetime(2031, 2, 1, tzinfo=UTC)
NAME: Final = "tool@1.0.0"
SITE_ID: Final = "5f3c0e7a9b1d4c2f8e6a7b0c1d2e3f40"
ORIGIN: Final = f"airpack/{SITE_ID}"
WEIGHTS: Final = Digest.of(b"weights")
CHECK: Final = Digest.of(b"check")
RELEASE_PARTS: Final = ("model config", "model", "runtime config", "runtime", "compat config", "compat", "index")
STATEMENTS: Final = ("release", "builder", "cosign")
METADATA_PARTS: Final = (POLICY_TARGET, REVOCATIONS_TARGET, "2.root.json", "1.targets.json", "1.snapshot.json")


@cache
def key(role: str) -> PrivateKey:
    """Return the Ed25519 key of `role`, always the same."""
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"fuzz {role}".encode()).digest()))


def parts(data: bytes, names: Iterable[str]) -> dict[str, bytes] | None:
    """Return the parts of an input by name, in the order of `names`; None when it is no object of texts."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    found: dict[str, bytes] = {}
    for name in names:
        text = value.get(name)
        if isinstance(text, str):
            found[name] = filled(text.encode("utf-8", "surrogatepass"), found)
    return found


def filled(text: bytes, before: Mapping[str, bytes]) -> bytes:
    """Return a part with digests and sizes of those before it where it asks for them."""
    if b"@" in text:
        for name, data in before.items():
            digest = Digest.of(data)
            text = text.replace(f"@digest:{name}@".encode(), str(digest).encode())
            text = text.replace(f"@hex:{name}@".encode(), digest.hex.encode())
            text = text.replace(f'"@size:{name}@"'.encode(), str(len(data)).encode())
    return text


def work() -> Path:
    """Return a folder for files that a target needs, in memory where there is such a place."""
    return _work(os.getpid())


def forget_work() -> None:
    """Work in another folder from now on, and make anew what lies in it."""
    _work.cache_clear()
    held.cache_clear()


@cache
def _work(_process: int) -> Path:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="airpack-fuzz-", dir=os.environ.get("AIRPACK_FUZZ_WORK", place)))


# --- the channel ------------------------------------------------------------------------------------------------------


def signed(data: bytes, role: str) -> bytes:
    """Return TUF metadata signed anew by the key of `role`; as it is where python-tuf could not read it anyway."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        metadata.signatures.clear()
        metadata.sign(CryptoSigner(key(role).native))
        return metadata.to_bytes()
    except Exception:  # noqa: BLE001 - whatever python-tuf says to it now, it says again to the one who reads it
        return data


def root_of(version: int = 1) -> Root:
    """Return the root of the forger's channel, unsigned."""
    root = Root(
        version=version,
        expires=datetime(2035, 1, 1, tzinfo=UTC),
        unrecognized_fields={"x-airpack": {"channel": "main", "starter": True}},
    )
    for role in ("root", "timestamp", "snapshot", "targets"):
        root.add_key(CryptoSigner(key(role).native).public_key, role)
    return root


def to_bytes(metadata: Any, role: str) -> bytes:
    """Return metadata signed by the key of `role`."""
    unsigned: Metadata[Any] = Metadata(metadata)
    return signed(unsigned.to_bytes(), role)


@cache
def pinned_root() -> bytes:
    """Return the root that the forger's sites pin."""
    return to_bytes(root_of(), "root")


def channel(targets: Mapping[str, bytes], custom: Mapping[str, Any], version: int = 1) -> dict[str, bytes]:
    """Return a channel's whole metadata that lists `targets`."""
    listed = {name: TargetFile.from_data(name, data, ["sha256"]) for name, data in targets.items()}
    for name, value in custom.items():
        listed[name].unrecognized_fields["custom"] = value
    files = {"1.root.json": pinned_root()}
    data = to_bytes(Targets(version=version, expires=EXPIRES, targets=listed), "targets")
    files[f"{version}.targets.json"] = data
    meta = {"targets.json": MetaFile.from_data(version, data, ["sha256"])}
    data = to_bytes(Snapshot(version=version, expires=EXPIRES, meta=meta), "snapshot")
    files[f"{version}.snapshot.json"] = data
    timestamp = Timestamp(version=version, expires=EXPIRES, snapshot_meta=MetaFile.from_data(version, data, ["sha256"]))
    timestamp.unrecognized_fields["x-airpack-issued"] = "2031-01-01T00:00:00Z"
    files["timestamp.json"] = to_bytes(timestamp, "timestamp")
    return files


@cache
def policy() -> bytes:
    """Return the policy of the forger's channel."""
    roles = {name: Role(1, (key(name).public.der,), predicate_type=kind) for name, kind in STATEMENT_ROLES.items()}
    roles |= {name: Role(1, (key(name).public.der,), payload_type=kind) for name, kind in DOCUMENT_ROLES.items()}
    return TrustPolicy("main", roles).emit()


@cache
def held() -> Path:
    """Return a site's state of version 3: newer than what the fuzzer offers as a rule."""
    state = work() / "held"
    documents = {POLICY_TARGET: policy(), REVOCATIONS_TARGET: Revocations({}).emit()}
    refresh(state, metadata=channel(documents, {}, version=3), targets=documents, root=pinned_root(), now=NOW)
    return state


# --- a release ------------------------------------------------------------------------------------------------------


def make_release(probe: Probe | None = None) -> ReleaseDocs:
    """Return a small release: a model of two files, a runtime of one, a probe."""
    golden = PackedFile("golden.npz", Digest.of(b"golden"), 6) if probe and probe.golden else None
    return assemble(
        "tool",
        "1.0.0",
        models=[
            ModelPart(
                "m",
                (
                    PackedFile("weights.onnx", WEIGHTS, 7, format="onnx"),
                    PackedFile("README.md", Digest.of(b"read me"), 7, format="text"),
                ),
                "MIT",
            )
        ],
        runtimes=[
            RuntimePart("t", "files", "", (PackedFile("check", CHECK, 5, executable=True),)),
            RuntimePart(
                "w",
                "wheels",
                "linux/amd64",
                (PackedFile("demo.py", Digest.of(b"demo"), 4),),
                CompatWheel("onnxruntime", "1.0", ("py3-none-any",)),
            ),
        ],
        probe=probe or Probe("command", command=("runtime/t/check", "-v")),
        golden=golden,
        memory=1 << 30,
    )


@cache
def release() -> Release:
    """Return that release, read."""
    docs = make_release()
    return read_release(docs.index, docs.blobs.__getitem__)


def bill(of: Release) -> dict[str, Any]:
    """Return the bill of materials of that release."""
    wheel = bom.WheelFile("onnxruntime-1.0-py3-none-any.whl", Digest.of(b"wheel"), 5, (bom.License("id", "MIT"),))
    return bom.emit_bom(
        of, licenses={"m": bom.License("id", "MIT")}, wheels={("runtime/w", "onnxruntime"): wheel}, airpack="0.1.0"
    )


# --- the package ------------------------------------------------------------------------------------------------------


def package_of(data: bytes) -> bytes | None:
    """Return the head of the package whose parts `data` is; None where it has too few."""
    found = parts(data, ("policy", "revocations", "package", *RELEASE_PARTS, *STATEMENTS))
    return package(found) if found else None


def package(found: Mapping[str, bytes]) -> bytes | None:
    """Return the head of a package made of `parts`, everything listed, digested and signed as it should be."""
    if not {"policy", "revocations", "package", "index"} <= found.keys():
        return None
    index = found["index"]
    targets = {POLICY_TARGET: found["policy"], REVOCATIONS_TARGET: found["revocations"], f"{NAME}.json": index}
    blobs = [found[name] for name in RELEASE_PARTS if name in found]
    subject = Descriptor(oci.INDEX, Digest.of(index), len(index))
    for role in STATEMENTS:
        if role in found:
            envelope = signing.sign(key(role), dsse.PAYLOAD_TYPE_STATEMENT, found[role])
            signed_bundle = bundle.emit(envelope, key(role).public.hint)
            blobs += [signed_bundle, bundle.referrer(signed_bundle, subject, "https://x", "2031-01-01T00:00:00Z")]
    blobs.append(bundle.EMPTY)
    made = Head(
        metadata=channel(targets, {f"{NAME}.json": {"sequence": 1}}),
        targets={name: data for name, data in targets.items() if "@" not in name},
        package=dsse.emit(signing.sign(key("packer"), PAYLOAD_TYPE, found["package"])),
        blobs={Digest.of(blob): blob for blob in blobs},
    )
    try:
        return head.emit(made)
    except AirpackError:  # larger than a head may be
        return None


# --- evidence ---------------------------------------------------------------------------------------------------------


def note(text: bytes) -> bytes:
    """Return `text` as a note signed by the site's key; anything else where no note could hold it."""
    site = key("site")
    signature = NoteSignature(ORIGIN, key_id(ORIGIN, site.public.raw), site.sign(text))
    try:
        return Note(text, (signature,)).emit()
    except ValueError:
        return text + b"\n" + signature.line().encode() + b"\n"


def sealed_export(found: Mapping[str, bytes], *, root: bytes, first: bytes) -> bytes:
    """Return an export of the given parts: manifest, checkpoints and receipts signed by the site's key.

    Args:
        found: The parts; `@root` in them stands for a root in base64.
        root: Of all records.
        first: Of the records before the first one.
    """
    texts = {name: data.replace(b"@root", base64.b64encode(root)) for name, data in found.items()}
    names = {
        "entries": export.ENTRIES,
        "frontier": export.FRONTIER_PREV,
        "consistency": export.CONSISTENCY,
    }
    files = {path: texts[name] for name, path in names.items() if name in texts}
    if "checkpoint" in texts:
        files[export.CHECKPOINT] = note(texts["checkpoint"])
    if "checkpoint.prev" in texts:
        files[export.CHECKPOINT_PREV] = note(found["checkpoint.prev"].replace(b"@root", base64.b64encode(first)))
    if "receipt" in texts:
        envelope = signing.sign(key("site"), dsse.PAYLOAD_TYPE_STATEMENT, texts["receipt"])
        files[f"{export.RECEIPTS}tool.json"] = bundle.emit(envelope, key("site").public.hint)
    manifest = filled(texts.get("manifest", b""), files)
    files[export.MANIFEST] = manifest
    files[export.ENVELOPE] = dsse.emit(signing.sign(key("site"), export.PAYLOAD_TYPE, manifest))
    return write_archive(files)


@dataclass(frozen=True, slots=True)
class Log:
    """A log's files: its lines, and the checkpoint that the site's key signed over `size` of them."""

    entries: bytes
    checkpoint: bytes
    size: int


def log(entries: bytes, *, beyond: int = 0) -> Log:
    """Return the log that a site could have written: signed are the first lines that are records, in order.

    Args:
        entries: Any lines.
        beyond: How many of those lines the checkpoint leaves out, as a crash may.
    """
    frontiers = [Frontier()]
    for number, line in enumerate(entries.split(b"\n")[:-1]):
        try:
            record = Record.parse(line, what="record")
        except AirpackError:
            break
        if (record.site, record.seq) != (SITE_ID, number):
            break
        frontiers.append(frontiers[-1].append(leaf_hash(line)))
    frontier = frontiers[max(0, len(frontiers) - 1 - beyond)]
    return Log(entries, sign_checkpoint(Checkpoint(ORIGIN, frontier.size, frontier.root()), key("site")), frontier.size)


@dataclass(frozen=True, slots=True)
class Spare:
    """A package with parity: its manifest, its files by name, and a repair volume of its first volume."""

    manifest: PackageManifest
    payload: Digest
    files: Mapping[str, bytes]
    repair: bytes

    @property
    def tables(self) -> list[bytes]:
        """The tables of its volumes."""
        return [self.files[info.name][HEADER : HEADER + info.slots * ENTRY] for info in self.manifest.volumes]


@cache
def spare() -> Spare:
    """Return three volumes of a few chunks with two parity volumes over them."""
    infos, bodies, at = [], [], 0
    for number in range(3):
        chunks = [bytes([65 + number]) * (20 + 7 * number + size) for size in range(3 - number)]
        rows = b""
        for chunk in chunks:
            rows += Entry(Digest.of(chunk).raw, at, len(chunk), len(chunk), Codec.RAW).emit()
            at += len(chunk)
        table = emit_table(rows, len(chunks) + number)
        body = table + b"".join(chunks)
        name = f"tool.{number + 1:04d}.airvol"
        infos.append(VolumeInfo(name, HEADER + len(body), len(chunks), len(chunks) + number, Digest.of(table)))
        bodies.append(body)
    length = max(map(len, bodies))
    parts = Code(3, 2).encode([body.ljust(length, b"\0") for body in bodies])
    tables = [Digest.of(part).raw for part in parts]
    group = ParityGroup(
        0,
        3,
        length,
        tuple(
            ParityInfo(f"tool.p{number:02d}.airvol", parity_size(length), Digest.of(table))
            for number, table in enumerate(tables, 1)
        ),
    )
    manifest = PackageManifest(
        Digest.of(b""), "tool", "1.0.0", "0.1.0", (FileInfo(Digest.of(b"all"), at),), tuple(infos), parity=(group,)
    )
    payload = Digest.of(manifest.emit())
    headers = [manifest.header(payload, position).emit() for position in range(3)]
    headers += [manifest.parity_header(payload, position).emit() for position in range(2)]
    bodies += [table + part + table for table, part in zip(tables, parts, strict=True)]
    files = {name: header + body for name, header, body in zip(manifest.names, headers, bodies, strict=True)}
    first = bodies[0][infos[0].slots * ENTRY :]
    repair = repair_header(manifest.header(payload, 0), 20 + 22).emit() + bodies[0][: infos[0].slots * ENTRY]
    return Spare(manifest, payload, files, repair + emit_bitmap((1, 3), 3) + first[:20] + first[41:])
