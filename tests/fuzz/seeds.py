"""Makes the inputs that fuzzing starts from: small, well formed, one or more for each target, always the same bytes.

    python -m tests.fuzz.seeds          # writes tests/fuzz/corpus/TARGET/seed-NAME

What is well formed is made by airpack's own writers; what it only reads (models, wheels, arrays) by hand. The folders
hold more than these: what fuzzing found and kept.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests import elves
from tests.fuzz import bulk, forge
from tests.fuzz.mutate import PREFIX, record
from tests.fuzz.targets import ECDSA

from airpack.evidence import export
from airpack.evidence.acknowledged import Acknowledged, Holding
from airpack.evidence.archive import write_archive
from airpack.evidence.audit import AuditorState
from airpack.evidence.merkle import Frontier, leaf_hash
from airpack.evidence.records import Actor, Event, Outcome, Phase, Record, Stamp, Subject, Value
from airpack.facts.model import read_facts
from airpack.formats import bundle, dsse, head, journal, oci
from airpack.formats.canonical import emit
from airpack.formats.facts import ModelFacts
from airpack.formats.hostfacts import Disk, Gpu, HostFacts, Isa, Library, Now, Unknown
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.formats.probe import Probe
from airpack.formats.release import ModelPart, PackedFile, ReleaseDocs, RuntimePart, assemble
from airpack.formats.repair import Needed, RepairReport
from airpack.formats.repair_volume import repair_header
from airpack.formats.statement import (
    PREDICATE_COSIGN,
    PREDICATE_PROVENANCE,
    PREDICATE_RELEASE,
    ReleasePredicate,
    Statement,
)
from airpack.formats.trust import Revocations
from airpack.formats.volume import Codec, Entry, emit_table
from airpack.ops.places import Place, Placed, Places
from airpack.ops.workspace import Built
from airpack.transport import codec
from airpack.types import Descriptor, Digest

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
MODELS: Final = Path(__file__).resolve().parent.parent / "models"

Seeds = Iterator[tuple[str, str, bytes]]  # target, name, input


def release_parts(docs: ReleaseDocs) -> dict[str, str]:
    """Return a release of one model and one runtime as parts that name each other."""
    index = json.loads(docs.index)
    found: dict[str, str] = {}
    kept = []
    for child in index["manifests"]:
        name = child["annotations"][oci.COMPONENT_ANNOTATION].partition("/")[0]
        if name in found:
            continue
        manifest = json.loads(docs.blobs[Digest(child["digest"])])
        config = docs.blobs[Digest(manifest["config"]["digest"])].decode()
        found[f"{name} config"] = config
        manifest["config"]["digest"], manifest["config"]["size"] = f"@digest:{name} config@", f"@size:{name} config@"
        found[name] = emit(manifest).decode()
        child["digest"], child["size"] = f"@digest:{name}@", f"@size:{name}@"
        kept.append(child)
    index["manifests"] = kept
    found["index"] = emit(index).decode()
    return found


def single_release() -> ReleaseDocs:
    """Return a release whose parts have one name each."""
    return assemble(
        "tool",
        "1.0.0",
        models=[ModelPart("m", (PackedFile("weights.safetensors", forge.WEIGHTS, 7, format="safetensors"),), "MIT")],
        runtimes=[RuntimePart("t", "files", "", (PackedFile("check", forge.CHECK, 5, executable=True),))],
        probe=Probe("command", command=("runtime/t/check",)),
    )


def manifest_of(release: str | Digest) -> dict[str, Any]:
    """Return the package manifest of `single_release` as a JSON value."""
    table = emit_table(b"", 4)
    made = PackageManifest(
        release=Digest.of(b""),
        product="tool",
        version="1.0.0",
        needs_airpack="0.1.0",
        files=(FileInfo(forge.WEIGHTS, 7), FileInfo(forge.CHECK, 5)),
        volumes=(VolumeInfo("tool-1.0.0.0001.airvol", 128 + 4 * 64 + 12, 1, 4, Digest.of(table)),),
    )
    value: dict[str, Any] = json.loads(made.emit())
    value["release"] = str(release)
    return value


def statements(index: str, compat: str) -> dict[str, str]:
    """Return what the three roles sign, by role."""
    predicates = {
        "release": (PREDICATE_RELEASE, ReleasePredicate("tool", "1.0.0", 1, "main", Digest.of(b"")).emit()),
        "builder": (PREDICATE_PROVENANCE, {"buildDefinition": {"buildType": "x"}, "runDetails": {}}),
        "cosign": (PREDICATE_COSIGN, {}),
    }
    found = {}
    for role, (kind, predicate) in predicates.items():
        text = Statement(forge.NAME, Digest.of(b"index"), kind, predicate).emit().decode()
        found[role] = text.replace(Digest.of(b"index").hex, index).replace(str(Digest.of(b"")), compat)
    return found


def documents() -> Seeds:
    """Yield what is one JSON document."""
    docs = forge.make_release()
    single = single_release()
    policy, key = forge.policy(), forge.key("release")
    yield "canonical", "values", emit({"a": [1, -1, 0.5, True, None, "\u00e9\u2028"], "b": {"c": []}})
    yield "canonical", "plain", b' {"b": 1e2, "a": [ "\\u00e9" ] }\n'
    yield "packspec", "full", _PACKSPEC
    yield "packspec", "size", b"2 GiB"
    yield "settings", "policy", b"allow_no_probe = true\nallow_unisolated = false\n"
    root = Digest.of(forge.pinned_root())
    yield (
        "settings",
        "site",
        f'schema="airpack.site/1"\nid="{forge.SITE_ID}"\nroot="{root}"\n[minimum]\nroot=1\n'.encode(),
    )
    yield "settings", "workspace", b'schema = "airpack.workspace/1"\nchannel = "main"\n'
    yield "settings", "probe", _PROBE
    yield "settings", "command", b'kind = "command"\ncommand = ["runtime/t/check", "-v"]\ntimeout = 5\n'
    yield (
        "names",
        "lines",
        b"tool@1.0.0\nmodel/m/weights.onnx\n2031-01-01T00:00:00Z\ntool\n" + str(forge.WEIGHTS).encode(),
    )
    statement = Statement.parse(statements(Digest.of(b"index").hex, str(Digest.of(b"")))["release"].encode())
    yield "statement", "release", statement.emit()
    envelope = dsse.Envelope(statement.emit(), dsse.PAYLOAD_TYPE_STATEMENT, (b"s" * 64,))
    yield "dsse", "statement", dsse.emit(envelope)
    signed_bundle = bundle.emit(envelope, key.public.hint)
    yield "bundle", "statement", signed_bundle
    about = oci.emit_index(oci.Index(()))
    subject = Descriptor(oci.INDEX, Digest.of(about), len(about))
    yield "bundle", "referrer", bundle.referrer(signed_bundle, subject, PREDICATE_RELEASE, "2031-01-01T00:00:00Z")
    yield "package", "one", emit(manifest_of(docs.digest))
    yield "trust", "policy", policy
    yield "trust", "revocations", Revocations({forge.WEIGHTS: "leaked"}).emit()
    yield "oci", "index", docs.index
    for number, data in enumerate(docs.blobs.values()):
        if b'"layers":[' in data:
            yield "oci", f"manifest-{number}", data
    yield "compat", "command", docs.compat.emit()
    yield (
        "compat",
        "golden",
        forge.make_release(Probe("onnxruntime", golden="g.npz", model="m/weights.onnx")).compat.emit(),
    )
    yield "bom", "one", emit(forge.bill(forge.release()))
    found = release_parts(single)
    yield "release", "single", emit(found)
    yield "modelpack", "single", emit({name: found[name] for name in ("model config", "model")})
    package = emit({**manifest_of("@digest:index@")}).decode()
    parts = {"policy": policy.decode(), "revocations": Revocations({}).emit().decode(), **found}
    said = statements("@hex:index@", "@digest:compat config@")
    filled = forge.parts(emit(found | {"package": package}), (*forge.RELEASE_PARTS, "package"))
    assert filled is not None
    good = emit({**parts, "package": filled["package"].decode(), **said})
    yield "admit", "good", good
    made = forge.package_of(good)
    assert made is not None
    yield "head", "package", made
    yield "inspect", "package", made
    yield "head", "least", head.emit(head.Head({"1.root.json": b"{}"}, {}, b"{}", {}))


def channel() -> Seeds:
    """Yield the channel's documents."""
    yield "root", "one", forge.pinned_root()
    revocations = Revocations({}).emit()
    documents = {"policy.json": forge.policy(), "revocations.json": revocations}
    files = forge.channel(documents, {})
    files["2.root.json"] = forge.to_bytes(forge.root_of(2), "root")
    parts = {name: data.decode() for name, data in (documents | files).items() if name != "1.root.json"}
    targets = json.loads(parts["1.targets.json"])
    for name, info in targets["signed"]["targets"].items():
        info["hashes"]["sha256"], info["length"] = f"@hex:{name}@", f"@size:{name}@"
    snapshot = json.loads(parts["1.snapshot.json"])
    timestamp = json.loads(parts["timestamp.json"])
    for document, name in ((snapshot, "targets.json"), (timestamp, "snapshot.json")):
        meta = document["signed"]["meta"][name]
        meta["hashes"]["sha256"], meta["length"] = f"@hex:1.{name}@", f"@size:1.{name}@"
    changed = {"1.targets.json": targets, "1.snapshot.json": snapshot, "timestamp.json": timestamp}
    for document in changed.values():
        document["signatures"] = []
    yield "metadata", "good", emit(parts | {name: json.dumps(value) for name, value in changed.items()})
    for name in ("site", "release"):
        yield "keys", f"{name}-pem", forge.key(name).public.pem
        yield "keys", f"{name}-der", forge.key(name).public.der
    yield "keys", "private", forge.key("site").to_pem(None)
    yield "keys", "p256-pem", ECDSA.pem
    yield "keys", "p256-der", ECDSA.der


