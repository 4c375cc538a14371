"""Looks at golden arrays: an .npz whose members are `input/NAME.npy` and `expected/NAME.npy`, first axis = cases.

Nothing is unpickled and no array is built: each member's header is read, and its bytes are counted against it.
NumPy's `.npy` format: NEP 1.
"""

import math
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from numpy.lib import format as npy

from airpack import fsops
from airpack.errors import AirpackError, InputError
from airpack.formats.probe import LARGEST_GOLDEN

_MEMBERS = 256  # arrays in one file
_HEADER = 10_000  # characters of one .npy header, NumPy's own bound
_BLOCK = 1 << 20  # bytes
_NAME = re.compile(r"(input|expected)/([\x21-\x7e]{1,200})\.npy\Z")
_NUMBERS = frozenset("biuf")  # NumPy's kinds: boolean, signed, unsigned, floating


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
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream, max_header_size=_HEADER)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream, max_header_size=_HEADER)
    else:
        raise ValueError(f"{member.filename} is .npy version {version}; expected 1.0 or 2.0")
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"{member.filename} has type {str(dtype)[:40]}; expected booleans, whole or floating numbers")
    if not shape or min(shape) < 1:
        raise ValueError(f"{member.filename} has shape {shape}; expected a first axis of at least one case, none empty")
    needed, found = math.prod(shape) * dtype.itemsize, 0
    while block := stream.read(_BLOCK):  # to its end, so that the checksum is compared as well
        found += len(block)
    if found != needed:
        raise ValueError(f"{member.filename} has {found} bytes of numbers; its header says {needed}")
    return int(shape[0])
