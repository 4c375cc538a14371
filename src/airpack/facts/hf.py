"""Reads the JSON files beside Hugging Face weights: config, tokenizer, settings of the tokenizer, index of shards.

What such a file is, its keys say, whatever its name: `auto_map` brings in code of others, a chat template is code.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from airpack.facts.jsonwalk import Json, value
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import (
    Code,
    HfConfigFacts,
    HfIndexFacts,
    HfTokenizerConfigFacts,
    HfTokenizerFacts,
    Place,
    Setting,
    clip,
)

READER: Final = "hf/1"

_VALUE: Final = 4 << 20  # bytes of one value that is built
_TEXT: Final = 200  # characters of a setting
_SETTINGS: Final = 512
_KEPT: Final = 64 << 10  # bytes of a value that is looked into for settings
_ITEMS: Final = 256  # classes, templates, types
_LARGEST: Final = 2**53 - 1
_Says = HfConfigFacts | HfTokenizerFacts | HfTokenizerConfigFacts | HfIndexFacts


def read(reader: Reader, notes: Notes) -> _Says | None:
    """Return what a JSON file says; None for one that is nothing of the kind.

    Raises:
        MalformedError: It is no JSON object, or not one that can be.
        StorageError: It cannot be read.
    """
    json = Json(reader)
    found: dict[str, Place] = {}
    model: dict[str, Place] = {}
    merges, shards = b"", Counter[str]()
    for name, start in json.members(0):
        if name == "model":
            for inner, at in json.members(start):
                model[inner] = (at, json.end(at))
                merges = json.first(at) if inner == "merges" else merges
        elif name == "weight_map":
            shards, stop = _count_shards(reader, start)
            json.know(start, stop)
        found[name] = (start, json.end(start))
    file = _File(reader, notes, found)
    remote, templates = file.remote_code(), file.templates()  # whatever else it is
    if found.keys() & {"model_type", "architectures"}:
        return _config(file, remote)
    if "weight_map" in found:
        return _index(file, shards)
    if "model" in found and found.keys() & {"pre_tokenizer", "added_tokens", "normalizer"}:
        return _tokenizer(file, model, merges)
    if found.keys() & {"tokenizer_class", "chat_template", "auto_map"}:
        return HfTokenizerConfigFacts(file.text("tokenizer_class"), remote, templates)
    return None


class _File:
    """One JSON object, its members read when they are asked for."""

    def __init__(self, reader: Reader, notes: Notes, places: Mapping[str, Place]) -> None:
        self.reader = reader
        self.notes = notes
        self.places = places

    def get(self, key: str) -> Any:
        """Return a member; None for none."""
        if key not in self.places:
            return None
        start, stop = self.places[key]
        self.notes.at(key, start, stop)
        return value(self.reader, start, stop, _VALUE)

    def text(self, key: str) -> str:
        """Return a text; empty for none, and for what is no text."""
        found = self.get(key)
        return clip(found, _TEXT) if isinstance(found, str) else ""

    def remote_code(self) -> dict[str, str]:
        """Return classes of others' code by what they stand for, noted as code."""
        table = self.get("auto_map")
        if table is None:
            return {}
        found: dict[str, str] = {}
        for key, names in table.items() if isinstance(table, dict) else [("auto_map", table)]:
            words = [word for word in (names if isinstance(names, list) else [names]) if word is not None]
            if not all(isinstance(word, str) and len(word) <= _TEXT for word in (key, *words)) or len(found) == _ITEMS:
                raise MalformedError("auto_map holds something else than names of classes", self.places["auto_map"][0])
            found[key] = ", ".join(words)
        names = tuple(sorted(set(found.values())))
        self.notes.add(Code("remote-code", "auto_map", names, place=self.places["auto_map"]))
        return found

    def templates(self) -> tuple[str, ...]:
        """Return the names of chat templates, each noted as code."""
        found = self.get("chat_template")
        items = found if isinstance(found, list) else [] if found is None else [{"name": "default", "template": found}]
        if isinstance(found, dict):
            items = [{"name": name, "template": template} for name, template in found.items()]
        names: list[str] = []
        for item in items[: _ITEMS + 1]:
            match item:
                case {"name": str(name), "template": str(template)} if len(name) <= _TEXT and len(names) < _ITEMS:
                    self.notes.template(f"chat_template {name}", template.encode("utf-8", "replace"))
                    names.append(name)
                case _:
                    raise MalformedError("chat_template holds something else", self.places["chat_template"][0])
        return tuple(sorted(names))


# --- config -----------------------------------------------------------------------------------------------------------


def _config(file: _File, remote: Mapping[str, str]) -> HfConfigFacts:
    architectures = file.get("architectures")
    rope = file.get("rope_scaling")
    quantization = file.get("quantization_config")
    if isinstance(quantization, dict):
        method = quantization.get("quant_method", quantization.get("quant_type", ""))
        quantization = method if isinstance(method, str) and method else "unnamed"
    names = architectures if isinstance(architectures, list) else []
    if not all(isinstance(name, str) and len(name) <= _TEXT for name in names) or len(names) > _ITEMS:
        raise MalformedError("architectures holds something else than names", file.places["architectures"][0])
    return HfConfigFacts(
        architectures=tuple(names),
        model_type=file.text("model_type"),
        dtype=file.text("dtype") or file.text("torch_dtype"),
        quantization=clip(quantization, _TEXT) if isinstance(quantization, str) else "",
        rope_scaling=tuple(sorted(clip(key, _TEXT) for key in rope)[:_ITEMS]) if isinstance(rope, dict) else (),
        transformers=file.text("transformers_version"),
        remote_code=remote,
        settings=dict(_settings(file)),
    )