def volumes() -> Seeds:
    """Yield chunk tables and frames."""
    content = b"all the same " * 40
    kind, stored = codec.encode(content, codec.Kind.PLAIN)
    packed = bytes(stored)
    assert kind is Codec.ZSTD
    entries = [
        (Entry(Digest.of(b"raw bytes").raw, 0, 9, 9, Codec.RAW), b"raw bytes"),
        (Entry(Digest.of(packed[:20]).raw, 9, 20, len(content), Codec.ZSTD, 0, 2), packed[:20]),
        (Entry(Digest.of(packed[20:]).raw, 9, len(packed) - 20, len(content), Codec.ZSTD, 1, 2), packed[20:]),
    ]
    rows = b"".join(entry.emit() for entry, _ in entries)
    body = b"".join(piece for _, piece in entries)
    yield "unpack", "three", PREFIX.pack(3, 0, len(body)) + rows + body
    yield "volume", "three", PREFIX.pack(3, 0, len(body)) + emit_table(rows, 5)
    manifest = PackageManifest.parse(emit(manifest_of(forge.WEIGHTS)))
    yield "volume", "header", manifest.header(forge.WEIGHTS, 0).emit()
    yield "codec", "raw", bytes([Codec.RAW]) + struct.pack("<I", 9) + b"raw bytes"
    base, kinds = bulk.base(Codec.XOR, len(content)), [kind for kind in codec.Kind if kind is not codec.Kind.SOLID]
    ways = [codec.encode(content, kind) for kind in kinds] + [codec.encode_delta(content, base, kind) for kind in kinds]
    for way, coded in (*ways, codec.encode_patch(content, bulk.base(Codec.PATCH, 0))):
        yield "codec", way.name.lower(), bytes([way]) + struct.pack("<I", len(content)) + coded


