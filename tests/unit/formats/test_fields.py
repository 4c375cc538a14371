import base64
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import AirpackError, InputError, IntegrityError
from airpack.formats.fields import Fields
from airpack.types import Digest

Read = Callable[[Fields], Any]
SHA = "sha256:" + "0" * 64


def fields(**value: Any) -> Fields:
    return Fields(value, what="policy.json")


class TestTable:
    @pytest.mark.parametrize("value", [None, [], "text", 1, True])
    def test_only_a_table_is_one(self, value: Any) -> None:
        with pytest.raises(IntegrityError, match=r"^policy\.json is not a table"):
            Fields(value, what="policy.json")

    @pytest.mark.parametrize("kind", [IntegrityError, InputError])
    def test_every_fault_is_of_the_given_class(self, kind: type[AirpackError]) -> None:
        reads: list[Read] = [lambda f: f.text("a"), lambda f: f.table("b").text("x"), lambda f: f.done()]
        for read in reads:
            with pytest.raises(kind):
                read(Fields({"b": {"x": 1}}, what="x", error=kind))

    def test_knows_what_it_holds(self) -> None:
        assert "a" in fields(a=1)
        assert "b" not in fields(a=1)

    def test_nested_tables_say_where_they_stand(self) -> None:
        outer = fields(a={"b": [{"c": 1}]})
        with pytest.raises(IntegrityError, match=r"^policy\.json a b\[0\]: 'c' must be a string"):
            outer.table("a").tables("b", most=1)[0].text("c")


@pytest.mark.parametrize(
    ("value", "read", "expected"),
    [
        ("x", lambda f: f.text("k"), "x"),
        ("x", lambda f: f.text("k", choices=("x", "y")), "x"),
        (0, lambda f: f.integer("k"), 0),
        (2**53 - 1, lambda f: f.integer("k"), 2**53 - 1),
        (7, lambda f: f.integer("k", low=7, high=7), 7),
        (1, lambda f: f.number("k"), 1.0),
        (0.5, lambda f: f.number("k", low=0.5, high=0.5), 0.5),
        (False, lambda f: f.flag("k"), False),
        (SHA, lambda f: f.digest("k"), Digest(SHA)),
        ("AQI=", lambda f: f.base64("k"), b"\x01\x02"),
        ({"a": 1}, lambda f: f.mapping("k"), {"a": 1}),
        ([1, "a"], lambda f: f.items("k", most=2), [1, "a"]),
        (["a", ""], lambda f: f.texts("k", most=2), ["a", ""]),
    ],
)
def test_a_field_of_its_kind_is_returned(value: Any, read: Read, expected: Any) -> None:
    table = fields(k=value)
    assert read(table) == expected
    table.done()


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        (1, lambda f: f.text("k"), "must be a string, found 1"),
        (None, lambda f: f.text("k"), "must be a string"),
        ("x" * 4097, lambda f: f.text("k"), "longer than 4096"),
        ("z", lambda f: f.text("k", choices=("x", "y")), "must be one of x, y; found 'z'"),
        (True, lambda f: f.integer("k"), "must be a whole number, found True"),
        (1.0, lambda f: f.integer("k"), "must be a whole number"),
        ("1", lambda f: f.integer("k"), "must be a whole number, found '1'"),
        (-1, lambda f: f.integer("k"), "must be from 0 to"),
        (2**53, lambda f: f.integer("k"), "must be from 0 to 9007199254740991"),
        (True, lambda f: f.number("k"), "must be a number"),
        (float("nan"), lambda f: f.number("k"), "must be from"),
        (float("inf"), lambda f: f.number("k"), "must be from"),
        (1.01, lambda f: f.number("k", high=1.0), "must be from 0.0 to 1.0, found 1.01"),
        (1, lambda f: f.flag("k"), "must be true or false"),
        ("sha256:0", lambda f: f.digest("k"), "'k': not a digest"),
        (1, lambda f: f.digest("k"), "must be a string"),
        ({}, lambda f: f.items("k", most=1), "must be a list, found a table"),
        ([1, 2], lambda f: f.items("k", most=1), "has 2 items; at most 1"),
        (["a", 1], lambda f: f.texts("k", most=2), "strings of at most"),
        (["a" * 4097], lambda f: f.texts("k", most=2), "strings of at most"),
        ([1], lambda f: f.tables("k", most=2), "is not a table"),
        ([], lambda f: f.table("k"), "must be a table, found a list"),
        ("airpack.x/2", lambda f: f.text("k", choices=("airpack.x/1",)), "must be one of"),
    ],
)
def test_a_field_of_another_kind_or_out_of_bounds_is_refused(value: Any, read: Read, message: str) -> None:
    with pytest.raises(IntegrityError, match=r"^policy\.json") as caught:
        read(fields(k=value))
    assert message in caught.value.message


