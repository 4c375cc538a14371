"""Reads ExecuTorch programs: operators, delegates, planned memory.

    u32 root, "ET12", then the extended header: "eh00", u32 its length, u64 bytes of the program, u64 base of segments

github.com/pytorch/executorch, schema/program.fbs and schema/extended_header.h.
"""

import struct
from collections import Counter
from typing import Final

from airpack.facts import flatbuffer
from airpack.facts.flatbuffer import I64, U32, U64, Table
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import PteFacts, PteMethod

READER: Final = "pte/1"

_IDENTIFIER: Final = 4  # where it stands
_EXTENDED: Final = struct.Struct("<4sIQQ")
_EXTENDED_AT: Final = 8
_VERSION, _PLANS, _SEGMENTS, _NAMED = 0, 1, 4, 7  # fields of Program
_NAME, _OPERATORS, _DELEGATES, _BUFFERS = 0, 6, 7, 8  # fields of ExecutionPlan
_TEXT: Final = 512  # bytes of a name
_METHODS: Final = 256
_KINDS: Final = 4096  # operators, delegates, or named data of one program
_MEMORIES: Final = 256  # buffers that are planned for one method
_LARGEST: Final = 2**53 - 1


def read(reader: Reader, notes: Notes) -> PteFacts:
    """Return what an ExecuTorch program says.

    Raises:
        MalformedError: It is none, or not one that can be.
        StorageError: It cannot be read.
    """
    identifier = reader.exactly(_IDENTIFIER, 4).decode("latin-1")
    notes.at("identifier", _IDENTIFIER, 8)
    base = _check_extended(reader, notes)
    program = flatbuffer.root(reader)
    segments = _segments(reader, program, base, notes)
    return PteFacts(
        identifier=identifier,
        version=program.number(_VERSION, U32),
        methods=_methods(program, notes),
        segments=segments,
        named_data=_names(program),
    )


def _check_extended(reader: Reader, notes: Notes) -> int | None:
    """Return where segments begin; None where the program says nothing of any."""
    if reader.most(_EXTENDED_AT, 4) != b"eh00":
        return None
    _, length, size, base = reader.unpack(_EXTENDED, _EXTENDED_AT)
    if length < _EXTENDED.size:
        raise MalformedError(f"an extended header of {length} bytes", _EXTENDED_AT)
    if max(size, base) > reader.size:
        notes.problem(f"its program of {size} bytes, or its segments from {base} on, lie beyond the file", _EXTENDED_AT)
    return int(base) or None


def _segments(reader: Reader, program: Table, base: int | None, notes: Notes) -> int:
    """Return how many bytes the segments have, once they lie in the file."""
    total = 0
    for segment in program.tables(_SEGMENTS):
        offset, size = segment.number(0, U64), segment.number(1, U64)
        total += size
        if base is None:
            raise MalformedError("there are segments, and no extended header says where", segment.start)
        if base + offset + size > reader.size:
            notes.problem(f"a segment ends at byte {base + offset + size}; the file has {reader.size}", segment.start)
    return min(total, _LARGEST)


def _methods(program: Table, notes: Notes) -> dict[str, PteMethod]:
    methods: dict[str, PteMethod] = {}
    kept = 0
    for plan in program.tables(_PLANS):
        name = plan.text(_NAME, _TEXT)
        if name in methods or len(methods) == _METHODS:
            raise MalformedError(f"method {name[:60]!r} occurs twice, or there are more than {_METHODS}", plan.start)
        method = PteMethod(_operators(plan, notes), _delegates(plan, notes), _memory(plan))
        notes.at(f"methods.{name}", plan.start, plan.stop)
        kept += len(method.operators) + len(method.delegates)
        if kept > _KINDS:
            raise MalformedError(f"more than {_KINDS} operators and delegates", plan.start)
        methods[name] = method
    return methods


def _operators(plan: Table, notes: Notes) -> tuple[str, ...]:
    found = set()
    for operator in plan.tables(_OPERATORS):
        name, overload = operator.text(0, _TEXT), operator.text(1, _TEXT)
        full = f"{name}.{overload}" if overload else name
        notes.at(f"operators.{full}", operator.start, operator.stop)
        found.add(full)
        if len(found) > _KINDS:
            raise MalformedError(f"more than {_KINDS} operators", operator.start)
    return tuple(sorted(found))


def _delegates(plan: Table, notes: Notes) -> dict[str, int]:
    found = Counter[str]()
    for delegate in plan.tables(_DELEGATES):
        name = delegate.text(0, _TEXT)
        notes.at(f"delegates.{name}", delegate.start, delegate.stop)
        found[name] += 1
        if len(found) > _KINDS:
            raise MalformedError(f"more than {_KINDS} delegates", delegate.start)
    return dict(found)


def _memory(plan: Table) -> tuple[int, ...]:
    sizes = plan.numbers(_BUFFERS, I64, _MEMORIES)[1:]  # the first is reserved
    if any(not 0 <= size <= _LARGEST for size in sizes):
        raise MalformedError("a planned buffer of a size that cannot be", plan.start)
    return sizes


def _names(program: Table) -> tuple[str, ...]:
    found = set()
    for data in program.tables(_NAMED):
        found.add(data.text(0, _TEXT))
        if len(found) > _KINDS:
            raise MalformedError(f"more than {_KINDS} named data", data.start)
    return tuple(sorted(found))
