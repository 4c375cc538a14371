"""The parsers of untrusted bytes, each called as its caller calls it.

A target takes any bytes and returns. It lets through only those errors of airpack that the parser's docstring names;
anything else that comes out of it is a crash, a broken law (`emit(parse(data)) == data`) included.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, Final, ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from tests.fuzz import bulk as large
from tests.fuzz import forge, mutate
from tests.fuzz.mutate import PREFIX, Mutator

import airpack
from airpack.crypto import client, signing
from airpack.crypto.keys import PrivateKey, PublicKey
from airpack.errors import (
    AirpackError,
    InputError,
    IntegrityError,
    NotFoundError,
    PartialError,
    PolicyError,
    RollbackError,
    TrustError,
)
from airpack.evidence import audit as auditor
from airpack.evidence import export
from airpack.evidence.acknowledged import Acknowledged
from airpack.evidence.archive import read_archive, write_archive
from airpack.evidence.checkpoint import open_checkpoint
from airpack.evidence.log import EvidenceLog
from airpack.evidence.merkle import Frontier, leaf_hash, verify_consistency
from airpack.evidence.reading import read_records
from airpack.evidence.records import Actor, Event, Outcome, Phase, Record, Stamp, clip
from airpack.facts import (
    coreml,
    fatbin,
    gguf,
    hf,
    jinja,
    llamacpp,
    onnx,
    onnxruntime,
    pickles,
    pte,
    registries,
    safetensors,
    tensorrt,
    tflite,
    torch,
)
from airpack.facts import names as elf_names
from airpack.facts.elf import Elf, facts_of
from airpack.facts.golden import check_golden
from airpack.facts.hostcpu import read_available, read_cpus, read_isa, read_memory
from airpack.facts.hostgpus import parse_nvml, read_gpus
from airpack.facts.hostlibs import parse_cache, read_libraries
from airpack.facts.identify import identify
from airpack.facts.licenses import of_metadata
from airpack.facts.machine import Machine
from airpack.facts.model import fit_together, read_facts
from airpack.facts.notes import Notes
from airpack.facts.projects import is_extension, read_numpy
from airpack.facts.reader import MalformedError, Reader
from airpack.facts.runtime import read_runtime
from airpack.facts.symbols import Symbols
from airpack.facts.tensors import fit, read_layout
from airpack.facts.wheel import read_wheel
from airpack.formats import bom, bundle, canonical, dsse, head, names, oci, packspec, sizes, times
from airpack.formats import note as notes
from airpack.formats.compat import CompatDoc
from airpack.formats.facts import ModelFacts, Says
from airpack.formats.fields import Fields
from airpack.formats.hostfacts import HostFacts
from airpack.formats.journal import RECORD, emit_header, parse_records, seed_of
from airpack.formats.modelpack import read_model
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo, is_newer
from airpack.formats.probe import Probe, parse_probe
from airpack.formats.release import read_release
from airpack.formats.repair import RepairReport
from airpack.formats.repair_volume import bitmap_size, emit_bitmap, parse_contents, parse_repair_header
from airpack.formats.statement import ReleasePredicate, Statement
from airpack.formats.trust import POLICY_TARGET, REVOCATIONS_TARGET, Revocations, TrustPolicy
from airpack.formats.volume import ENTRY, HEADER, REPAIR_MAGIC, Chunk, Codec, Entry, Header, emit_table, parse_table
from airpack.ops.contents import COLUMNS, csv_lines, html_pieces
from airpack.ops.inspect_ import inspect_package
from airpack.ops.journal import NAME as JOURNAL
from airpack.ops.journal import read_progress
from airpack.ops.places import Places
from airpack.ops.probes import run as probe_run
from airpack.ops.site import Site, SitePolicy
from airpack.ops.verify import fresh_refresh
from airpack.ops.workspace import Built, Workspace
from airpack.policy.admission import Admitted, Steps, admit, documents
from airpack.policy.compat import Host, judge, judge_release
from airpack.transport import codec, stored
from airpack.transport.reader import NullSink, open_media, unpack_all
from airpack.transport.spare import check_spare
from airpack.types import Digest, Limits, Silent, Source

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Target:
    """One way in for untrusted bytes.

    Attributes:
        name: Its name, also of its folder of inputs.
        run: Takes an input; what it raises is a crash.
        reads: Modules of airpack whose parsers it reaches.
        mutate: Changes an input so that it stays near what is accepted.
        most: Bytes of the largest input.
        rounds: How many changed inputs the tests try.
        bulk: Makes large inputs that cost the most memory or time, by name; None for seeds grown large alone.
    """

    name: str
    run: Callable[[bytes], None]
    reads: tuple[str, ...]
    mutate: Mutator = mutate.document
    most: int = 1 << 20
    rounds: int = 150
    bulk: large.Bulk | None = large.documents


TARGETS: dict[str, Target] = {}


def target(*reads: str, **options: Any) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Make a target of the function below, by its name."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__.strip("_")
        TARGETS[name] = Target(name, run, tuple(f"airpack.{module}" for module in reads), **options)
        return run

    return register


def tried(
    errors: type[AirpackError] | tuple[type[AirpackError], ...],
    call: Callable[_P, _T],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T | None:
    """Return what `call` returns; None where it refuses in one of the ways that it may."""
    try:
        return call(*args, **kwargs)
    except errors:
        return None


def same(found: Any, expected: Any) -> None:
    """Hold a law."""
    if found != expected:
        raise AssertionError(f"a law is broken: {str(found)[:2000]} is not {str(expected)[:2000]}")


# --- documents --------------------------------------------------------------------------------------------------------


_SMALL: Final = 256 << 10  # bytes up to which a document's law is held: it takes several copies of the value


@target("formats.canonical")
def _canonical(data: bytes) -> None:
    value = tried(IntegrityError, canonical.parse, data, what="document")
    if value is not None and len(data) <= _SMALL and not _is_beyond_law(value):
        with suppress(ValueError):  # a value of JSON need not have a canonical form
            again = canonical.emit(value)
            same(canonical.parse(again, what="again"), value)
            same(canonical.emit(canonical.parse(again, what="again")), again)
    del value
    if (table := tried(IntegrityError, canonical.parse_canonical, data, what="document")) is not None:
        same(canonical.emit(table), data)


def _is_beyond_law(value: Any) -> bool:
    """Return whether a value holds a number whose form is that of another one: a float of 2**53 or more."""
    if isinstance(value, dict | list):
        return any(map(_is_beyond_law, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and abs(value) >= 1 << 53


@target("formats.head", "formats.fields", mutate=mutate.head)
def _head(data: bytes) -> None:
    if found := tried(IntegrityError, head.parse, data):
        same(head.emit(found), data)
        same(head.parse(head.emit(found)), found)


@target("formats.dsse")
def _dsse(data: bytes) -> None:
    if envelope := tried(IntegrityError, dsse.parse, data, "package envelope", limit=Limits.HEAD):
        same(dsse.parse(dsse.emit(envelope)), envelope)
        with suppress(TrustError):
            signing.verify([envelope], keys=[forge.key("packer").public], threshold=1, payload_type="t")


@target("formats.bundle", "crypto.signing")
def _bundle(data: bytes) -> None:
    if found := tried(IntegrityError, bundle.parse, data):
        same(bundle.parse(bundle.emit(*found)), found)
        role = TrustPolicy.parse(forge.policy()).role("release")
        tried((IntegrityError, TrustError), signing.verify_statement, [data], role=role, subject=Digest.of(b""))
    bundle.is_referrer(data)
    tried(IntegrityError, bundle.parse_referrer, data)


@target("formats.statement")
def _statement(data: bytes) -> None:
    if statement := tried(IntegrityError, Statement.parse, data):
        same(statement.emit(), data)
        predicate = statement.predicate
        if found := tried(IntegrityError, ReleasePredicate.parse, predicate):
            same(found.emit(), predicate)


@target("formats.package")
def _package(data: bytes) -> None:
    if manifest := tried(IntegrityError, PackageManifest.parse, data):
        same(manifest.emit(), data)
        is_newer(manifest.needs_airpack, airpack.__version__)
        for position in range(min(len(manifest.volumes), 3)):
            header = manifest.header(Digest.of(data), position)
            same(Header.parse(header.emit(), what="header"), header)


@target("formats.oci")
def _oci(data: bytes) -> None:
    if index := tried(IntegrityError, oci.parse_index, data):
        same(oci.emit_index(index), data)
    if manifest := tried(IntegrityError, oci.parse_manifest, data):
        same(oci.emit_manifest(manifest), data)


@target("formats.compat", "formats.probe", "policy.compat")
def _compat(data: bytes) -> None:
    if document := tried(IntegrityError, CompatDoc.parse, data):
        same(CompatDoc.parse(document.emit()), document)
        judge(document, Host("linux", "amd64", frozenset({"py3-none-any"}), 1 << 30))


@target("formats.trust")
def _trust(data: bytes) -> None:
    if found := tried(IntegrityError, TrustPolicy.parse, data):
        same(found.emit(), data)
        for role in found.roles.values():
            tried(TrustError, signing.role_keys, role)
    if revocations := tried(IntegrityError, Revocations.parse, data):
        same(revocations.emit(), data)


@target("formats.packspec", "formats.fields", "formats.sizes", mutate=mutate.lines)
def _packspec(data: bytes) -> None:
    tried(InputError, packspec.parse, data, "pack.toml")
    if len(data) < 64:
        tried(InputError, sizes.parse_volume_size, data.decode("latin-1"))


@target("ops.site", "ops.workspace", "ops.trials", "formats.probe", mutate=mutate.lines, rounds=60)
def _settings(data: bytes) -> None:
    tried(InputError, SitePolicy.parse, data)
    if probe := tried(InputError, _probe, data):
        same(parse_probe(Fields(probe.emit(), what="probe")), probe)
    folder = forge.work()
    (folder / "root.json").write_bytes(forge.pinned_root())
    for name in ("site.toml", "airpack.toml"):
        (folder / name).write_bytes(data)
    tried(IntegrityError, Site.open, folder)
    tried(InputError, Workspace.find, folder, folder)


def _probe(data: bytes) -> Probe:
    return parse_probe(Fields.from_toml(data, what="tool.toml", error=InputError))


@target("formats.names", "formats.times", "types", mutate=mutate.lines, bulk=large.paths)
def _names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    paths = text.split("\n")
    for check in (
        names.check_product,
        names.check_version,
        names.check_component,
        names.check_package_name,
        names.check_path,
        names.parse_release_name,
        Digest,
        times.parse_time,
    ):
        for line in paths[:16]:
            found: Any = tried(IntegrityError, _checked, check, line)
            if isinstance(found, datetime):
                same(times.emit_time(found), line)
            elif found is not None:
                same(str(found), line)
    for line in paths[:16]:
        if (ref := tried(InputError, names.parse_ref, line)) is not None:
            same(str(ref), line)
    with suppress(IntegrityError):
        names.check_paths(paths)
        same(len({path.casefold() for path in paths}), len(paths))


def _checked(check: Callable[..., Any], line: str) -> Any:
    return check(line, what="time") if check is times.parse_time else check(line)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


# --- a release and its package ----------------------------------------------------------------------------------------


@target("formats.release", "formats.oci", "formats.modelpack", "formats.compat", "formats.probe", rounds=80)
def _release(data: bytes) -> None:
    found = forge.parts(data, forge.RELEASE_PARTS)
    if not found or "index" not in found:
        return
    blobs = {Digest.of(blob): blob for blob in found.values()}
    tried(IntegrityError, read_release, found["index"], blobs.__getitem__)


@target("formats.bom", "facts.licenses")
def _bom(data: bytes) -> None:
    of_metadata(data)
    value = tried(IntegrityError, canonical.parse, data, what="bill of materials")
    if value is not None:
        tried(IntegrityError, bom.read_bom, value, forge.release())


@target("formats.modelpack")
def _modelpack(data: bytes) -> None:
    found = forge.parts(data, ("model config", "model"))
    if not found or len(found) < 2:
        return
    if manifest := tried(IntegrityError, oci.parse_manifest, found["model"]):
        tried(IntegrityError, read_model, manifest, found["model config"], what="model/m")


@target(
    "policy.admission",
    "formats.head",
    "formats.release",
    "formats.bundle",
    "ops.inspect_",
    "ops.contents",
    rounds=20,
    bulk=None,
)
def _admit(data: bytes) -> None:
    made = forge.package_of(data)
    if made is None:
        return
    passed = admitted(made)
    _inspected(made)
    if passed is not None:
        judge_release(passed.release.compat)
        same(passed.release.name, forge.NAME)


@target(
    "ops.inspect_", "ops.contents", "formats.head", "formats.release", "formats.text", mutate=mutate.head, rounds=40
)
def _inspect(data: bytes) -> None:
    _inspected(data)


def admitted(made: bytes) -> Admitted | None:
    """Return what admission makes of a head; None where it refuses."""
    refresh, steps = fresh_refresh(forge.pinned_root(), forge.NOW), Steps()
    found = tried(
        (IntegrityError, TrustError, PolicyError), admit, made, refresh=refresh, have=airpack.__version__, steps=steps
    )
    same(all(check["ok"] for check in documents(steps.checks)), found is not None)
    return found


def _inspected(data: bytes) -> None:
    path = forge.work() / "inspect" / "tool.airpack"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if found := tried(IntegrityError, inspect_package, path):
        canonical.emit({**found.document(), "bytes_raw": 0, "bytes_stored": 0})
        rows = list(csv.reader("".join(csv_lines(found)).split("\r\n")[:-1]))
        same({len(row) for row in rows}, {len(COLUMNS)})
        same([cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))], [])
        page = "".join(html_pieces(found))
        same((page.count("<script"), page.count("<style")), (0, 1))


# --- volumes ----------------------------------------------------------------------------------------------------------


@target("formats.volume", mutate=mutate.table, bulk=large.tables)
def _volume(data: bytes) -> None:
    if header := tried(IntegrityError, Header.parse, data[:HEADER], what="volume"):
        same(header.emit(), data[:HEADER])
    if len(data) < PREFIX.size:
        return
    entries, _, stored = PREFIX.unpack_from(data)
    table = data[PREFIX.size :]
    if found := tried(
        IntegrityError, parse_table, table, entries=entries, stored=stored, bases=(1 << 20, 100), what="it"
    ):
        end, place = found.start, HEADER + len(table)
        for frame in found.frames():
            same(frame.offset, end)
            end += frame.size
            for chunk in frame.chunks:
                same(chunk.offset, place)
                place += chunk.stored
        same((end, place), (found.end, HEADER + len(table) + stored))


CODECS: Final = frozenset(Codec) - {Codec.BASE}


@target("transport.codec", "transport.planes", mutate=mutate.frame, bulk=large.frames)
def _codec(data: bytes) -> None:
    if len(data) < 6 or data[0] not in CODECS:
        return  # the table allows neither other codecs nor chunks of nothing: formats.volume
    kind = Codec(data[0])
    size = min(int.from_bytes(data[1:5], "little"), large.UNPACKED // (1 if kind <= Codec.ZSTD else 4))
    if size == 0 or size % kind.width:
        return  # nor these
    base = large.base(kind, size) if kind.has_base else None
    content = tried(IntegrityError, codec.decode, kind, bytearray(data[5:]), size, base)
    if content is not None:
        same(len(content), size)
        if size <= Limits.CHUNK:
            _hold_codecs(bytes(content))


def _hold_codecs(frame: bytes) -> None:
    """Hold the law of every codec for a frame."""
    base = large.base(Codec.XOR, len(frame))
    for kind in codec.Kind:
        same(codec.decode(*codec.encode(frame, kind), len(frame)), frame)
        name, stored = codec.encode_delta(frame, base, kind)
        same(base if name is Codec.BASE else codec.decode(name, stored, len(frame), base), frame)
    same(codec.decode(*codec.encode_patch(frame, base), len(frame), base), frame)


_FRAME: Final = 1 << 20  # bytes: the reader may hold frames of 128 MiB at once, so larger ones tell nothing here


@target(
    "transport.reader",
    "transport.codec",
    "transport.stored",
    "formats.volume",
    mutate=mutate.table,
    rounds=40,
    bulk=None,
)
def _unpack(data: bytes) -> None:
    if len(data) < PREFIX.size:
        return
    count = min(PREFIX.unpack_from(data)[0], (len(data) - PREFIX.size) // ENTRY, 64)
    body = data[PREFIX.size + count * ENTRY :]
    rows, stream, coded = [], bytearray(), b""
    at = 0
    for number in range(count):
        row = data[PREFIX.size + number * ENTRY : PREFIX.size + (number + 1) * ENTRY]
        piece = body[at : at + int.from_bytes(row[48:52], "little")]
        rows.append(Digest.of(piece).raw + row[32:])
        at, coded = at + len(piece), coded + piece
        entry = tried(IntegrityError, Entry.parse, row, what="row")
        if entry is not None and entry.frame > _FRAME:
            return
        if entry is not None and entry.part + 1 == entry.parts:
            content = tried(IntegrityError, codec.decode, entry.codec, coded, entry.frame)
            stream += content or bytes(entry.frame)
            coded = b""
        if len(stream) > 4 * _FRAME:
            return
    if not count or not body or not stream:
        return
    table = emit_table(b"".join(rows), count + 2)
    size = HEADER + len(table) + len(body)
    half = len(stream) // 2
    files = {Digest.of(piece): piece for piece in (bytes(stream[:half]), bytes(stream[half:]))}
    manifest = PackageManifest(
        release=Digest.of(b""),
        product="tool",
        version="1.0.0",
        needs_airpack="0.1.0",
        files=tuple(FileInfo(digest, len(piece)) for digest, piece in files.items()),
        volumes=(VolumeInfo("tool.0001.airvol", size, count, count + 2, Digest.of(table)),),
    )
    payload = Digest.of(b"payload")
    path = forge.work() / "tool.0001.airvol"
    path.write_bytes(manifest.header(payload, 0).emit() + table + body)
    _carried(stored.data_volume(manifest, payload, 0), path.read_bytes())
    fix = Header(payload, 1, 1, count, count + 2, max(len(body) - -(-count // 8), 0), REPAIR_MAGIC).emit()
    _carried(stored.repair_volume(manifest, payload, len(fix + table + body)), fix + table + body)
    wanted = {file.digest for file in manifest.files}
    tried((IntegrityError, PartialError), unpack_all, manifest, payload, [path.parent], wanted=wanted, sink=NullSink())


def _carried(layout: stored.Layout, data: bytes) -> None:
    """Check a volume as whoever copies it does, in blocks."""

    def run() -> Digest:
        check = stored.Check(layout, "it")
        for start in range(0, len(data), 100_000):
            check.feed(memoryview(data)[start : start + 100_000])
        return check.done()

    found = tried(IntegrityError, run)
    if found is not None:
        same(found, Digest.of(data))


@target("formats.repair")
def _repair(data: bytes) -> None:
    if report := tried(IntegrityError, RepairReport.parse, data):
        same(report.emit(), data)


@target("formats.journal", "ops.journal", mutate=mutate.raw)
def _journal(data: bytes) -> None:
    """Records of any content under right checksums, and what a site makes of them."""
    made, size = forge.spare(), RECORD - 4
    header = emit_header(made.payload)
    rows = [data[at : at + size] for at in range(0, len(data) - size + 1, size)]
    body = b"".join(row + zlib.crc32(row, seed_of(header)).to_bytes(4, "little") for row in rows)
    records = list(parse_records([body], seed_of(header)))
    again = b"".join(record.emit(seed_of(header)) for record in records)
    same(list(parse_records([again], seed_of(header))), records)
    folder = forge.work() / "journal"
    _write(folder, {JOURNAL: header + body})
    progress = read_progress(folder, made.manifest, made.payload)
    for position, info in enumerate(made.manifest.volumes):
        assert progress.count(position) <= info.entries
    assert all(0 <= start < stop <= made.manifest.total for start, stop in progress.spans())


def _chunks(position: int) -> list[Chunk]:
    """Return the chunks of a volume of the package with parity."""
    made = forge.spare()
    info = made.manifest.volumes[position]
    table = parse_table(made.tables[position], entries=info.entries, stored=info.data, what="it")
    return [chunk for frame in table.frames() for chunk in frame.chunks]


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Leave only these files in a folder."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@target("formats.repair_volume", "transport.repairs", mutate=mutate.raw, bulk=None)
def _repair_volume(data: bytes) -> None:
    made = forge.spare()
    if header := tried(IntegrityError, parse_repair_header, data[:HEADER], made.manifest, made.payload, what="it"):
        same(header.emit(), data[:HEADER])
        place = HEADER + header.slots * ENTRY
        bitmap = data[place : place + bitmap_size(header.entries)]
        found = tried(IntegrityError, parse_contents, made.tables[header.index - 1], bitmap, header, what="it")
        same(emit_bitmap(found.numbers, header.entries) if found else bitmap, bitmap)
    folder = forge.work() / "repair"
    _write(folder, {"tool.0001.01.airfix": data})
    with open_media(made.manifest, made.payload, [folder]) as media:
        for position, info in enumerate(made.manifest.volumes):
            if (table := media.table(position)) is not None:
                same(Digest.of(table), info.table)
            for chunk in _chunks(position):
                if (piece := media.chunk(position, chunk)) is not None:
                    same(Digest.of(piece).raw, chunk.digest)


@target("transport.rebuild", "transport.spare", "transport.volumes", mutate=mutate.raw, rounds=60, bulk=None)
def _rebuild(data: bytes) -> None:
    made, files, at = forge.spare(), {}, 0
    for name in made.manifest.names:
        length = int.from_bytes(data[at : at + 4], "little")
        if length:
            files[name] = data[at + 4 : at + 4 + length]
        at += 4 + length
    folder = forge.work() / "rebuild"
    _write(folder, files)
    with open_media(made.manifest, made.payload, [folder]) as media:
        for position, info in enumerate(made.manifest.volumes):
            if (table := media.table(position)) is not None:
                same(Digest.of(table), info.table)
            for chunk in _chunks(position):
                if (piece := media.chunk(position, chunk)) is not None:
                    same(Digest.of(piece).raw, chunk.digest)
        check_spare(media, Silent())


# --- the channel ------------------------------------------------------------------------------------------------------


@target("crypto.client", rounds=60)
def _root(data: bytes) -> None:
    for root in (data, forge.signed(data, "root")):
        tried((IntegrityError, TrustError), client.check_root, root)


@target("crypto.client", rounds=20, bulk=None)
def _metadata(data: bytes) -> None:
    found = forge.parts(data, (*forge.METADATA_PARTS, "timestamp.json"))
    if found is None:
        return
    files = {"1.root.json": forge.pinned_root()}
    documents: dict[str, bytes] = {}
    signed: dict[str, bytes] = {}
    for name in (*forge.METADATA_PARTS, "timestamp.json"):
        # Anew for each, because what names a part names it as signed.
        text = forge.parts(data, (name,))
        if not text:
            continue
        filled = forge.filled(text[name], signed)
        role = name.split(".")[-2]
        signed[name] = filled if name in {POLICY_TARGET, REVOCATIONS_TARGET} else forge.signed(filled, role)
        (documents if name in {POLICY_TARGET, REVOCATIONS_TARGET} else files)[name] = signed[name]
    for held in (None, forge.held()):
        state = forge.work() / "state"
        rmtree(state, ignore_errors=True)
        if held is not None:
            copytree(held, state, symlinks=True)
        tried((IntegrityError, TrustError, RollbackError, NotFoundError), _refreshed, state, files, documents)


def _refreshed(state: Path, files: dict[str, bytes], documents: dict[str, bytes]) -> None:
    channel = client.refresh(
        state, metadata=files, targets=documents, root=forge.pinned_root(), now=forge.NOW, minimum={"targets": 1}
    )
    for name in channel.names:
        channel.custom(name)
        tried((TrustError, NotFoundError), channel.target, name)
    again = client.reload(state, root=forge.pinned_root())
    same(again.versions, channel.versions)


ECDSA: Final = PrivateKey(ec.derive_private_key(1, ec.SECP256R1())).public


@target("crypto.keys", mutate=mutate.lines, most=64 << 10, bulk=None)
def _keys(data: bytes) -> None:
    for read in (PublicKey.from_pem, PublicKey.from_der):
        if key := tried(TrustError, read, data):
            same(PublicKey.from_pem(key.pem), key)
            same(PublicKey.from_der(key.der), key)
            key.verify(data[:64], b"text")
            tried(TrustError, getattr, key, "raw")
    tried(TrustError, PrivateKey.from_pem, data, None)
    forge.key("site").public.verify(data, b"text")
    ECDSA.verify(data, b"text")


# --- evidence ---------------------------------------------------------------------------------------------------------


@target("formats.note", "evidence.checkpoint", mutate=mutate.lines, most=160 << 10)
def _note(data: bytes) -> None:
    if note := tried(IntegrityError, notes.Note.parse, data, what="note"):
        same(note.emit(), data)
    site = forge.key("site").public
    for form in (data, forge.note(data)):
        tried((IntegrityError, TrustError), open_checkpoint, form, origin=forge.ORIGIN, key=site, what="note")
    if checkpoint := tried(IntegrityError, notes.Checkpoint.parse, data, what="checkpoint"):
        same(checkpoint.text(), data)


@target("evidence.records", most=80 << 10)
def _record(data: bytes) -> None:
    if record := tried(IntegrityError, Record.parse, data, what="record"):
        same(record.emit(), data)
    same(len(clip(data.decode("utf-8", "surrogateescape"))) <= 1024, True)


@target("evidence.export", "evidence.audit", "evidence.acknowledged", "ops.workspace", "ops.places", "ops.probes.run")
def _papers(data: bytes) -> None:
    if held := tried(IntegrityError, Acknowledged.parse, data):
        same(held.emit(), data)
    if places := tried(IntegrityError, Places.parse, data, Path("/desk")):
        same(Places.parse(places.emit(Path("/desk")), Path("/desk")), places)
    if manifest := tried(IntegrityError, export.Manifest.parse, data):
        same(manifest.emit(), data)
    if frontier := tried(IntegrityError, export.parse_frontier, data):
        same(export.emit_frontier(frontier), data)
        frontier.append(leaf_hash(data)).root()
    if proof := tried(IntegrityError, export.parse_consistency, data):
        same(export.emit_consistency(*proof), data)
        old, size, hashes = proof
        verify_consistency(old, size, leaf_hash(b"old"), leaf_hash(b"new"), hashes)
    if state := tried(IntegrityError, auditor.AuditorState.parse, data):
        same(state.emit(), data)
    if built := tried(IntegrityError, Built.parse, data, "built"):
        same(built.emit(), data)
    with suppress(probe_run._Failed):
        probe_run._numbers(data)
    probe_run._printable(data)


@target("evidence.archive", "evidence.audit", mutate=mutate.evidence, bulk=large.archives)
def _archive(data: bytes) -> None:
    if files := tried(IntegrityError, read_archive, data):
        same(write_archive(files), data)
    auditor.audit(data, key=forge.key("site").public)


AUDIT_PARTS: Final = ("entries", "checkpoint", "frontier", "consistency", "checkpoint.prev", "receipt", "manifest")


@target("evidence.audit", "evidence.export", "evidence.records", "evidence.checkpoint", rounds=60, bulk=None)
def _audit(data: bytes) -> None:
    found = forge.parts(data, AUDIT_PARTS)
    if not found:
        return
    lines = _lines(found)
    again = export_of(found)
    site = forge.key("site").public
    held = auditor.AuditorState(forge.ORIGIN, site.fingerprint, 1, leaf_hash(lines[0] if lines else b""), 1)
    for state in (None, held):
        result = auditor.audit(again, key=site, state=state)
        same(result.exit_code in {0, 10, 11, 13}, True)


def _lines(found: Mapping[str, bytes]) -> list[bytes]:
    return found.get("entries", b"").split(b"\n")[:-1]


def export_of(found: Mapping[str, bytes]) -> bytes:
    """Return the export that the site's key makes of the parts `AUDIT_PARTS`."""
    first = tried(IntegrityError, export.parse_frontier, found.get("frontier", b"")) or Frontier()
    root = first.extend(map(leaf_hash, _lines(found))).root()
    return forge.sealed_export(found, root=root, first=first.root())


