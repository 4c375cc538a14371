"""Reads Torch's ZIP files: what kind they are, which names their pickles import, native code. Nothing is unpickled.

    ROOT/version, ROOT/.data/version    the number that a reader must know
    ROOT/data.pkl, ROOT/data/0 ...      torch.save
    ROOT/constants.pkl, ROOT/code/...   TorchScript
    ROOT/models/*.json, ROOT/*.json     torch.export; with a library in it, AOTInductor

pytorch/caffe2/serialize/inline_container.h, torch/export/pt2_archive. Files of Torch inside it (sample inputs of an
exported program) are looked into once more.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, Final

from airpack.facts import pickles, zipfiles
from airpack.facts.jsonwalk import Json, value
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.facts.zipfiles import Entry
from airpack.formats.facts import Code, Count, TorchFacts, clip

READER: Final = "torch/1"

_SMALL: Final = 4096  # bytes of a version, a byte order
_PICKLE: Final = 16 << 20  # bytes of a pickle that is packed, or in a file inside
_JSON: Final = 16 << 20  # bytes of an exported program
_INSIDE: Final = 64  # files of Torch inside this one that are looked into
_LISTED: Final = 1024  # names of native code or of code that are listed
_TARGETS: Final = 8192  # different targets of an exported program
_LARGEST: Final = 2**53 - 1
_PICKLES: Final = (".pkl", ".pickle")
_TORCHES: Final = (".pt", ".pth", ".ckpt")
_NATIVE: Final = re.compile(r".*\.(?:so|dll|dylib|pyd|cubin|ptx|hsaco|spv)(?:\.[0-9.]+)?\Z", re.DOTALL)
_STORAGE: Final = re.compile(r"(?:data|constants|tensors)/[0-9]+\Z|data/(?:weights|constants)/[^/]+\Z")
_TARGET: Final = re.compile(rb'"target":[ \t\n\r]*+"([^"\\]{1,200})"')
_PROGRAMS: Final = re.compile(r"models/[^/]+\.json\Z|serialized_exported_program\.json\Z")


def read(reader: Reader, notes: Notes) -> TorchFacts | None:
    """Return what a ZIP file says; None for one that is not Torch's. Pickles and native code are noted in any.

    Raises:
        MalformedError: Its directory cannot be read, or a part that decides.
        StorageError: It cannot be read.
    """
    found = _by_name(zipfiles.entries(reader), notes)
    archive = _Archive(reader, notes, found)
    names = archive.pickles("", 1)
    native = tuple(sorted(name for name in found if _NATIVE.match(name)))
    if native:
        notes.add(Code("native", "", native[:_LISTED]))
    kind = _kind(found, native)
    if not kind:
        return None
    scripts = tuple(sorted(name for name in found if name.startswith("code/") and name.endswith(".py")))
    if kind == "torchscript":
        notes.add(Code("torchscript", "code", scripts[:_LISTED]))
    storages = [entry.size for name, entry in found.items() if _STORAGE.match(name)]
    program = archive.program() if kind in {"export", "aotinductor"} else {}
    return TorchFacts(
        kind=kind,
        version=archive.version(),
        byte_order=clip(archive.text("byteorder"), 60),
        entries=len(found),
        storages=Count(len(storages), min(sum(storages), _LARGEST)),
        globals=names,
        native=native[:_LISTED],
        settings=archive.settings() if kind == "aotinductor" else {},
        **program,
    )


def _by_name(entries: list[Entry], notes: Notes) -> dict[str, Entry]:
    """Return files by their name without the folder that holds all; there is one such folder."""
    found: dict[str, Entry] = {}
    for entry in entries:
        name = entry.name.partition("/")[2] or entry.name
        if name in found:
            notes.problem(f"{entry.name[:100]!r} lies in two folders, so two readers may see two files", entry.local)
            name = entry.name
        found[name] = entry
    return found


def _kind(found: dict[str, Entry], native: tuple[str, ...]) -> str:
    exported = any(map(_PROGRAMS.match, found)) or "archive_format" in found
    if native and (exported or any(name.startswith("data/aotinductor/") for name in found)):
        return "aotinductor"
    if exported:
        return "export"
    if "constants.pkl" in found:
        return "torchscript"
    return "pickled" if any(name.lower() == "data.pkl" for name in found) else ""


class _Archive:
    """The files of one archive, read when they are asked for."""

    def __init__(self, reader: Reader, notes: Notes, found: dict[str, Entry]) -> None:
        self._reader = reader
        self._notes = notes
        self._found = found

    def text(self, name: str) -> str:
        """Return a short text; empty where there is no such file."""
        entry = self._found.get(name)
        return zipfiles.content(self._reader, entry, _SMALL).decode("latin-1").strip() if entry else ""

    def version(self) -> int | None:
        """Return the version of the archive, which may stand at two places."""
        texts = {name: self.text(name) for name in ("version", ".data/version") if name in self._found}
        if len(set(texts.values())) > 1:
            raise MalformedError(f"it says two versions: {', '.join(sorted(texts.values()))[:60]}", 0)
        for name, found in texts.items():
            if not re.fullmatch(r"[0-9]{1,9}", found):
                raise MalformedError(f"{name} is no number", self._found[name].local)
            self._notes.at("version", *zipfiles.place(self._reader, self._found[name]))
            return int(found)
        return None

    def pickles(self, where: str, depth: int) -> tuple[str, ...]:
        """Return what all pickles name, each noted as code; `where` names the file that this one lies in."""
        names: set[str] = set()
        for name, entry in self._found.items():
            if name.lower().endswith(_PICKLES):  # Torch has looked names up whatever their case
                names |= self._pickle(where + name, entry, here=not where)
        others = [(name, entry) for name, entry in self._found.items() if name.lower().endswith(_TORCHES)]
        if len(others) > _INSIDE:
            self._notes.problem(f"it holds {len(others)} files of Torch; {_INSIDE} of them were looked into")
        for name, entry in others[:_INSIDE]:
            names |= self._other(where + name, entry, depth)
        return tuple(sorted(names))

    def _pickle(self, where: str, entry: Entry, *, here: bool) -> set[str]:
        if entry.method == zipfiles.STORED:
            start, stop = zipfiles.place(self._reader, entry)
            found = pickles.scan(self._reader, start, stop)
        else:
            here = False
            data = zipfiles.content(self._reader, entry, _PICKLE)
            found = pickles.scan(Reader(io.BytesIO(data), len(data)), 0, len(data))
        pickles.note(found, self._notes, where, here=here)
        return set(found.names)

    def _other(self, where: str, entry: Entry, depth: int) -> set[str]:
        """Return what the pickles of a file of Torch inside this one name."""
        data = zipfiles.content(self._reader, entry, _PICKLE)
        reader = Reader(io.BytesIO(data), len(data))
        if data[:2] != b"PK":
            found = pickles.scan(reader, 0, len(data))
            pickles.note(found, self._notes, where, here=False)
            return set(found.names)
        if depth > 1:
            raise MalformedError(f"{where[:100]!r} lies too deep", entry.local)
        inside = _by_name(zipfiles.entries(reader), self._notes)
        return set(_Archive(reader, self._notes, inside).pickles(f"{where}/", depth + 1))

    def program(self) -> dict[str, Any]:
        """Return what the exported programs say: schema, version of Torch, opsets, targets."""
        targets: set[str] = set()
        said: dict[str, Any] = {}
        for name, entry in self._found.items():
            if _PROGRAMS.match(name):
                data = zipfiles.content(self._reader, entry, _JSON)
                targets.update(each.decode("utf-8", "replace") for each in _TARGET.findall(data))
                said |= _program(Reader(io.BytesIO(data), len(data)))
        if len(targets) > _TARGETS:
            raise MalformedError(f"a program of more than {_TARGETS} different targets", 0)
        return said | {"operators": tuple(sorted(targets))}

    def settings(self) -> dict[str, str]:
        """Return what AOTInductor says of its code, such as `AOTI_MACHINE`."""
        found: dict[str, str] = {}
        for name, entry in self._found.items():
            if name.endswith("_metadata.json"):
                data = zipfiles.content(self._reader, entry, _SMALL)
                table = value(Reader(io.BytesIO(data), len(data)), 0, len(data), _SMALL)
                found |= {
                    clip(key, 60): clip(text, 200)
                    for key, text in (table.items() if isinstance(table, dict) else ())
                    if isinstance(text, str)
                }
        return found


def _program(reader: Reader) -> dict[str, Any]:
    json = Json(reader)
    said: dict[str, Any] = {}
    for name, start in json.members(0):
        if name in {"schema_version", "torch_version", "opset_version"}:
            said[name] = value(reader, start, json.end(start), _SMALL)
    schema, opsets = said.get("schema_version"), said.get("opset_version")
    torch = said.get("torch_version")
    return {
        "schema": ".".join(map(str, _numbers(schema))),
        "torch": clip(torch, 60) if isinstance(torch, str) else "",
        "opsets": {
            clip(key, 60): number
            for key, number in (opsets.items() if isinstance(opsets, dict) else ())
            if type(number) is int and abs(number) <= _LARGEST
        },
    }


def _numbers(schema: Any) -> Iterator[int]:
    """Yield major and minor version of a schema: a table of both, or one number."""
    items = [schema.get("major"), schema.get("minor")] if isinstance(schema, dict) else [schema]
    yield from (item for item in items if type(item) is int and abs(item) <= _LARGEST)