@pytest.mark.parametrize("read", [lambda f: f.integer("k"), lambda f: f.number("k"), lambda f: f.text("k")])
@pytest.mark.parametrize("value", [10**400, 1 << 40_000, -(1 << 40_000)], ids=["400 digits", "12000 digits", "below"])
def test_numbers_too_large_for_a_float_or_for_text_are_refused_as_any_other(read: Read, value: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(fields(k=value))
    assert len(caught.value.message) < 300


class TestDefault:
    @pytest.mark.parametrize(
        ("read", "expected"),
        [
            (lambda f: f.text("k", ""), ""),
            (lambda f: f.integer("k", 3), 3),
            (lambda f: f.number("k", 0.5), 0.5),
            (lambda f: f.flag("k", default=True), True),
            (lambda f: f.mapping("k", {}), {}),
            (lambda f: f.items("k", most=1, default=[]), []),
            (lambda f: f.tables("k", most=1, default=[]), []),
        ],
    )
    def test_stands_in_for_what_is_missing(self, read: Read, expected: Any) -> None:
        assert read(fields()) == expected

    @pytest.mark.parametrize(
        "read",
        [
            lambda f: f.text("key"),
            lambda f: f.integer("key"),
            lambda f: f.number("key"),
            lambda f: f.flag("key"),
            lambda f: f.digest("key"),
            lambda f: f.base64("key"),
            lambda f: f.table("key"),
            lambda f: f.mapping("key"),
            lambda f: f.items("key", most=1),
            lambda f: f.tables("key", most=1),
        ],
    )
    def test_without_one_a_field_is_needed(self, read: Read) -> None:
        with pytest.raises(IntegrityError, match="'key' is missing"):
            read(fields())

    def test_a_missing_key_is_told_from_a_misspelt_one(self) -> None:
        with pytest.raises(IntegrityError, match="'threshold' is missing") as caught:
            fields(treshold=1).integer("threshold")
        assert caught.value.hint == "did you mean 'threshold' by 'treshold'?"


class TestUnknown:
    def test_keys_that_nobody_reads_are_refused_with_the_nearest_known_one(self) -> None:
        table = fields(channel="main", threshhold=1)
        table.text("channel")
        table.integer("threshold", 1)
        with pytest.raises(IntegrityError, match="unknown key 'threshhold'") as caught:
            table.done()
        assert caught.value.hint == "did you mean 'threshold'?"

    def test_keys_that_resemble_nothing_bring_all_known_ones(self) -> None:
        table = fields(zzz=1)
        table.text("b", "")
        table.text("a", "")
        with pytest.raises(IntegrityError) as caught:
            table.done()
        assert caught.value.hint == "known here: a, b"

    def test_a_key_of_millions_of_characters_costs_no_more_memory_for_a_hint(self) -> None:
        hostile = fields(**{"a" * 4_000_000: 1})
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError, match="unknown key"):
                hostile.done()
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_among_keys_without_number_no_near_one_is_looked_for(self) -> None:
        hostile = fields(**{f"treshold{number}": 1 for number in range(1000)})
        with pytest.raises(IntegrityError, match="'threshold' is missing") as caught:
            hostile.integer("threshold")
        assert caught.value.hint == ""

    def test_control_characters_of_a_key_do_not_reach_the_terminal(self) -> None:
        table = fields(**{"\x1b[2J": 1})
        with pytest.raises(IntegrityError) as caught:
            table.done()
        assert caught.value.message.isprintable()


class TestBase64:
    @given(st.binary())
    def test_reads_what_is_written(self, data: bytes) -> None:
        assert fields(k=base64.b64encode(data).decode()).base64("k") == data

    @pytest.mark.parametrize("text", ["A", "AQI", "AQJ=", "AQI=\n", "A QI=", "AQI==", "=", "_-8=", "é", "AQI=AQI="])
    def test_has_one_spelling(self, text: str) -> None:
        with pytest.raises(IntegrityError, match="is not base64"):
            fields(k=text).base64("k")

    def test_may_be_longer_than_a_text_field(self) -> None:
        assert len(fields(k=base64.b64encode(bytes(100_000)).decode()).base64("k")) == 100_000


class TestSchema:
    def test_the_expected_one_is_read(self) -> None:
        table = fields(schema="airpack.x/1")
        table.schema("airpack.x/1")
        table.done()

    def test_another_one_is_refused_with_both_named(self) -> None:
        with pytest.raises(
            IntegrityError, match=r"schema is 'airpack\.x/2'; this airpack reads 'airpack\.x/1'"
        ) as caught:
            fields(schema="airpack.x/2").schema("airpack.x/1")
        assert "airpack --version" in caught.value.hint


class TestToml:
    def test_is_read_as_a_table(self) -> None:
        table = Fields.from_toml(b'a = "b"\n[c]\nd = 1\n', what="x.toml", error=InputError)
        assert (table.text("a"), table.table("c").integer("d")) == ("b", 1)

    @pytest.mark.parametrize(
        "data",
        [b"a =", b"a = 1\na = 2", b"\xff", b"a = " + b"1" * 5000, b"a = " + b"[" * 5000, b"[a]\n[a]"],
        ids=["cut", "twice", "not UTF-8", "5000 digits", "5000 brackets", "table twice"],
    )
    def test_what_is_not_toml_is_of_the_given_class(self, data: bytes) -> None:
        with pytest.raises(InputError, match=r"^x\.toml is not TOML: "):
            Fields.from_toml(data, what="x.toml", error=InputError)
