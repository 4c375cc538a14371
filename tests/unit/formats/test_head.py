import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import AirpackError, IntegrityError
from airpack.formats import canonical
from airpack.formats.head import Head, emit, parse
from airpack.types import Digest, Limits

SCHEMA = json.loads((Path(__file__).parents[3] / "manifests/schemas/head.schema.json").read_text())
BLOBS = (b'{"schemaVersion":2}', b"config", b"")
SMALL = Head(
    metadata={"1.root.json": b"root", "timestamp.json": b"now"},
    targets={"policy.json": b"{}"},
    package=b'{"payload":"AA==","payloadType":"t","signatures":[]}',
    blobs={Digest.of(blob): blob for blob in BLOBS},
)

names = st.from_regex(r"[A-Za-z0-9@_-][A-Za-z0-9._@-]{0,20}", fullmatch=True)
metadata = st.dictionaries(names.map(lambda name: name + ".json"), st.binary(max_size=40), max_size=5)
heads = st.builds(
    Head,
    metadata=metadata,
    targets=st.dictionaries(names, st.binary(max_size=40), max_size=5),
    package=st.dictionaries(st.text("abc"), st.text("abc"), max_size=3).map(canonical.emit),
    blobs=st.lists(st.binary(max_size=60), max_size=5).map(lambda blobs: {Digest.of(blob): blob for blob in blobs}),
)


def document() -> Any:
    """Return SMALL's JSON, to be made wrong."""
    return json.loads(emit(SMALL).split(b"\n")[0])


def closed(body: bytes) -> bytes:
    """Return `body` as a head file with a right checksum line: what a forger, unlike an accident, would make."""
    return body + b"\n" + str(Digest.of(body + b"\n")).encode() + b"\n"


@given(heads)
def test_what_is_emitted_is_read_back(head: Head) -> None:
    data = emit(head)

    assert parse(data) == head
    assert emit(parse(data)) == data
    jsonschema.validate(json.loads(data.split(b"\n")[0]), SCHEMA)


def test_the_last_line_is_the_checksum_of_all_before_it() -> None:
    first, last, rest = emit(SMALL).split(b"\n")

    assert last == str(Digest.of(first + b"\n")).encode()
    assert rest == b""


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_any_changed_byte_is_refused(flip: int) -> None:
    data = emit(SMALL)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= flip
        with pytest.raises(AirpackError):
            parse(bytes(changed))


def test_a_head_cut_anywhere_is_refused() -> None:
    data = emit(SMALL)
    for length in range(len(data)):
        with pytest.raises(IntegrityError, match=r"damaged|no checksum line"):
            parse(data[:length])


