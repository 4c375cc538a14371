"""ExecuTorch programs and TFLite models, built by hand as well, and hostile flatbuffers."""

import io
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts import pte, tflite
from airpack.facts.notes import Notes
from airpack.facts.reader import MalformedError, Reader
from airpack.formats.facts import PteFacts, PteMethod, TfliteFacts

MODELS = Path(__file__).resolve().parents[2] / "models"

Field = Any  # bytes of a number, a text, a Table, or a list of Tables, or a tuple of numbers


class Table:
    """A table to be: its fields by number."""

    def __init__(self, fields: Mapping[int, Field]) -> None:
        self.fields = fields


class Builder:
    """Writes tables from the front: vtable, table, and behind it what it refers to."""

    def __init__(self, start: bytes) -> None:
        self.out = bytearray(start)

    def refer(self, at: int, place: int) -> None:
        struct.pack_into("<I", self.out, at, place - at)

    def write(self, item: Field) -> int:
        place = len(self.out)
        if isinstance(item, Table):
            return self.table(item)
        if isinstance(item, str):
            self.out += struct.pack("<I", len(item.encode())) + item.encode() + b"\0"
        elif isinstance(item, tuple):
            self.out += struct.pack(f"<I{len(item)}q", len(item), *item)
        elif isinstance(item, bytearray):
            self.out += struct.pack("<I", len(item)) + item
        else:
            self.out += struct.pack("<I", len(item)) + bytes(4 * len(item))
            for number, each in enumerate(item):
                self.refer(place + 4 + 4 * number, self.write(each))
        return place

    def table(self, item: Table) -> int:
        count, vtable = max(item.fields, default=-1) + 1, len(self.out)
        self.out += bytes(4 + 2 * count)
        start = len(self.out)
        self.out += bytes(4)
        waiting = []
        for number, each in item.fields.items():
            struct.pack_into("<H", self.out, vtable + 4 + 2 * number, len(self.out) - start)
            if not isinstance(each, bytes):
                waiting.append((len(self.out), each))
            self.out += each if isinstance(each, bytes) else bytes(4)
        struct.pack_into("<HH", self.out, vtable, 4 + 2 * count, len(self.out) - start)
        struct.pack_into("<i", self.out, start, start - vtable)
        for at, each in waiting:
            self.refer(at, self.write(each))
        return start


def built(root: Table, identifier: bytes = b"TFL3", before: bytes = b"") -> bytes:
    start = bytes(4) + identifier + before
    builder = Builder(start + bytes(-len(start) % 8))
    builder.refer(0, builder.table(root))
    return bytes(builder.out)


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def read(module: Any, data: bytes) -> tuple[Any, Notes]:
    notes = Notes()
    return module.read(Reader(io.BytesIO(data), len(data)), notes), notes


def problems(module: Any, data: bytes) -> list[str]:
    return [problem.reason for problem in read(module, data)[1].problems]


# --- ExecuTorch -------------------------------------------------------------------------------------------------------


def plan(
    name: str = "forward", operators: Sequence[tuple[str, str]] = (), sizes: tuple[int, ...] = (0, 64), **more: Any
) -> Table:
    kernels = [Table({0: word, 1: overload} if overload else {0: word}) for word, overload in operators]
    delegates = [Table({0: word}) for word in more.get("delegates", ())]
    return Table({0: name, 6: kernels, 7: delegates, 8: sizes})


def program(
    *plans: Table, segments: Sequence[tuple[int, int]] = (), base: int = 0, tail: int = 0, **fields: Any
) -> bytes:
    parts = [Table({0: u64(offset), 1: u64(size)}) for offset, size in segments]
    root = Table({0: u32(0), 1: list(plans), 4: parts, 7: [Table({0: name}) for name in fields.get("named", ())]})
    extended = b"eh00" + struct.pack("<IQQ", 24, 100, base) if base else b""
    return built(root, fields.get("identifier", b"ET12"), extended) + bytes(tail)


def test_a_program_says_what_it_needs() -> None:
    data = program(
        plan(
            operators=[("aten::add", "out"), ("my::op", ""), ("aten::add", "out")],
            sizes=(0, 64, 128),
            delegates=["A", "B", "A"],
        ),
        plan("other"),
        named=["w", "b"],
    )
    found, notes = read(pte, data)
    assert found == PteFacts(
        "ET12",
        methods={
            "forward": PteMethod(("aten::add.out", "my::op"), {"A": 2, "B": 1}, (64, 128)),
            "other": PteMethod(memory=(64,)),
        },
        named_data=("b", "w"),
    )
    assert notes.problems == []
    assert set(notes.places) >= {"identifier", "methods.forward", "operators.my::op", "delegates.B"}


def test_segments_must_lie_in_the_file() -> None:
    whole = program(plan(), segments=[(0, 40), (48, 10)], base=600, tail=1000)
    assert (read(pte, whole)[0].segments, problems(pte, whole)) == (50, [])
    short = program(plan(), segments=[(0, 40), (48, 1000)], base=600, tail=500)
    assert any("a segment ends at byte 1648" in reason for reason in problems(pte, short))
    beyond = program(plan(), base=10_000)
    assert any("lie beyond the file" in reason for reason in problems(pte, beyond))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (program(plan(), segments=[(0, 1)]), "no extended header says where"),
        (program(plan(), plan()), "'forward' occurs twice"),
        (program(plan(sizes=(0, -1))), "of a size that cannot be"),
        (program(plan(sizes=(0,) * 300)), "300 numbers; at most 256"),
        (program(plan("x" * 600)), "a text of 600 bytes"),
        (program(*(plan(str(number)) for number in range(257))), "more than 256"),
        (program(plan(operators=[(f"op{number}", "") for number in range(4097)])), "more than 4096 operators"),
        (program(plan(), named=[str(number) for number in range(4097)]), "more than 4096 named data"),
        (b"\x10\0\0\0ET12eh00\x01\0\0\0" + bytes(40), "an extended header of 1 bytes"),
        (b"\x10\0\0\0ET12" + bytes(8), "it ends at byte 16"),
    ],
)
def test_a_program_that_cannot_be_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read(pte, data)