def _many_records(size: int) -> Mapping[str, bytes]:
    stamp = Stamp(forge.NOW)
    return large.logs(size, Record(forge.SITE_ID, 0, Event.GC, Phase.NOTE, Actor(0), stamp, Outcome.DONE))


@target("evidence.log", "evidence.reading", "evidence.records", mutate=mutate.lines, rounds=40, bulk=_many_records)
def _log(data: bytes) -> None:
    folder, key = forge.work() / "log", forge.key("site")
    folder.mkdir(exist_ok=True)
    made = forge.log(data[1:], beyond=data[0] % 3 if data else 0)
    for name in ("entries.jsonl", "checkpoint"):
        (folder / name).unlink(missing_ok=True)
    (folder / "entries.jsonl").write_bytes(made.entries)
    (folder / "checkpoint").write_bytes(made.checkpoint)
    records = tried((IntegrityError, TrustError), read_records, folder, origin=forge.ORIGIN, key=key.public)
    if records is not None:
        same(len(records), made.size)
    opened = tried(IntegrityError, EvidenceLog.open, folder, site_id=forge.SITE_ID, key=key, clock=lambda: forge.NOW)
    if opened is not None:
        opened.find(Event.EXPORT, Phase.INTENT)
        tried(IntegrityError, opened.open_intents)
        same(len(read_records(folder, origin=forge.ORIGIN, key=key.public)), opened.size)


