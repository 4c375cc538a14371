"""Looks at golden arrays: an .npz whose members are `input/NAME.npy` and `expected/NAME.npy`, first axis = cases.

Nothing is unpickled and no array is built: each member's header is read, and its bytes are counted against it.
NumPy's `.npy` format: NEP 1. The header is read here, in the plain form that its writers give it: NumPy evaluates it as
a Python literal, which fails in more ways than can be named.
"""

import math
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from airpack import fsops
from airpack.errors import AirpackError, InputError
from airpack.formats.probe import LARGEST_GOLDEN

_MEMBERS = 256  # arrays in one file
_HEADER = 10_000  # bytes of one .npy header, NumPy's own bound
_WIDTHS = {(1, 0): 2, (2, 0): 4}  # .npy version to bytes of the header's length
_PLAIN = re.compile(
    r"\{(?: *'(?:descr' *: *(?P<descr>'[^'\\]*'|\[[^\\{}]*\])|fortran_order' *: *(?:True|False)"
    r"|shape' *: *\((?P<shape>[0-9, ]*)\)) *,?)* *\}\s*\Z",
    re.ASCII,
)
_NUMBER = re.compile(r"[<>|=]?[biuf][0-9]{1,2}\Z", re.ASCII)  # NumPy's booleans, signed, unsigned, floating
_BLOCK = 1 << 20  # bytes
_NAME = re.compile(r"(input|expected)/([\x21-\x7e]{1,200})\.npy\Z")


@dataclass(frozen=True, slots=True)
class Golden:
    """What golden arrays hold.

    Attributes:
        inputs: Names of the model's inputs, sorted.
        expected: Names of the model's outputs, sorted.
        cases: Length of the first axis of every array.
    """

    inputs: tuple[str, ...]
    expected: tuple[str, ...]
    cases: int


def check_golden(path: Path, *, error: type[AirpackError] = InputError) -> Golden:
    """Return what the golden arrays in `path` hold, all of it read and bounded.

    Args:
        path: The .npz file, at most `LARGEST_GOLDEN` bytes.
        error: Raised on anything wrong with its content.

    Raises:
        NotFoundError: There is no such file.
        AirpackError: Of class `error`: no zip, other members, objects, unequal first axes, too large, or damaged.
        StorageError: It cannot be read.
    """
    descriptor = fsops.open_regular(path)
    with os.fdopen(descriptor, "rb") as stream:
        size = os.fstat(descriptor).st_size
        if size > LARGEST_GOLDEN:
            raise error(f"{path} has {size} bytes; golden arrays have at most {LARGEST_GOLDEN}", path=str(path))
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read(archive)
        except (
            ValueError,
            OSError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as bad:
            raise error(
                f"{path} holds no golden arrays: {bad}",
                hint="numpy.savez_compressed(FILE, **{'input/NAME': array, 'expected/NAME': array})",
                path=str(path),
            ) from bad


def _read(archive: zipfile.ZipFile) -> Golden:
    members = archive.infolist()
    if not 0 < len(members) <= _MEMBERS:
        raise ValueError(f"{len(members)} members; expected 1 to {_MEMBERS}")
    if sum(member.file_size for member in members) > LARGEST_GOLDEN:
        raise ValueError(f"its arrays have more than {LARGEST_GOLDEN} bytes together")
    names: dict[str, list[str]] = {"input": [], "expected": []}
    cases: dict[int, str] = {}
    for member in members:
        match = _NAME.match(member.filename)
        if not match:
            raise ValueError(f"member {member.filename[:80]!r}; expected input/NAME.npy and expected/NAME.npy")
        group, name = match.groups()
        if name in names[group]:
            raise ValueError(f"member {member.filename!r} occurs twice")
        names[group].append(name)
        with archive.open(member) as stream:
            cases.setdefault(_cases(stream, member), member.filename)
    for group, found in names.items():
        if not found:
            raise ValueError(f"no member {group}/NAME.npy")
    if len(cases) > 1:
        raise ValueError("first axes differ: " + ", ".join(f"{name} has {count}" for count, name in cases.items()))
    return Golden(inputs=tuple(sorted(names["input"])), expected=tuple(sorted(names["expected"])), cases=min(cases))


def _cases(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return the first axis of one member, once its header and its length agree."""
    shape, width = _header(stream, member)
    if not shape or min(shape) < 1:
        raise ValueError(f"{member.filename} has shape {shape}; expected a first axis of at least one case, none empty")
    needed, found = math.prod(shape) * width, 0
    while block := stream.read(_BLOCK):  # to its end, so that the checksum is compared as well
        found += len(block)
    if found != needed:
        raise ValueError(f"{member.filename} has {found} bytes of numbers; its header says {needed}")
    return int(shape[0])


def _header(stream: IO[bytes], member: zipfile.ZipInfo) -> tuple[tuple[int, ...], int]:
    """Return the shape of one member's array, and the bytes of one number in it."""
    version = npy.read_magic(stream)
    if version not in _WIDTHS:
        raise ValueError(f"{member.filename} is .npy version {version}; expected 1.0 or 2.0")
    length = int.from_bytes(stream.read(_WIDTHS[version]), "little")
    if length > _HEADER:
        raise ValueError(f"{member.filename} has a header of {length} bytes; at most {_HEADER} are read")
    plain = _PLAIN.match(stream.read(length).decode("latin-1"))
    if not plain or plain["descr"] is None or plain["shape"] is None:
        raise ValueError(f"{member.filename} has no plain header of type and shape")
    kind = plain["descr"].strip("'")
    try:
        width = np.dtype(kind if _NUMBER.match(kind) else "no number").itemsize
    except TypeError as error:
        raise ValueError(
            f"{member.filename} has type {kind[:40]}; expected booleans, whole or floating numbers"
        ) from error
    return tuple(int(number) for number in plain["shape"].split(",") if number.strip()), width