def spare() -> Seeds:
    """Yield repair volumes, repair reports, and packages with parity of which something is lost."""
    made = forge.spare()
    yield "repair_volume", "two", made.repair
    table = made.tables[0]
    yield "repair_volume", "table", repair_header(made.manifest.header(made.payload, 0), 0).emit() + table + b"\0"
    needed = (Needed("tool.0001.airvol", ((128, 64), (300, 9))), Needed("tool.0003.airvol", ((0, 500),)))
    report = RepairReport(made.payload, made.manifest.release, "tool", "1.0.0", needed)
    yield "repair", "two", report.emit()
    kept = (
        journal.Record(journal.Kind.START, boot=bytes(range(16))),
        journal.Record(journal.Kind.FRAME, parts=1, volume=1, chunk=1, offset=0, size=20),
        journal.Record(journal.Kind.SYNCED, offset=2),
        journal.Record(journal.Kind.START, boot=bytes(16)),
        journal.Record(journal.Kind.FRAME, parts=1, volume=2, chunk=1, offset=60, size=20),
    )
    yield "journal", "two-runs", b"".join(record.emit(0)[:-4] for record in kept)

    def joined(files: Mapping[str, bytes]) -> bytes:
        pieces = [files.get(name, b"") for name in made.manifest.names]
        return b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)

    yield "rebuild", "whole", joined(made.files)
    first, second, *_ = made.manifest.names
    yield "rebuild", "lost", joined({name: data for name, data in made.files.items() if name not in {first, second}})
    flipped = bytearray(made.files[first])
    flipped[130] ^= 1
    yield "rebuild", "flipped", joined({**made.files, first: bytes(flipped), second: made.files[second][:200]})