# --- files that go into a package -------------------------------------------------------------------------------------


@target("facts.identify", mutate=mutate.raw, most=128 << 10)
def _identify(data: bytes) -> None:
    for size in (len(data), len(data) + (1 << 30)):
        found = identify("file", data[: 64 << 10], size)
        canonical.emit({"name": found.name, "detail": found.detail, "reason": found.reason})


@target("facts.tensors", mutate=mutate.raw, bulk=large.models)
def _tensors(data: bytes) -> None:
    for name in ("safetensors", "gguf", "onnx"):
        layout = read_layout(name, BytesIO(data), len(data))
        same(fit(layout.tensors, len(data)), layout.tensors)
        for tensors in layout.external.values():
            fit(tensors, len(data))


_Read = Callable[[Reader, Notes], Says | None]


def _told(read: _Read, data: bytes) -> Says | None:
    """Return what a reader of facts finds; what it notes lies within the file, as far as it read."""
    notes = Notes()
    says = None
    with suppress(MalformedError):
        says = read(Reader(BytesIO(data), len(data)), notes)
    for start, stop in (*notes.places.values(), *(code.place or (0, 0) for code in notes.code)):
        same(0 <= start <= stop <= len(data), True)
    for problem in notes.problems:
        same(problem.at is None or 0 <= problem.at <= len(data), True)
    return says


