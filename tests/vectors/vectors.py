"""Reads `tests/vectors/`: each folder is a medium that was met once, and what a site must do with it.

    vector = Vector.load(folder)
    vector.lay_out(medium)        # the files, as they lay on the medium

README.md beside this file says the form, for those who test another implementation with it.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from airpack.formats.times import parse_time

HERE: Final = Path(__file__).parent
ROOT: Final = HERE / "root.json"
SCHEMA: Final = "airpack.vector/1"
EXPECT: Final = "expect.json"
SPLICED: Final = ".splice.json"
_WORTH: Final = 24  # bytes: shorter ones are not looked for in the base


@dataclass(frozen=True)
class Vector:
    """One folder: `<name>_ok` must be imported, `<name>_fail` must be refused as `expect` says."""

    name: str
    expect: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Vector":
        expect = json.loads((folder / EXPECT).read_bytes())
        assert expect["schema"] == SCHEMA, folder
        return cls(folder.name, expect)

    @property
    def now(self) -> datetime:
        """The time to judge by."""
        return parse_time(self.expect["now"], what="now")

    @property
    def before(self) -> tuple[tuple[str, bool], ...]:
        """Vectors to import at the site beforehand, and whether each is activated too."""
        return tuple((item["import"], item["activate"]) for item in self.expect["after"])

    def files(self) -> dict[str, bytes]:
        """Return the medium's files, without the holes of `sparse`."""
        base = self.expect["base"]
        before = Vector.load(HERE / base).files() if base else {}
        found = dict(before)
        for path in sorted((HERE / self.name).iterdir()):
            if path.name.endswith(SPLICED):
                delta = json.loads(path.read_bytes())
                found[path.name.removesuffix(SPLICED)] = apply(delta, before[delta["of"]])
            elif path.name != EXPECT:
                found[path.name] = path.read_bytes()
        return {name: data for name, data in found.items() if name not in self.expect["remove"]}

    def lay_out(self, medium: Path) -> None:
        """Write the medium's files into the new folder `medium`."""
        medium.mkdir()
        for name, data in self.files().items():
            (medium / name).write_bytes(data)
        for name, size in self.expect["sparse"].items():
            os.truncate(medium / name, size)


def every() -> list[Vector]:
    """Return all vectors, by name."""
    return [Vector.load(path.parent) for path in sorted(HERE.glob(f"*/{EXPECT}"))]


def splice(old: bytes, new: bytes) -> dict[str, Any]:
    """Return what makes `new` of `old`: pieces of it, and bytes of its own."""
    places: dict[bytes, int] = {}
    at = 0
    for token in old.split(b'"'):
        places.setdefault(token + b'"', at)
        at += len(token) + 1
    pieces: list[bytes | list[int]] = []
    tokens = [token + b'"' for token in new.split(b'"')]
    for token in (*tokens[:-1], tokens[-1][:-1]):
        at = places.get(token, -1)
        last = pieces[-1] if pieces else b""
        if isinstance(last, list) and old[last[0] + last[1] :].startswith(token):
            last[1] += len(token)
        elif at >= 0 and len(token) >= _WORTH:
            pieces.append([at, len(token)])
        elif isinstance(last, bytes) and pieces:
            pieces[-1] = last + token
        else:
            pieces.append(token)
    return {"sha256": hashlib.sha256(new).hexdigest(), "pieces": [_emit_piece(piece) for piece in pieces if piece]}


def _emit_piece(piece: bytes | list[int]) -> Any:
    if isinstance(piece, list):
        return piece
    return piece.decode() if piece.isascii() else {"base64": base64.b64encode(piece).decode()}


def apply(delta: Mapping[str, Any], old: bytes) -> bytes:
    """Return what `splice` was given as `new`."""
    new = bytearray()
    for piece in delta["pieces"]:
        if isinstance(piece, list):
            new += old[piece[0] : piece[0] + piece[1]]
        else:
            new += piece.encode() if isinstance(piece, str) else base64.b64decode(piece["base64"])
    assert hashlib.sha256(new).hexdigest() == delta["sha256"]
    return bytes(new)


def write(folder: Path, expect: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write a vector; what its base has already is left out, and what is like it is written as pieces of it.

    Args:
        folder: The vector's folder; replaced.
        expect: Its `expect.json`; `remove` is filled in here.
        files: All files of the medium.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    base = Vector.load(HERE / expect["base"]).files() if expect["base"] else {}
    for name, data in files.items():
        if data == base.get(name):
            continue
        of = name if name in base else next((other for other in base if other.endswith(Path(name).suffix)), "")
        old = base.get(of)
        text = json.dumps({"of": of, **splice(old, data)}, separators=(",", ":")).encode() + b"\n" if old else b""
        if old and len(text) < len(data) * 9 // 10 and apply(json.loads(text), old) == data:
            (folder / f"{name}{SPLICED}").write_bytes(text)
        else:
            (folder / name).write_bytes(data)
    gone = sorted(base.keys() - files.keys())
    (folder / EXPECT).write_bytes(emit({**expect, "remove": gone}))


def expectation(attack: str, outcome: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return what `expect.json` says; `more` replaces what most vectors have alike."""
    same: dict[str, Any] = {
        "base": None,
        "remove": [],
        "sparse": {},
        "after": [],
        "now": "2026-06-02T00:00:00Z",
        "source": "",
        "says": "",
    }
    return {"schema": SCHEMA, "attack": attack, **same, "import": dict(outcome), "verify": dict(outcome), **more}


def emit(value: Any) -> bytes:
    """Return JSON for people and for diffs."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