@pytest.mark.parametrize("more", [b"\n", b" ", b"\x00", b"x", b"sha256:" + b"0" * 64 + b"\n"])
def test_anything_after_the_checksum_line_is_refused(more: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse(emit(SMALL) + more)


def test_windows_line_ends_are_refused() -> None:
    with pytest.raises(IntegrityError):
        parse(emit(SMALL).replace(b"\n", b"\r\n"))
    body = emit(SMALL).split(b"\n")[0]
    with pytest.raises(IntegrityError):
        parse(closed(body + b"\r"))


def test_a_second_checksum_line_is_refused() -> None:
    with pytest.raises(IntegrityError):
        parse(closed(emit(SMALL)[:-1]))


def test_damage_is_named_with_the_place_of_the_checksum() -> None:
    data = bytearray(emit(SMALL))
    data[3] ^= 1

    with pytest.raises(IntegrityError, match=f"damaged: bytes 0 to {len(data) - 72} ") as caught:
        parse(bytes(data))

    assert caught.value.context == {"offset": len(data) - 72}
    assert "copy it again" in caught.value.hint


def test_an_oversized_head_is_refused_before_anything_else() -> None:
    with pytest.raises(IntegrityError, match=f"at most {Limits.HEAD}"):
        parse(b"x" * (Limits.HEAD + 1))


def test_a_head_that_could_not_be_read_is_not_written() -> None:
    blobs = [bytes([number]) * Limits.MANIFEST for number in range(4)]

    with pytest.raises(IntegrityError, match="would have"):
        emit(Head({}, {}, b"{}", {Digest.of(blob): blob for blob in blobs}))


def _set(*path: str | int) -> Callable[[Any, Any], None]:
    def apply(value: Any, new: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = new

    return apply


@pytest.mark.parametrize(
    ("apply", "value", "message"),
    [
        (_set("schema"), "airpack.head/2", "schema is 'airpack.head/2'"),
        (_set("extra"), 1, "unknown key 'extra'"),
        (_set("trust", "extra"), 1, "unknown key 'extra'"),
        (_set("package"), [], "'package' must be a table"),
        (_set("blobs"), {}, "'blobs' must be a list"),
        (_set("blobs", 0), 7, "must be base64 text"),
        (_set("blobs", 0), "QQ", "not base64"),
        (_set("blobs", 0), "QR==", "canonical spelling"),
        (_set("trust", "metadata", "root.txt"), "", "odd name: 'root.txt'"),
        (_set("trust", "metadata", "../1.root.json"), "", "odd name"),
        (_set("trust", "metadata", "a" * 196 + ".json"), "", "odd name"),
        (_set("trust", "metadata", "1.root.json\n"), "", "odd name"),
        (_set("trust", "metadata", "1.root.json"), None, "must be base64 text"),
        (_set("trust", "targets", ".."), "", "odd name"),
        (_set("trust", "targets", "a/b"), "", "odd name"),
        (_set("trust", "targets", ""), "", "odd name"),
        (_set("trust", "metadata"), {f"{n}.json": "" for n in range(321)}, "has 321 files"),
        (_set("trust", "targets"), {f"{n}.json": "" for n in range(65)}, "has 65 files"),
        (_set("blobs"), [""] * (Limits.BLOBS + 1), "items; at most"),
    ],
)
def test_a_field_out_of_bounds_is_refused_though_the_checksum_holds(
    apply: Callable[[Any, Any], None], value: Any, message: str
) -> None:
    wrong = document()
    apply(wrong, value)

    with pytest.raises(IntegrityError, match=message):
        parse(closed(canonical.emit(wrong)))


@pytest.mark.parametrize("key", ["schema", "trust", "package", "blobs"])
def test_a_missing_field_is_refused(key: str) -> None:
    wrong = document()
    del wrong[key]

    with pytest.raises(IntegrityError, match=f"'{key}' is missing"):
        parse(closed(canonical.emit(wrong)))


def test_blobs_out_of_order_or_twice_are_refused() -> None:
    for reorder in (lambda blobs: blobs[::-1], lambda blobs: [blobs[0], *blobs]):
        wrong = document()
        wrong["blobs"] = reorder(wrong["blobs"])
        with pytest.raises(IntegrityError, match="order of their digests, each once"):
            parse(closed(canonical.emit(wrong)))


def test_a_blob_larger_than_a_manifest_may_be_is_refused() -> None:
    wrong = document()
    wrong["blobs"] = [base64.b64encode(bytes(Limits.MANIFEST + 1)).decode()]

    with pytest.raises(IntegrityError, match="'blobs\\[0\\]' has 4194305 bytes"):
        parse(closed(canonical.emit(wrong)))


@pytest.mark.parametrize(
    "spell",
    [
        lambda body: b" " + body,
        lambda body: body.replace(b":", b": ", 1),
        lambda body: body.replace(b'{"blobs"', b'{"blobs":[],"blobs"', 1),
        lambda body: body.replace(b'"now"', b"NaN").replace(b'"payload":"AA=="', b'"payload":NaN'),
        lambda body: body.replace(b'"payload":"AA=="', b'"payload":' + b"[" * 40 + b"]" * 40),
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: b"[" + body + b"]",
    ],
    ids=["space-before", "space-inside", "duplicate-key", "nan", "deep", "byte-order-mark", "array"],
)
def test_another_spelling_of_json_is_refused_though_the_checksum_holds(spell: Callable[[bytes], bytes]) -> None:
    body = emit(SMALL).split(b"\n")[0]
    assert spell(body) != body

    with pytest.raises(IntegrityError):
        parse(closed(spell(body)))