@target("facts.gguf", "facts.reader", "facts.notes", mutate=mutate.raw, bulk=large.models)
def _gguf(data: bytes) -> None:
    _told(gguf.read, data)


@target("facts.safetensors", mutate=mutate.raw, bulk=large.models)
def _safetensors(data: bytes) -> None:
    _told(safetensors.read, data)
    quick = None
    with suppress(MalformedError):
        quick = safetensors._as_written(data[8:])
    if quick is not None and len(data) <= _SMALL:
        same(quick, safetensors._as_json(data[8:]))


@target("facts.onnx", "facts.protobuf", mutate=mutate.raw, bulk=large.models)
def _onnx(data: bytes) -> None:
    _told(onnx.read, data)


@target("facts.coreml", "facts.protobuf", mutate=mutate.raw, bulk=large.models)
def _coreml(data: bytes) -> None:
    _told(coreml.read, data)


@target("facts.pte", "facts.flatbuffer", mutate=mutate.raw, bulk=large.flatbuffers)
def _pte(data: bytes) -> None:
    _told(pte.read, data)


@target("facts.tflite", "facts.flatbuffer", mutate=mutate.raw, bulk=large.flatbuffers)
def _tflite(data: bytes) -> None:
    _told(tflite.read, data)


@target("facts.pickles", mutate=mutate.raw, bulk=large.pickles)
def _pickles(data: bytes) -> None:
    _told(pickles.read, data)