def records() -> list[Record]:
    """Return a site's first records: an import, one that was refused, an export announced."""
    made: list[Record] = []

    def add(event: Event, phase: Phase, outcome: Outcome = Outcome.NONE, reason: str = "", corr: str = "") -> None:
        stamp = Stamp(forge.NOW, "0f8c2b1e-1111-2222-3333-444455556666", 1000 * len(made))
        subject = (Subject(forge.NAME, forge.WEIGHTS),) if event is Event.IMPORT else ()
        data: dict[str, Value] = {"volumes": 1, "names": ("a", "b"), "whole": True} if phase is Phase.RESULT else {}
        made.append(
            Record(
                forge.SITE_ID,
                len(made),
                event,
                phase,
                Actor(990, "airpack"),
                stamp,
                outcome,
                reason,
                subject,
                corr,
                data,
            )
        )

    add(Event.SITE_INIT, Phase.NOTE, Outcome.DONE)
    add(Event.IMPORT, Phase.INTENT, corr="a1")
    add(Event.IMPORT, Phase.RESULT, Outcome.DONE, corr="a1")
    add(Event.IMPORT, Phase.INTENT, corr="a2")
    add(Event.IMPORT, Phase.RESULT, Outcome.REFUSED, "integrity", corr="a2")
    add(Event.EXPORT, Phase.INTENT, corr="a3")
    return made


def evidence() -> Seeds:
    """Yield records, checkpoints and exports."""
    made = records()
    lines = [record.emit() for record in made]
    entries = b"\n".join([*lines, b""])
    log = forge.log(entries)
    frontier_of = Frontier().extend(map(leaf_hash, lines))
    yield "record", "intent", lines[1]
    yield "record", "refused", lines[4]
    yield "log", "whole", b"\0" + entries
    yield "log", "beyond", b"\1" + entries
    yield "log", "torn", b"\0" + entries[:-20]
    yield "note", "checkpoint", log.checkpoint
    yield "note", "text", log.checkpoint.partition(b"\n\n")[0] + b"\n"
    frontier = emit({"schema": export.FRONTIER_SCHEMA, "size": 0, "hashes": []})
    proof = export.emit_consistency(0, len(lines), ())
    manifest = {
        "schema": export.SCHEMA,
        "site": forge.SITE_ID,
        "origin": forge.ORIGIN,
        "export": 1,
        "previous": 0,
        "first": 0,
        "size": len(lines),
        "exported": "2031-01-01T00:00:00Z",
        "files": [
            {"name": name, "size": f"@size:{name}@", "digest": f"@digest:{name}@"}
            for name in (
                f"{export.RECEIPTS}tool.json",
                export.CHECKPOINT,
                export.CONSISTENCY,
                export.ENTRIES,
                export.FRONTIER_PREV,
            )
        ],
    }
    parts = {
        "entries": entries.decode(),
        "checkpoint": f"{forge.ORIGIN}\n{len(lines)}\n@root\n",
        "frontier": frontier.decode(),
        "consistency": proof.decode(),
        "receipt": "{}",
        "manifest": emit(manifest).decode(),
    }
    yield "audit", "good", emit(parts)
    found = {name: text.encode() for name, text in parts.items()}
    sealed = forge.sealed_export(found, root=frontier_of.root(), first=b"")
    yield "archive", "export", sealed
    yield "archive", "two", write_archive({"a": b"1", "b/c": b""})
    yield "papers", "frontier", export.emit_frontier(frontier_of)
    yield "papers", "consistency", export.emit_consistency(3, 7, tuple(leaf_hash(bytes([n])) for n in range(4)))
    yield "papers", "manifest", emit(manifest).replace(b'"@size', b'1,"x').replace(b"@digest", b"x")
    listed = export.Manifest(forge.SITE_ID, 1, 0, 0, len(lines), forge.NOW, (export.BundleFile("a", 1, forge.WEIGHTS),))
    yield "papers", "listed", listed.emit()
    state = AuditorState(forge.ORIGIN, forge.WEIGHTS, 7, forge.WEIGHTS.raw, 1)
    yield "papers", "state", state.emit()
    yield "papers", "acknowledged", Acknowledged(state, (Holding("tool@1.0.0", forge.WEIGHTS, 2),)).emit()
    placed = Placed(FileInfo(forge.WEIGHTS, 70000), Place(Path("/desk/w"), "a/w"))
    yield "papers", "places", Places.of(forge.CHECK, [placed]).emit(Path("/desk"))
    yield "papers", "built", Built("tool", "1.0.0", 1, forge.WEIGHTS, (forge.CHECK,), "2031-01-01T00:00:00Z").emit()
    yield "papers", "probe", _RESULT