# --- TFLite -----------------------------------------------------------------------------------------------------------


def code(builtin: int, *, old: int | None = None, version: int | None = None, custom: str = "") -> Table:
    fields: dict[int, Field] = {}
    if old is not None:
        fields[0] = struct.pack("<b", old)
    if custom:
        fields[1] = custom
    if version is not None:
        fields[2] = struct.pack("<i", version)
    return Table(fields | {3: struct.pack("<i", builtin)})


def test_a_model_says_operators_with_their_versions() -> None:
    codes = [
        code(0, old=0),
        code(0, version=5),
        code(150, old=127, version=2),
        code(32, custom="Mine"),
        code(0, old=47, version=1),
        code(207),
    ]
    tensors = [Table({1: struct.pack("<b", kind)}) for kind in (0, 9, 9, 99)] + [Table({})]
    root = Table({0: u32(3), 1: codes, 2: [Table({0: tensors}), Table({})], 4: [Table({})]})
    found, notes = read(tflite, built(root))
    assert found == TfliteFacts(
        3,
        operators={"ADD": (1, 5), "GELU": (2,), "CUSTOM:Mine": (1,), "EXP": (1,), "CODE-207": (1,)},
        subgraphs=2,
        tensors={"FLOAT32": 2, "INT8": 2, "type-99": 1},
    )
    assert notes.problems == []


def test_the_oldest_runtime_is_read_from_the_metadata() -> None:
    buffers = [Table({}), Table({0: bytearray(b"1.14.0\0\0\0")})]
    root = Table({0: u32(3), 4: buffers, 6: [Table({0: "min_runtime_version", 1: u32(1)})]})
    found, notes = read(tflite, built(root))
    assert found.min_runtime == "1.14.0"
    start, stop = notes.places["min_runtime"]
    assert built(root)[start:stop].startswith(b"1.14.0")


def test_data_outside_the_flatbuffer_must_lie_in_the_file() -> None:
    def model(offset: int) -> bytes:
        return built(Table({0: u32(3), 4: [Table({1: u64(offset), 2: u64(16)})]})) + bytes(100)

    assert problems(tflite, model(80)) == []
    assert problems(tflite, model(1 << 40)) == [f"buffer 0 ends at byte {(1 << 40) + 16}; the file has {len(model(0))}"]


def test_data_in_other_files_is_named_with_their_length() -> None:
    groups = [Table({0: "a.bin"}), Table({0: "b.bin"})]
    buffers = [Table({1: u32(group), 2: u64(offset), 3: u64(10)}) for group, offset in ((0, 5), (1, 7), (0, 90))]
    assert read(tflite, built(Table({8: groups, 9: buffers})))[0].external == {"a.bin": 100, "b.bin": 17}
    with pytest.raises(MalformedError, match="file 2 of 2"):
        read(tflite, built(Table({8: groups, 9: [Table({1: u32(2)})]})))


# --- any flatbuffer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\0TFL3", "leads to itself"),
        (b"\xff\xff\xff\xffTFL3", "it ends at byte 8"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", 100), "before the file begins"),
        (b"\x08\0\0\0TFL3" + struct.pack("<i", -100), "it ends at byte 12"),
        (b"\x08\0\0\0TFL3" + struct.pack("<iHH", -4, 3, 4), "by too few bytes"),
        (b"\x08\0\0\0TFL3" + struct.pack("<iHH", -4, 4, 0), "by too few bytes"),
        (b"\x08\0\0\0TFL3" + struct.pack("<iHH", -4, 4, 99), "a table ends at byte 107"),
        (b"\x08\0\0\0TFL3" + struct.pack("<iHHH", -4, 6, 8, 6), "lies outside it"),
        (b"\x08\0\0\0TFL3" + struct.pack("<iIHHHHH", -8, 1 << 31, 8, 8, 0, 4, 0), "it ends at byte"),
    ],
)
def test_a_flatbuffer_that_cannot_be_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read(tflite, data)


def test_many_offsets_that_lead_to_the_same_tables_are_not_followed_without_end() -> None:
    """As many subgraphs as there is room for are one and the same, of as many tensors, which are one and the same."""
    count = 1 << 15
    data = bytearray(built(Table({2: []})))
    subgraphs = len(data) - 4
    struct.pack_into("<I", data, subgraphs, count)
    data += bytes(4 * count)
    subgraph = len(data) + 8
    data += struct.pack("<3Hxx", 6, 8, 4) + struct.pack("<iI", 8, 4)
    tensors = len(data)
    data += struct.pack("<I", count) + bytes(4 * count)
    tensor = len(data) + 4
    data += struct.pack("<HHi", 4, 4, 4)
    for number in range(count):
        at = subgraphs + 4 + 4 * number
        struct.pack_into("<I", data, at, subgraph - at)
        at = tensors + 4 + 4 * number
        struct.pack_into("<I", data, at, tensor - at)
    with pytest.raises(MalformedError, match="things to look at"):
        read(tflite, bytes(data))


@given(st.data())
@pytest.mark.parametrize(("module", "name"), [(pte, "tiny_xnnpack.pte"), (tflite, "tiny_add.tflite")])
def test_no_change_is_anything_but_facts_or_malformed(module: Any, name: str, data: st.DataObject) -> None:
    changed = bytearray((MODELS / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MalformedError):
        read(module, bytes(changed))