@target("facts.torch", "facts.zipfiles", mutate=mutate.zipped, rounds=60, bulk=large.torches)
def _torch(data: bytes) -> None:
    _told(torch.read, data)


@target("facts.hf", "facts.jsonwalk")
def _hf(data: bytes) -> None:
    _told(hf.read, data)


@target("facts.model", "facts.jinja", "facts.tensorrt", "formats.facts", mutate=mutate.raw, bulk=None)
def _model(data: bytes) -> None:
    _told(jinja.read, data)
    _told(tensorrt.read, data)
    found = read_facts("sub/model-00001-of-00002.gguf", BytesIO(data), len(data))
    model = ModelFacts((found,), fit_together((found,)))
    same(ModelFacts.parse(model.emit()), model)


@target("formats.facts")
def _facts(data: bytes) -> None:
    if model := tried(IntegrityError, ModelFacts.parse, data):
        same(model.emit(), data)
        fit_together(model.files)


@target("facts.wheel", mutate=mutate.wheel, rounds=60, bulk=large.wheels)
def _wheel(data: bytes) -> None:
    path = forge.work() / "demo-1.0-py3-none-any.whl"
    path.write_bytes(data)
    if wheel := tried((InputError, IntegrityError), read_wheel, path):
        with wheel:
            for source in wheel.sources[:50]:
                tried(IntegrityError, _drained, source.open)


