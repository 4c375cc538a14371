"""Says what the files of a model are: one reader for each format, chosen by content.

    read_facts("m.gguf", stream, size)  ->  Facts(path="m.gguf", format="gguf", says=GgufFacts(...), ...)

A file that its reader cannot make sense of has a problem, and no facts but those that its first bytes tell: unknown, so
whoever judges it refuses. Nothing is loaded, imported or unpickled.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO, Final

from airpack.facts import coreml, gguf, hf, jinja, onnx, pickles, pte, safetensors, tensorrt, tflite, torch
from airpack.facts.identify import HEAD, FormatFact, identify
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import (
    Facts,
    GgufFacts,
    HfIndexFacts,
    OnnxFacts,
    Problem,
    SafetensorsFacts,
    Says,
    TfliteFacts,
)

_Read = Callable[[Reader, Notes], Says | None]
_READERS: Final[Mapping[str, tuple[str, _Read]]] = {
    "gguf": (gguf.READER, gguf.read),
    "safetensors": (safetensors.READER, safetensors.read),
    "safetensors-odd": (safetensors.READER, safetensors.read),
    "onnx": (onnx.READER, onnx.read),
    "pte": (pte.READER, pte.read),
    "tflite": (tflite.READER, tflite.read),
    "coreml": (coreml.READER, coreml.read),
    "tensorrt": (tensorrt.READER, tensorrt.read),
    "pickle": (pickles.READER, pickles.read),
    "torch-zip": (torch.READER, torch.read),
    "zip": (torch.READER, torch.read),
}
_NAMED: Final[Mapping[str, str]] = {  # formats that names promise, by their ending
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".safetensors": "safetensors",
    ".pte": "pte",
    ".tflite": "tflite",
    ".mlmodel": "coreml",
    ".plan": "tensorrt",
    ".engine": "tensorrt",
}
_WEIGHT: Final = 1 << 20  # bytes that facts of one file may have
_POINTER: Final = b"version https://git-lfs.github.com/spec/v1\n"
_OBJECT: Final = re.compile(rb'[ \t\n\r]*+(?:\{[ \t\n\r]*+(?:["}]|\Z)|\Z)')


def read_facts(path: str, stream: BinaryIO, size: int) -> Facts:
    """Return what one file is.

    Args:
        path: Its name. It decides nothing; a name that promises another format is a problem.
        stream: The file, which can be read at any offset.
        size: Its length in bytes.

    Raises:
        StorageError: It cannot be read.
    """
    reader, notes = Reader(stream, size, what=path), Notes()
    head = reader.most(0, HEAD)
    fact = identify(path, head, size)
    name, read = _reader_of(fact, head)
    says: Says | None = None
    _check_name(path, fact, reader, notes)
    try:
        if read is not None:
            says = read(reader, notes)
    except MalformedError as error:
        notes.problem(error.reason, error.at)
    found = Facts(
        path=path,
        size=size,
        format=fact.name,
        detail=fact.detail,
        unsafe=fact.reason,
        reader=name,
        says=says,
        places=notes.places,
        code=tuple(notes.code),
        problems=tuple(notes.problems),
    )
    return found if found.weight <= _WEIGHT else _without(found)


def _without(found: Facts) -> Facts:
    """Return facts that are more than a signed document can carry, without what makes them so."""
    problem = Problem(f"its facts are more than {_WEIGHT} bytes: no real file says so much")
    less = replace(found, says=None, places={}, problems=(*found.problems, problem))
    return less if less.weight <= _WEIGHT else replace(less, code=())


def _check_name(path: str, fact: FormatFact, reader: Reader, notes: Notes) -> None:
    """Note what is named as one format and is another: a file that was cut off, a pointer in its place."""
    promised = _NAMED.get(posixpath.splitext(path)[1].lower(), fact.name)
    if reader.most(0, len(_POINTER)) == _POINTER:
        notes.problem("it is a pointer of Git LFS, not the file: `git lfs pull` fetches that", 0)
    elif fact.name != promised:
        why, at = f"its name says {promised}, its bytes say {fact.name}", 0
        if fact.name == "data":
            try:
                _READERS[promised][1](reader, Notes())
            except MalformedError as error:
                why, at = f"{why}: {error.reason}", error.at
        notes.problem(why, at)


def _reader_of(fact: FormatFact, head: bytes) -> tuple[str, _Read | None]:
    """Return who reads a file. Text that begins as a JSON object is read as one: others' parsers are less strict."""
    if fact.name in {"json", "text"}:
        return (hf.READER, _read_json) if _OBJECT.match(head) else (jinja.READER, jinja.read)
    return _READERS.get(fact.name, ("", None))