_OWN: Final = frozenset(  # members that are facts of their own
    {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "auto_map"}
)


def _settings(file: _File) -> Iterator[tuple[str, Setting]]:
    """Yield the members that are kept as settings, those of tables by `TABLE.KEY`."""
    count = 0
    for name, place in file.places.items():
        if name in _OWN:
            continue
        found = None
        with suppress(MalformedError):  # Infinity, for one, which others' readers take
            found = value(file.reader, *place, _KEPT)
        items = found.items() if isinstance(found, dict) else ()
        for key, item in ((name, found), *((f"{name}.{inner}", item) for inner, item in items)):
            setting = _setting(item)
            if setting is not None and len(key) <= _TEXT and count < _SETTINGS:
                count += 1
                yield key, setting


def _setting(item: Any) -> Setting | None:
    match item:
        case bool():
            return item
        case int() if abs(item) <= _LARGEST:
            return item
        case str() if len(item) <= _TEXT:
            return item
    return None


# --- tokenizer --------------------------------------------------------------------------------------------------------

_MERGES: Final = {b'"': "texts", b"[": "pairs"}  # by what the first of them begins with
_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def _tokenizer(file: _File, model: Mapping[str, Place], merges: bytes) -> HfTokenizerFacts:
    kind = None
    if "type" in model:
        kind = value(file.reader, *model["type"], _VALUE)
        file.notes.at("model", *model["type"])
    if "merges" in model:
        file.notes.at("merges", *model["merges"])
    parts = {part: tuple(_types(file.get(part)))[:_ITEMS] for part in _PARTS}
    return HfTokenizerFacts(
        version=file.text("version"),
        model=clip(kind, _TEXT) if isinstance(kind, str) else "",
        merges=_MERGES.get(merges, ""),
        parts={part: types for part, types in parts.items() if types},
    )


def _types(part: Any) -> Iterator[str]:
    """Yield the types in a part of a tokenizer, from the outside in; strict JSON bounds its depth."""
    if isinstance(part, dict):
        kind = part.get("type")
        if isinstance(kind, str):
            yield clip(kind, _TEXT)
        for item in part.values():
            yield from _types(item)
    elif isinstance(part, list):
        for item in part:
            yield from _types(item)


# --- index ------------------------------------------------------------------------------------------------------------

_QUOTED: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_ENTRY: Final = _QUOTED + rb'[ \t\n\r]*+:[ \t\n\r]*+"(?P<file>[^"\\]*+)"[ \t\n\r]*+'
_SHARD: Final = re.compile(_ENTRY, re.DOTALL)
_RUN: Final = re.compile(rb"(?:" + _ENTRY + rb",[ \t\n\r]*+)*+", re.DOTALL)
_LAST: Final = re.compile(_ENTRY + rb"\}", re.DOTALL)
_SPACES: Final = 1024  # bytes of white space
_PIECE: Final = 1 << 20  # bytes that are looked at at once
_SHARDS: Final = 4096


def _count_shards(reader: Reader, start: int) -> tuple[Counter[str], int]:
    """Return how many tensors lie in each file, by the table at `start`, and where that ends.

    An index of 90,000 tensors is not built. A table whose values are no texts without escapes is malformed.
    """
    counts = Counter[bytes]()
    head = re.match(rb"\{[ \t\n\r]*+", reader.most(start, _SPACES))
    if not head:
        raise MalformedError("weight_map is no table", start)
    at = start + head.end()
    if reader.most(at, 1) == b"}":
        return Counter(), at + 1
    while True:
        reader.step(at, 1000)
        piece = reader.most(at, _PIECE)
        run = _RUN.match(piece)
        end = run.end() if run else 0
        counts.update(_SHARD.findall(piece, 0, end))
        if len(counts) > _SHARDS:
            raise MalformedError(f"tensors in more than {_SHARDS} files", at)
        if last := _LAST.match(piece, end):
            counts.update(_SHARD.findall(piece, end, last.end()))
            return Counter({_name(name, start): count for name, count in counts.items()}), at + last.end()
        if not end:
            raise MalformedError("weight_map holds something else than names of files", at)
        at += end


def _index(file: _File, shards: Counter[str]) -> HfIndexFacts:
    file.notes.at("weight_map", *file.places["weight_map"])
    metadata = file.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    size = int(size) if isinstance(size, float) and size.is_integer() else size
    return HfIndexFacts(
        tensors=shards.total(),
        shards=dict(sorted(shards.items())),
        total_size=size if type(size) is int and 0 <= size <= _LARGEST else None,
    )


def _name(name: bytes, at: int) -> str:
    try:
        found = name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("the name of a shard is not UTF-8", at) from error
    if len(found) > _TEXT:
        raise MalformedError(f"the name of a shard has more than {_TEXT} characters", at)
    return found