def _drained(opened: Callable[[], Any]) -> None:
    with opened() as stream:
        for _ in range(64):  # of blocks: a member may be 64 GiB of zeros
            if not stream.read(1 << 20):
                return


@target("facts.golden", mutate=mutate.zipped, rounds=60, bulk=large.arrays)
def _golden(data: bytes) -> None:
    path = forge.work() / "golden.npz"
    path.write_bytes(data)
    tried(InputError, check_golden, path)


# --- runtimes and hosts -----------------------------------------------------------------------------------------------


_READERS: Final = (  # each asked of every file, not only of those that look like theirs
    fatbin.read_fatbins,
    onnxruntime.read_onnxruntime,
    llamacpp.read_llama,
    llamacpp.read_ggml,
    llamacpp.read_build,
)


@target(
    "facts.elf",
    "facts.symbols",
    "facts.names",
    "facts.fatbin",
    "facts.onnxruntime",
    "facts.llamacpp",
    "facts.closure",
    "facts.reader",
    mutate=mutate.raw,
    bulk=large.elves,
)
def _elf(data: bytes) -> None:
    with suppress(MalformedError):
        elf = Elf(Reader(BytesIO(data), len(data), what="lib.so"))
        facts_of(elf)
        symbols = Symbols(elf)
        for each in islice(symbols.wanted(), 50):
            symbols.defines(each.name, each.version)
        elf_names.find_names(elf, ["llama", "Add"])
    for read in _READERS:
        with suppress(MalformedError):
            read(Elf(Reader(BytesIO(data), len(data), what="lib.so")))
    with suppress(MalformedError):
        module = Elf(Reader(BytesIO(data), len(data), what="m.so"))
        is_extension("m.so", module)
        read_numpy("m.so", module)
    half = len(data) // 2
    pieces = {"lib.so": data, "other/libb.so": data[:half], "libb.so": data[half:]}
    read_runtime([Source(path, len(piece), partial(BytesIO, piece)) for path, piece in pieces.items()]).emit()


