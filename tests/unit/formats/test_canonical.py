import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.canonical import emit, parse, parse_canonical
from airpack.types import Limits

WHAT = "document"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LARGEST = 2**53 - 1
numbers = st.integers(-LARGEST, LARGEST) | st.floats(-LARGEST, LARGEST)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(texts, values, max_size=5)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + closing * depth).encode()


class TestRoundTrip:
    @given(values)
    def test_what_is_written_reads_back(self, value: Any) -> None:
        assert parse(emit(value), what=WHAT) == value

    @given(objects)
    def test_an_object_has_one_form(self, value: dict[str, Any]) -> None:
        data = emit(value)
        read = parse_canonical(data, what=WHAT)
        assert read == value
        assert emit(read) == data

    @given(objects)
    def test_the_order_of_keys_does_not_matter(self, value: dict[str, Any]) -> None:
        assert emit(dict(reversed(value.items()))) == emit(value)

    def test_is_that_of_rfc_8785(self) -> None:
        """The sample of its section 3.2.2 to 3.2.3."""
        value = {
            "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": '\u20ac$\u000f\nA\'B"\\\\"/',
            "literals": [None, True, False],
        }
        assert emit(value) == (
            b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        )

    def test_keys_are_ordered_by_utf_16_units(self) -> None:
        assert emit({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: 2}, "\ud800", object()])
    def test_a_value_without_a_form_is_a_callers_bug(self, value: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011, what the library says is its own affair
            emit(value)


class TestStrictness:
    @pytest.mark.parametrize(
        "data",
        [
            b'{"a":1,"a":1}',
            b'{"a":1,"\\u0061":2}',
            b'[{"x":{"a":1,"b":2,"a":1}}]',
            b"NaN",
            b"[Infinity]",
            b"[-Infinity]",
            b"1e999",
            b"[-1e400]",
            b'"\\ud800"',
            b'{"\\udfff":1}',
            b'["\\ude00\\ud83d"]',
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b"\xef\xbb\xbf{}",
            b'{"a":1}'.decode().encode("utf-16"),
            b"",
            b" ",
            b"{}{}",
            b"{} x",
            b"[1,]",
            b"{'a':1}",
            b"01",
            b"+1",
            b".5",
            b"1.",
            b"0x10",
            b'"\t"',
            b'"\\x41"',
            b"// comment\n1",
            b"\x00",
            b"[" + b"1" * 5000 + b"]",
        ],
    )
    def test_what_parsers_disagree_on_is_refused(self, data: bytes) -> None:
        with pytest.raises(IntegrityError, match=r"^document is not strict JSON: "):
            parse(data, what=WHAT)

    def test_a_pair_of_surrogates_is_one_character(self) -> None:
        assert parse(b'"\\ud83d\\ude00"', what=WHAT) == "\U0001f600"

    @given(st.binary(max_size=80) | st.text('[]{}",:\\u0123456789eE+-.ntrfals d8', max_size=60).map(str.encode))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """Whatever is accepted, the standard library reads alike."""
        try:
            value = parse(data, what=WHAT)
        except IntegrityError:
            return
        assert value == json.loads(data)

    @given(objects, st.data())
    def test_a_changed_byte_never_reads_as_the_same(self, value: dict[str, Any], data: st.DataObject) -> None:
        good = emit(value)
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
        try:
            assert emit(parse_canonical(bad, what=WHAT)) == bad
        except IntegrityError:
            return


class TestSize:
    def test_the_limit_itself_is_read(self) -> None:
        assert parse(b"[1]", what=WHAT, limit=3) == [1]

    def test_one_byte_more_is_refused_before_it_is_looked_at(self) -> None:
        with pytest.raises(IntegrityError, match="has 4 bytes; at most 3 are read"):
            parse(b"\xff\xff\xff\xff", what=WHAT, limit=3)


class TestDepth:
    @pytest.mark.parametrize("data", [nested(Limits.JSON_DEPTH), nested(Limits.JSON_DEPTH // 2, '{"a":[', "]}")])
    def test_the_limit_itself_is_read(self, data: bytes) -> None:
        assert parse(data, what=WHAT) == json.loads(data)

    @pytest.mark.parametrize(
        "data",
        [
            nested(Limits.JSON_DEPTH + 1),
            nested(100_000),
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'["]","[",' * (Limits.JSON_DEPTH + 1),
            b'["\\"]",' * (Limits.JSON_DEPTH + 1),
            b'["\\\\",' * (Limits.JSON_DEPTH + 1),
        ],
    )
    def test_more_is_refused_by_name_of_the_rule(self, data: bytes) -> None:
        with pytest.raises(IntegrityError, match=f"nested deeper than {Limits.JSON_DEPTH} levels"):
            parse(data, what=WHAT)

    @pytest.mark.parametrize("text", ["[" * 100, "]" * 100, '"[' * 50, "\\" * 99 + '"[{' * 40])
    def test_brackets_in_strings_do_not_count(self, text: str) -> None:
        assert parse(json.dumps([text, {text: text}]).encode(), what=WHAT) == [text, {text: text}]

    @pytest.mark.parametrize("data", [b'"' + b"[" * 100_000, b'["a", "' + b"{" * 100_000, b'"\\' + b"[" * 100_000])
    def test_a_string_that_does_not_end_is_not_json(self, data: bytes) -> None:
        with pytest.raises(IntegrityError, match="is not strict JSON"):
            parse(data, what=WHAT)

    @pytest.mark.parametrize("unit", [b'\\"', b'\\"[', b"\\\\", b'"\\', b'"a\\"'])
    def test_takes_linear_work_for_strings_that_do_not_end(self, unit: bytes) -> None:
        """With work that grows with the square, this would take hours."""
        with pytest.raises(IntegrityError):
            parse(b'"' + unit * 500_000, what=WHAT)


class TestValues:
    @pytest.mark.parametrize("item", [b"0", b'""', b"1e-7", b'"a,b"'])
    def test_as_many_as_are_read_are_read(self, item: bytes) -> None:
        many = b"[" + b",".join([item] * Limits.JSON_VALUES) + b"]"
        assert len(parse(many, what=WHAT, limit=len(many))) == Limits.JSON_VALUES

    @pytest.mark.parametrize("item", [b"0", b'""', b"{}", b'{"a":0}', b"[0,0]"])
    def test_more_cost_no_memory(self, item: bytes) -> None:
        many = b"[" + b",".join([item] * (Limits.JSON_VALUES + 1)) + b"]"
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError, match=r"values|lists and objects"):
                parse(many, what=WHAT, limit=len(many))
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()

    def test_commas_in_strings_do_not_count(self) -> None:
        text = "," * (Limits.JSON_VALUES + 1)
        assert parse(json.dumps([text]).encode(), what=WHAT) == [text]


class TestCanonical:
    @pytest.mark.parametrize(
        "data",
        [
            b'{"a": 1}',
            b'{"a":1}\n',
            b' {"a":1}',
            b'{"b":1,"a":2}',
            b'{"a":1.0}',
            b'{"a":1e0}',
            b'{"a":-0}',
            b'{"a":-0.0}',
            b'{"a":10E1}',
            b'{"a":"\\u0061"}',
            b'{"a":"\\/"}',
            b'{"a":"\\u00e9"}',
            b'{"a":0.10}',
        ],
    )
    def test_another_spelling_is_refused(self, data: bytes) -> None:
        assert parse(data, what=WHAT)
        with pytest.raises(IntegrityError, match="not canonical JSON"):
            parse_canonical(data, what=WHAT)

    def test_a_number_that_not_every_reader_holds_is_refused(self) -> None:
        with pytest.raises(IntegrityError, match="no canonical form"):
            parse_canonical(b'{"a":9007199254740992}', what=WHAT)

    @pytest.mark.parametrize("data", [b"[]", b'"a"', b"1", b"null", b"true"])
    def test_only_an_object_is_a_document(self, data: bytes) -> None:
        with pytest.raises(IntegrityError, match="not a JSON object"):
            parse_canonical(data, what=WHAT)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        try:
            value = parse_canonical(data, what=WHAT)
        except IntegrityError:
            return
        assert emit(value) == data