def _read_json(reader: Reader, notes: Notes) -> Says | None:
    """Return what JSON says; what is none, or says nothing that is known, may still be a template."""
    says: Says | None = None
    try:
        says = hf.read(reader, notes)
    finally:
        if says is None and not notes.code:
            jinja.read(reader, notes)
    return says


# --- files together ---------------------------------------------------------------------------------------------------

_SHARD: Final = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf\Z", re.DOTALL)


def fit_together(files: Iterable[Facts]) -> tuple[Problem, ...]:
    """Return what does not fit between the files of one model: files that are named, and missing or too short.

    Args:
        files: All of them, their paths relative to one folder.
    """
    by_path = {file.path: file for file in files}
    return (*_named(by_path), *_shards(by_path.values()))


def _named(files: Mapping[str, Facts]) -> Iterator[Problem]:
    for file in files.values():
        for name, bytes_needed, tensors in _needed(file):
            reason = _missing(files, file, name, bytes_needed, tensors)
            if reason:
                yield Problem(reason, None, file.path)


def _needed(file: Facts) -> Iterator[tuple[str, int, int | None]]:
    """Yield the files that a file needs, their least length, and their number of tensors where it is said."""
    match file.says:
        case OnnxFacts(external=external):
            yield from ((name, each.bytes, None) for name, each in external.items())
        case TfliteFacts(external=sizes):
            yield from ((name, size, None) for name, size in sizes.items())
        case HfIndexFacts(shards=shards):
            yield from ((name, 0, count) for name, count in shards.items())


def _missing(files: Mapping[str, Facts], file: Facts, name: str, size: int, tensors: int | None) -> str:
    """Return why a file that `file` needs is not there as it must be; empty when it is."""
    folder = posixpath.dirname(file.path)
    path = posixpath.normpath(posixpath.join(folder, name))
    if name.startswith("/") or "\\" in name or posixpath.relpath(path, folder or ".").startswith(".."):
        return f"needs {name[:200]!r}, which lies outside its folder"
    found = files.get(path)
    if found is None:
        return f"needs {name[:200]!r}, which is not there"
    if found.size < size:
        return f"needs {size} bytes of {name[:200]!r}, which has {found.size}"
    if tensors is not None and isinstance(found.says, SafetensorsFacts) and found.says.tensors != tensors:
        return f"needs {tensors} tensors of {name[:200]!r}, which has {found.says.tensors}"
    return ""


def _shards(files: Iterable[Facts]) -> Iterator[Problem]:
    """Yield what is wrong with GGUF files that are one model together."""
    groups: dict[tuple[str, int], list[Facts]] = defaultdict(list)
    for file in files:
        if isinstance(file.says, GgufFacts) and (file.says.shards or 0) > 1:
            match = _SHARD.match(file.path)
            if match is None or int(match["count"]) != file.says.shards or int(match["number"]) != _number(file):
                yield Problem(
                    "its name is not NAME-NNNNN-of-NNNNN.gguf, with the numbers that it holds", None, file.path
                )
            groups[match["stem"] if match else posixpath.dirname(file.path), file.says.shards or 0].append(file)
    for (stem, count), shards in sorted(groups.items()):
        missing = sorted(set(range(1, min(count, 99_999) + 1)) - {_number(file) for file in shards})
        if missing:
            yield Problem(f"{len(missing)} of {count} shards are missing: the first is {missing[0]}", None, stem)
        elif any(_all_tensors(file) not in {None, _tensors(shards)} for file in shards):
            yield Problem(f"its shards hold {_tensors(shards)} tensors together; they say otherwise", None, stem)


def _number(file: Facts) -> int:
    """Return which one of several files this is, from 1."""
    return file.says.shard + 1 if isinstance(file.says, GgufFacts) and file.says.shard is not None else 1


def _all_tensors(file: Facts) -> int | None:
    return file.says.shard_tensors if isinstance(file.says, GgufFacts) else None


def _tensors(shards: Iterable[Facts]) -> int:
    return sum(file.says.tensors for file in shards if isinstance(file.says, GgufFacts))