@target("facts.runtime", "facts.projects", "facts.registries", "facts.elf", mutate=mutate.zipped, rounds=60, bulk=None)
def _runtime(data: bytes) -> None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            files = {
                name: archive.read(name)
                for name in archive.namelist()[:32]
                if archive.getinfo(name).file_size < 1 << 20
            }
    except Exception:  # noqa: BLE001 - whatever ails a ZIP file, which is only how files come in one input
        return
    sources = [Source(path, len(content), partial(BytesIO, content)) for path, content in files.items()]
    facts = read_runtime(sources)
    same(facts.emit(), read_runtime(sources).emit())


@target("facts.registries", mutate=mutate.lines, bulk=large.registries)
def _registry(data: bytes) -> None:
    with suppress(MalformedError):
        registries.read_vllm({registries.VLLM_REGISTRY: data, registries.VLLM_QUANTIZATION: data}, "1")
    with suppress(MalformedError):
        registries.read_transformers(dict.fromkeys(registries.TRANSFORMERS, data), "1")


_FILES: Final = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/self/cgroup",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory.stat",
    "sys/bus/pci/devices/0/class",
    "sys/bus/pci/devices/0/vendor",
    "sys/class/kfd/kfd/topology/nodes/1/properties",
    "proc/driver/nvidia/version",
    "etc/ld.so.cache",
    "lib/libc.so.6",
)


@target(
    "formats.hostfacts",
    "facts.host",
    "facts.hostcpu",
    "facts.hostgpus",
    "facts.hostlibs",
    "facts.machine",
    rounds=80,
)
def _host(data: bytes) -> None:
    if facts := tried(IntegrityError, HostFacts.parse, data):
        same(facts.emit(), data)
        facts.digest()
    tried(IntegrityError, parse_nvml, data)
    list(parse_cache(data, 0x0303))
    machine = Machine(forge.work() / "machine")
    for name in _FILES:
        (machine.root / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.root / name).write_bytes(data)
    for architecture in ("amd64", "arm64", "riscv64"):
        read_isa(machine, architecture)
    read_memory(machine), read_available(machine), read_cpus(machine)
    read_gpus(machine, lambda: data)
    read_libraries(machine, "amd64")