def files() -> Seeds:
    """Yield model files, wheels and arrays."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"a": "b"}}
    ).encode()
    made: Mapping[str, bytes] = {
        "empty": b"",
        "text": b"# words\n",
        "json": b'{"a": 1}',
        "safetensors": len(header).to_bytes(8, "little") + header + b"1234",
        "gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + b"\0" * 20,
        "elf": b"\x7fELF\x02\x01\x01",
        "pe": b"MZ" + b"\0" * 58 + struct.pack("<I", 64) + b"PE\0\0",
        "pickle-0": pickle.dumps([1, {"a": "b"}, Digest], 0),
        "pickle-2": pickle.dumps([1, {"a": "b"}, Digest], 2),
        "pickle-call": b"cos\nsystem\n(S'id'\ntR.",
        "pickle-inst": b"(S'id'\nios\nsystem\n.",
        "onnx": b"\x08\x08\x12\x01x\x3a\x04\x0a\x02\x0a\x00\x42\x02\x10\x11",
        "coreml": b"\x08\x04\x12\x02\x0a\x00\xa2\x12\x02\x0a\x00",
        "pte": b"\x1c\0\0\0ET12\0\0\0\0",
        "tflite": b"\x1c\0\0\0TFL3\0\0\0\0",
        "tensorrt": b"ftrt" + b"\0" * 20 + bytes([10, 1, 0, 0]),
        "zlib": zlib.compress(b"some words that are here"),
        "lzma": b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0" * 8,
        "bzip2": b"BZh91AY&SY....",
        "npy": _array(np.zeros(2, dtype="<f4")),
        "torch": _zip({"archive/data.pkl": b"\x80\x02.", "archive/version": b"3\n"}),
        "npz": _zip({"a.npy": _array(np.zeros(2, dtype="<f4"))}),
        "keras": _zip({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b""}),
    }
    for name, data in made.items():
        yield "identify", name, data
    for name, data in _models().items():
        yield "tensors", name, data
        yield name, "own", data
    arrays = {"input/x": np.zeros((2, 3), "<f4"), "expected/y": np.ones((2,), "<i8")}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        members = {f"{name}.npy": _array(array) for name, array in arrays.items()}
        yield "golden", f"arrays-{kind}", _zip(members, kind)
    yield "wheel", "demo", _zip(_wheel())
    yield "wheel", "demo-packed", _zip(_wheel(), zipfile.ZIP_DEFLATED)


def facts() -> Seeds:
    """Yield model files of every format that facts are read of; the larger ones are those of tests/models."""
    for target, name in (
        ("pte", "tiny_portable.pte"),
        ("pte", "tiny_xnnpack.pte"),
        ("tflite", "tiny_add.tflite"),
        ("coreml", "tiny.mlmodel"),
        ("coreml", "tiny.mlpackage/Data/com.apple.CoreML/model.mlmodel"),
        ("torch", "tiny_state_dict.pt"),
        ("torch", "tiny.ts.pt"),
        ("onnx", "tiny_ext.onnx"),
        ("safetensors", "tiny.safetensors"),
        ("model", "tiny_add.tflite"),
        ("model", "tiny_state_dict.pt"),
    ):
        yield target, Path(name).name, (MODELS / name).read_bytes()
    values = [1, {"a": "b"}, Digest, b"bytes", (1.5, None), frozenset({True})]
    for protocol in range(6):
        yield "pickles", f"protocol-{protocol}", pickle.dumps(values, protocol)
    yield "pickles", "inst", b"(S'id'\nios\nsystem\n."
    yield "pickles", "remembered", b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93)R."
    program = b'{"schema_version":{"major":8,"minor":2},"opset_version":{"aten":10},"torch_version":"2.9",'
    program += b'"nodes":[{"target":"torch.ops.aten.add.Tensor"}]}'
    inner = _zip({"i/data.pkl": pickle.dumps(Digest, 2)})
    exported = {"m/archive_format": b"pt2", "m/version": b"0", "m/models/m.json": program, "m/data/x.pt": inner}
    native = {"m/data/aotinductor/l.so": b"\x7fELF", "m/data/aotinductor/l_metadata.json": b'{"AOTI_MACHINE":"x86_64"}'}
    yield "torch", "exported", _zip(exported | native)
    config = {"model_type": "llama", "auto_map": {"AutoModel": "m.X"}, "rope_scaling": {"factor": 8.0}, "bits": 4}
    merges = [["a", "b"]]
    tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {'"': 1}, "merges": merges}}
    index = {"metadata": {"total_size": 7}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}
    settings = {"tokenizer_class": "T", "chat_template": [{"name": "default", "template": "{% set x = 1 %}"}]}
    for name, value in (("config", config), ("tokenizer", tokenizer), ("index", index), ("settings", settings)):
        yield "hf", name, json.dumps(value, indent=1).encode()
        yield "model", name, json.dumps(value).encode()
    yield "model", "jinja", b"{%- for m in messages %}{{ m }}{% endfor %}"
    yield "model", "plan", b"ftrt" + b"\0" * 20 + bytes([10, 1, 0, 0])
    yield "model", "gguf", _models()["gguf"]
    for name in ("tiny_add.tflite", "tiny_state_dict.pt", "config.json", "tiny_ext.onnx", "tiny.safetensors"):
        data = (MODELS / name).read_bytes()
        yield "facts", name, ModelFacts((read_facts(name, io.BytesIO(data), len(data)),)).emit()


def runtimes() -> Seeds:
    """Yield native files, runtimes as ZIP files of their files, registries, and what is read of hosts."""
    made = {
        "library": elves.elf(
            soname="liba.so.1",
            needed=["libc.so.6", "libb.so"],
            runpath="$ORIGIN",
            wants={"malloc": ("libc.so.6", "GLIBC_2.2.5"), "b": ("", "")},
            provides=["A_1"],
            defines={"a": "A_1"},
            notes=[(3, bytes(20)), (5, struct.pack("<III4x", 0xC0008002, 4, 7))],
        ),
        "program": elves.elf(kind=2, interpreter="/lib64/ld-linux-x86-64.so.2", older=True, defines={"main": ""}),
        "narrow": elves.elf(wide=False, machine=40, wants={"x": ("libc.so.6", "GLIBC_2.4")}, rpath="/x"),
        "turned": elves.elf(order=">", machine=22, provides=["V_1"], defines={"x": "V_1"}),
        "cuda": elves.elf(
            sections={".nv_fatbin": elves.fatbin((1, 90, 0, 8, 5), (2, 90, 0x100000, 0, 0)), ".text": b""}
        ),
        "onnxruntime": elves.elf(data=_ONNXRUNTIME, defines={"OrtGetApiBase": "", "PyInit_m": ""}),
        "llama": elves.elf(data=_LLAMA, defines={"llama_backend_init": ""}),
        "ggml": elves.elf(
            data=_GGML,
            defines={"ggml_type_name": "", "ggml_version": "", "LLAMA_BUILD_NUMBER": "", "LLAMA_COMMIT": ""},
            places={
                "ggml_version": (elves.DATA + 176, 8),
                "LLAMA_BUILD_NUMBER": (elves.DATA + 184, 4),
                "LLAMA_COMMIT": (elves.DATA + 8, 8),
            },
            pointers={elves.DATA + 8 + 56 * number: elves.DATA + 4 * number for number in range(3)},
        ),
    }
    for name, data in made.items():
        yield "elf", name, data
    yield "runtime", "wheel", _zip(_wheel() | {"demo/m.cpython-311-x86_64-linux-gnu.so": made["onnxruntime"]})
    yield "runtime", "llama", _zip({"libllama.so": made["llama"], "libggml-base.so": made["ggml"]})
    yield (
        "runtime",
        "vllm",
        _zip(
            {
                "vllm/model_executor/models/registry.py": _REGISTRY,
                "vllm-0.33.0.dist-info/METADATA": b"Name: vllm\nVersion: 0.33.0\nRequires-Dist: torch==2.14.0\n\n",
                "vllm-0.33.0.dist-info/RECORD": b"vllm/_C.abi3.so,,\n",
                "vllm-0.33.0.dist-info/WHEEL": b"Tag: cp38-abi3-manylinux_2_28_x86_64\n",
                "vllm/_C.abi3.so": made["cuda"],
                "torch-2.14.0.dist-info/METADATA": b"Name: torch\nVersion: 2.14.0\n",
            }
        ),
    )
    yield "registry", "vllm", _REGISTRY
    yield "registry", "transformers", _TRANSFORMERS
    yield "host", "facts", _host().emit()
    yield (
        "host",
        "unknown",
        replace(_host(), isa=None, gpus=None, libraries=None, now=Now(1, None, None, None, 1, (), ())).emit(),
    )
    yield (
        "host",
        "nvml",
        b'{"cuda":13000,"driver":"580.1","gpus":[{"capability":[9,0],"memory":[80,79],"name":"H100","parts":false}]}',
    )
    yield "host", "cpuinfo", b"flags : sse sse2 avx avx2\nFeatures : fp sve\nisa : rv64imafdc_zba\n"
    yield "host", "meminfo", b"MemTotal: 8 kB\nMemAvailable: 4 kB\ninactive_file 5\n"
    yield "host", "cgroup", b"4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n"
    yield "host", "topology", b"simd_count 4\ngfx_target_version 90402\ndrm_render_minor 128\n"
    yield "host", "cache", _CACHE
    yield "host", "library", made["library"]


def crashed() -> Seeds:
    """Yield what fuzzing found: each ended once in an exception that is no refusal, or broke a law."""
    document = json.loads(forge.make_release().compat.emit())
    document["runtimes"][1]["wheels"] = []
    yield "compat", "crash-no-wheels", emit(document)
    yield "note", "crash-no-utf-8", f"{forge.ORIGIN}\n0\n{'A' * 43}=\n".encode().replace(b"airpack", b"airp\xf0ck")
    root = json.loads(forge.pinned_root())
    root["signed"]["x-more"] = 0.5
    yield "root", "crash-fraction", emit(root)
    yield "keys", "crash-short-ed448", forge.key("site").to_pem(None).replace(b"K2Vw", b"K2Vx")  # 32 bytes, not 57
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), "
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    yield "golden", "crash-open-header", _zip({"input/x.npy": member, "expected/y.npy": _array(np.zeros(1))})
    outside = bytearray(_zip(_wheel()))
    (start,) = struct.unpack_from("<I", outside, len(outside) - 6)
    struct.pack_into("<I", outside, len(outside) - 6, start + 5000)  # so zipfile moves every member by -5000
    yield "wheel", "crash-outside", bytes(outside)
    long = _wheel() | {"demo-1.0.dist-info/METADATA": b"Name: demo\nVersion: " + b"1" * 5000}
    record(long)
    yield "wheel", "crash-long-version", _zip(long)


def _host() -> HostFacts:
    return HostFacts(
        os="linux",
        architecture="amd64",
        kernel="6.1.0",
        distribution="debian 12",
        python="3.11",
        implementation="cpython",
        python_tags=("py3-none-any",),
        libc="glibc 2.36",
        libraries={"libc.so.6": Library("/lib/libc.so.6", ("GLIBC_2.36",))},
        sonames=("libc.so.6",),
        isa=Isa("A Processor", "x86-64-v3", ("avx2",)),
        gpus=(Gpu("nvidia", "H100", "9.0", 80, parts=False),),
        drivers={"cuda": "13.0", "nvidia": "580.1"},
        containers=("docker",),
        now=Now(8, 4, 0, -1, 2, (79,), (Disk("/", 9, 5),)),
        unknown=(Unknown("isa", "words"),),
    )


def _array(array: "np.ndarray[Any, Any]") -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _zip(members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type, member.external_attr = kind, 0o644 << 16
            archive.writestr(member, data)
    return out.getvalue()


def _models() -> dict[str, bytes]:
    """Return model files whose headers say what such headers can say."""
    header = json.dumps(
        {
            "__metadata__": {"a": "b"},
            "w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
            "v": {"dtype": "I8", "shape": [3], "data_offsets": [8, 11]},
        }
    ).encode()

    def text(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    keys = text(b"general.alignment") + struct.pack("<II", 4, 64)
    keys += text(b"words") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc")
    keys += text(b"scores") + struct.pack("<IIQff", 9, 6, 2, 0.5, 1)
    infos = text(b"w") + struct.pack("<IQQIQ", 2, 2, 3, 1, 0) + text(b"q") + struct.pack("<IQIQ", 1, 32, 8, 64)
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 2, 3) + keys + infos

    def message(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    weight = b"\x08\x03\x10\x01" + message(8, b"w") + message(9, bytes(12))
    place = message(13, message(1, b"location") + message(2, b"w.data")) + message(
        13, message(1, b"length") + b"\x12\x012"
    )
    outside = b"\x0a\x01\x03\x10\x0a" + message(8, b"x") + place + b"\x70\x01"
    constant = message(1, message(2, b"c") + message(5, message(1, b"value") + message(5, weight)))
    return {
        "safetensors": len(header).to_bytes(8, "little") + header + bytes(11),
        "gguf": gguf.ljust(-(-len(gguf) // 64) * 64, b"\0") + bytes(64 + 34),
        "onnx": b"\x08\x08" + message(7, constant + message(5, weight) + message(5, outside)),
    }


def _wheel() -> dict[str, bytes]:
    members = {
        "demo/__init__.py": b"x = 1\n",
        "demo-1.0.data/purelib/more.py": b"",
        "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n\nWords.\n",
        "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo-1.0.dist-info/RECORD": b"",
    }
    record(members)
    return members


_PACKSPEC: Final = b"""\
[release]
product = "encoder"
version = "1.2.0"
sequence = 7
[[model]]
name = "minilm"
path = "models/minilm"
license = "Apache-2.0"
[[runtime]]
name = "onnxruntime"
kind = "wheels"
path = "wheels/"
platform = "linux/amd64"
[probe]
kind = "onnxruntime"
golden = "../golden.npz"
compare = "allclose"
min_correct = 1.0
timeout = 60
[require]
memory = "2GiB"
"""
_PROBE: Final = b'kind = "onnxruntime"\ngolden = "golden.npz"\ncompare = "argmax"\nmin_goodput = 50\n'
_ONNXRUNTIME: Final = (
    b"\0ZN4onnx19RegisterOpSetSchemaINS_16OpSet_Onnx_ver21EEEvibEUlONS_8OpSchemaEE_\0Add\0Constant\0Conv\0Identity\0"
    b"MatMul\0Reshape\0CPUExecutionProvider\0_ARRAY_API\0numpy._core\0(NumPy 1.23) but the running NumPy\0"
)
_LLAMA: Final = (
    b"\0clip\0llama\0falcon\0gpt2\0bert\0phi3\0gemma\0mamba\0rwkv6\0(unknown)\0general.architecture\0"
    b"default\0llama-bpe\0gpt-2\0phi-2\0jina-es\0jina-de\0smollm\0viking\0tekken\0%s\0"
)
_GGML: Final = (
    b"f32\0f16\0"
    + b"".join(struct.pack("<QQQQ24x", 0, elements, 0, size) for elements, size in ((1, 4), (1, 2), (32, 18)))
    + b"\x48\x8d\x05\xf8\xff\xff\xff\xc3"
    + struct.pack("<I", 5590)
    + b"q4_0\0"
)
_REGISTRY: Final = (
    b'_TEXT_MODELS = {"LlamaForCausalLM": ("llama", "X")}\n_VLLM_MODELS = {**_TEXT_MODELS}\n'
    b'_PREVIOUSLY_SUPPORTED_MODELS = {"Old": "0.1"}\nQuantizationMethods = Literal["awq", "gptq"]\n'
)
_TRANSFORMERS: Final = (
    b'CONFIG_MAPPING_NAMES = OrderedDict(\n    [\n        ("bert", "BertConfig"),\n    ]\n)\n'
    b'CONFIG_MAPPING_NAMES.update({"x": "X"})\n'
    b'MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict([*list(MODEL_MAPPING_NAMES.items()), ("a", ("A", "B"))])\n'
)
_CACHE: Final = (
    struct.pack("<20sIIB3sIIII", b"glibc-ld.so.cache1.1", 1, 25, 2, b"", 0, 0, 0, 0)
    + struct.pack("<IIIIQ", 0x0303, 72, 82, 0, 0)
    + b"libc.so.6\0/lib/libc.so.6\0"
)
_RESULT: Final = (
    b'{"schema":"airpack.probe-result/1","cases":2,"runs":3,"good":6,"correct":2,"seconds":0.5,"load_ms":1,'
    b'"first_ms":1,"p50_ms":1.5,"p95_ms":2,"runtime_version":"1.0"}'
)


def every() -> Seeds:
    """Yield all seeds."""
    yield from (*documents(), *channel(), *volumes(), *spare(), *evidence(), *files(), *facts())
    yield from (*runtimes(), *crashed())


def main() -> None:
    """Write all seeds."""
    for target, name, data in every():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
