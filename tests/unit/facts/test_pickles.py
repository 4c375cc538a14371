"""Pickles, never unpickled: which names they import, held against pickletools, and ways to hide a name."""

import datetime as dt
import io
import pickle
import pickletools
import struct
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.facts.notes import Notes
from airpack.facts.pickles import Scan, read, scan
from airpack.facts.reader import Reader
from airpack.formats.facts import PickleFacts


class Danger:
    """Calls something when it is unpickled; nothing here unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("never",)


def scanned(data: bytes) -> Scan:
    return scan(Reader(io.BytesIO(data), len(data)), 0, len(data))


def names(data: bytes) -> set[str]:
    found = scanned(data)
    assert found.fault is None, found
    return set(found.names)


def by_pickletools(data: bytes) -> set[str]:
    """Return the names as the standard library's own walk gives them; texts of STACK_GLOBAL stand right before it."""
    found, texts, memo = set(), list[str](), list[Any]()
    for op, argument, _ in pickletools.genops(data):
        if op.name in {"GLOBAL", "INST"}:
            found.add(str(argument).replace(" ", "."))
        elif op.name == "STACK_GLOBAL":
            found.add(".".join(texts[-2:]))
        elif op.name == "MEMOIZE":
            memo.append(texts[-1] if texts else None)
        elif op.name in {"BINGET", "LONG_BINGET"} and isinstance(argument, int):
            texts.append(memo[argument] if argument < len(memo) and memo[argument] else "")
        elif "UNICODE" in op.name:
            texts.append(str(argument))
    return found


VALUES = [
    Danger(),
    OrderedDict(a=1),
    [Danger(), Danger(), {"a": Danger()}],
    dt.datetime(2031, 1, 1, tzinfo=dt.UTC),
    {Decimal(1), Fraction(1, 2)},
    np.arange(5),
    np.float32(1),
    np.zeros(2, dtype=[("a", "<f4"), ("b", "O")]),
    Counter("abc"),
    {"deep": [[(1, (2, (3, {"x": {1, 2}})))]] * 3},
    frozenset({1.5, "text", b"bytes", None, True, 1 << 80, -5}),
    bytearray(b"x"),
    "x" * 5000,
    b"x" * 70_000,
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
def test_names_are_those_that_pickletools_shows(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = scanned(data)
    assert found.fault is None
    assert set(found.names) == by_pickletools(data)
    assert (found.pickles, found.end, found.protocol) == (1, len(data), protocol if protocol > 1 else 0)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(PLAIN, st.integers(0, 5))
def test_plain_values_name_what_pickletools_shows(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert names(data) == by_pickletools(data)


def test_a_name_is_where_its_opcode_stands() -> None:
    data = pickle.dumps(Danger(), 2)
    ((name, at),) = scanned(data).names.items()
    assert name == "__builtin__.print"
    assert data[at : at + 1] == b"c"


# --- ways to hide a name ----------------------------------------------------------------------------------------------


def word(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


OS, SYSTEM = word("os"), word("system")
START, CALL = b"\x80\x04", b"\x8c\x02id\x85R."


@pytest.mark.parametrize(
    "body",
    {
        "as written": OS + SYSTEM + b"\x93",
        "remembered": OS + b"\x94" + SYSTEM + b"\x94" + b"00" + b"h\x00h\x01\x93",
        "remembered by a number": OS + b"q\x07" + SYSTEM + b"r\x00\x01\x00\x00" + b"00h\x07j\x00\x01\x00\x00\x93",
        "remembered in text": OS + b"p9\n0" + b"g9\n" + SYSTEM + b"\x93",
        "doubled and dropped": OS + b"20" + SYSTEM + b"20\x93",
        "something between": OS + b"K\x010" + SYSTEM + b"N0\x93",
        "a mark between": OS + b"(K\x011" + SYSTEM + b"\x93",
        "a mark dropped": OS + b"(0" + SYSTEM + b"\x93",
        "a tuple between": OS + b"(N\x850t0" + SYSTEM + b"\x93",
        "other kinds of text": b"X\x02\0\0\0os" + b"\x8d\x06\0\0\0\0\0\0\0system\x93",
        "text of protocol 0": b"Vos\n" + SYSTEM + b"\x93",
        "strings of Python 2": b"U\x02os" + b"S'system'\n\x93",
        "two lines": b"cos\nsystem\n",
        "in a frame": b"\x95\xff\0\0\0\0\0\0\0" + OS + SYSTEM + b"\x93",
    }.values(),
    ids=lambda body: body[:12].hex(),
)
def test_a_name_is_found_however_it_is_put_together(body: bytes) -> None:
    data = START + body + CALL
    assert names(data) == {"os.system"}


@pytest.mark.parametrize("body", [b"(cos\nsystem\n\x8c\x02ido", b"(\x8c\x02idios\nsystem\n"], ids=["OBJ", "INST"])
def test_old_ways_to_call_name_as_well(body: bytes) -> None:
    assert names(START + body + b".") == {"os.system"}


@pytest.mark.parametrize(
    "body",
    {
        "joined by a call": b"cbuiltins\nstr\n" + OS + b"\x85R" + SYSTEM + b"\x93",
        "no text": b"K\x01" + SYSTEM + b"\x93",
        "taken from a list": b"]" + SYSTEM + b"\x93",
        "too long": b"X" + struct.pack("<I", 2000) + b"x" * 2000 + SYSTEM + b"\x93",
        "a line too long": b"c" + b"x" * 5000 + b"\nsystem\n",
    }.values(),
    ids=["joined", "number", "list", "long", "line"],
)
def test_a_name_that_cannot_be_told_is_said_to_be_one(body: bytes) -> None:
    assert "?" in names(START + body + b".")


@pytest.mark.parametrize(("op", "number"), [(b"\x82\x07", 7), (b"\x83\x07\x01", 263), (b"\x84\x07\0\0\0", 7)])
def test_extensions_of_copyreg_are_named(op: bytes, number: int) -> None:
    assert names(START + op + b".") == {f"copyreg.extension.{number}"}


def test_what_a_pickle_names_before_it_breaks_stays_named() -> None:
    found = scanned(START + OS + SYSTEM + b"\x93" + b"\x8c\x02id\x85R" + b"\xff never reached")
    assert set(found.names) == {"os.system"}
    assert found.fault is not None
    assert "0xff is no opcode" in found.fault.reason
    assert found.pickles == 0


def test_a_second_pickle_is_read_as_well_and_what_follows_is_counted() -> None:
    data = pickle.dumps(1, 2) + pickle.dumps(Danger(), 4) + b"storage bytes"
    notes = Notes()
    found = read(Reader(io.BytesIO(data), len(data)), notes)
    assert found == PickleFacts(protocol=4, pickles=2, globals=("builtins.print",), rest=13)
    (code,) = notes.code
    assert (code.names, code.place) == (("builtins.print",), (0, len(data) - 13))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cut off"),
        (b"K", "cut off"),
        (b"G\0\0\0", "cut off"),
        (b"X\xff\xff\xff\xffx", "cut off"),
        (b"\x8e" + b"\xff" * 8, "cut off"),
        (b"cos\nsystem", "does not end"),
        (b"R.", "not there"),
        (b"K\x01(R.", "not there"),
        (b"t.", "not there"),
        (b"1.", "not there"),
        (b"\x94.", "remembers what is not there"),
        (b"(\x94.", "remembers what is not there"),
        (b"h\x00.", "does not remember"),
        (b"K\x01px\n.", "by what is no number"),
        (b"K\x01p+1\n.", "by what is no number"),
        (b"0.", "not there"),
        (b".", "not there"),
        (b"\xff", "no opcode"),
        (b"\x80\x09", "protocol 9"),
    ],
)
def test_what_is_no_pickle_says_why(body: bytes, reason: str) -> None:
    found = scanned(START + body)
    assert found.fault is not None
    assert reason in found.fault.reason
    assert found.fault.at <= len(START + body)
    notes = Notes()
    read(Reader(io.BytesIO(START + body), len(START + body)), notes)
    assert [problem.reason for problem in notes.problems] == [found.fault.reason]


def test_names_without_end_have_a_bound() -> None:
    found = scanned(START + b"".join(b"cm\nn%d\n0" % number for number in range(5000)) + b"N.")
    assert len(found.names) == 4096
    assert found.fault is not None


def test_large_arrays_are_not_read() -> None:
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    stream = Counting(pickle.dumps([bytes(1 << 22), Danger()], 4))
    size = len(stream.getvalue())
    assert set(scan(Reader(stream, size), 0, size).names) == {"builtins.print"}
    assert stream.count < 200_000


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned(body: bytes) -> None:
    for data in (body, START + body):
        found = scanned(data)
        assert 0 <= found.end <= len(data)


@given(st.data())
def test_a_changed_pickle_never_hides_what_pickletools_shows(data: st.DataObject) -> None:
    changed = bytearray(pickle.dumps([Danger(), OrderedDict(a=1)], data.draw(st.sampled_from([0, 2, 3]))))
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        pickletools.dis(bytes(changed), io.StringIO())
        expected = {name.encode("utf-8", "replace") for name in by_pickletools(bytes(changed))}
    except Exception:  # noqa: BLE001, whatever pickletools says of what is none
        return
    found = scanned(bytes(changed))
    if found.fault is None:
        assert {name.replace(" ", ".").encode("utf-8", "replace") for name in found.names} >= expected
