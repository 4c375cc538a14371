import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.volume import Codec
from airpack.transport.codec import decode, encode
from airpack.types import Limits

TEXT = b"the quick brown fox " * 500
MAGIC = b"\x28\xb5\x2f\xfd"


def frame(content_size: int, window: int, *blocks: bytes) -> bytes:
    """Return a zstd frame by hand: no single segment, 4 bytes of content size, window of 2**window bytes."""
    return MAGIC + bytes([0x80, (window - 10) << 3]) + struct.pack("<I", content_size) + b"".join(blocks)


def raw_block(data: bytes, *, last: bool) -> bytes:
    return (len(data) << 3 | last).to_bytes(3, "little") + data


def repeat_block(byte: bytes, count: int, *, last: bool) -> bytes:
    return (count << 3 | 1 << 1 | last).to_bytes(3, "little") + byte


@given(st.one_of(st.binary(min_size=1, max_size=2000), st.binary(min_size=1, max_size=9).map(lambda part: part * 99)))
def test_what_is_encoded_is_decoded(raw: bytes) -> None:
    codec, stored = encode(raw)

    assert bytes(decode(codec, stored, len(raw))) == raw
    assert len(stored) <= len(raw)


def test_encoding_is_deterministic_and_declares_its_size() -> None:
    codec, stored = encode(TEXT)
    header = zstandard.get_frame_parameters(stored)

    assert encode(TEXT) == (codec, stored)
    assert codec == Codec.ZSTD
    assert (header.content_size, header.has_checksum, header.dict_id) == (len(TEXT), False, 0)


def test_what_does_not_shrink_below_the_threshold_is_stored_raw() -> None:
    noise = random.Random(1).randbytes(100_000)

    assert encode(noise) == (Codec.RAW, noise)
    assert encode(noise[:99_000] + bytes(1_000))[0] == Codec.RAW
    assert encode(noise[:97_000] + bytes(3_000))[0] == Codec.ZSTD


def test_a_frame_made_by_hand_is_read() -> None:
    stored = frame(5, 20, raw_block(b"ab", last=False), repeat_block(b"c", 3, last=True))

    assert decode(Codec.ZSTD, stored, 5) == b"abccc"


@pytest.mark.parametrize(
    ("stored", "size", "message"),
    [
        (frame(5, 20, raw_block(b"abcde", last=True)), 4, "declares 5 bytes of content, expected 4"),
        (frame(2**32 - 1, 20, raw_block(b"abcde", last=True)), 5, "declares 4294967295 bytes"),
        (frame(5, 20, repeat_block(b"a", 100_000, last=True)), 5, "does not decode"),
        (frame(5, 20, *[repeat_block(b"a", 100_000, last=False)] * 9), 5, "does not decode"),
        (frame(5, 20, raw_block(b"abcd", last=True)), 5, "does not decode"),
        (frame(5, 20, raw_block(b"abcde", last=False)), 5, "does not decode"),
        (frame(5, 27, raw_block(b"abcde", last=True)), 5, "window of 134217728 bytes; at most 67108864"),
        (frame(5, 41, raw_block(b"abcde", last=True)), 5, "window of|header is damaged"),
        (frame(5, 20, raw_block(b"abcde", last=True)) + b"\x00", 5, "does not decode"),
        (frame(5, 20, raw_block(b"abcde", last=True)) * 2, 5, "does not decode"),
        (b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"abcde", 5, "does not hold a zstd frame"),
        (b"abcde", 5, "does not hold a zstd frame"),
        (MAGIC, 5, "header is damaged"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"abcde"), 5, "declares no bytes"),
    ],
    ids=[
        "declares-more",
        "declares-4GiB",
        "bomb-in-one-block",
        "bomb-in-many-blocks",
        "less-than-declared",
        "no-last-block",
        "large-window",
        "huge-window",
        "trailing-byte",
        "second-frame",
        "skippable-frame",
        "not-zstd",
        "only-magic",
        "no-content-size",
    ],
)
def test_a_frame_that_is_not_what_the_table_says_is_refused(stored: bytes, size: int, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        decode(Codec.ZSTD, stored, size)


def test_the_largest_window_is_accepted() -> None:
    assert Limits.WINDOW == 1 << 26
    assert decode(Codec.ZSTD, frame(5, 26, raw_block(b"abcde", last=True)), 5) == b"abcde"


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    dictionary = zstandard.train_dictionary(2000, [f"sample {number} of text".encode() * 9 for number in range(500)])
    stored = zstandard.ZstdCompressor(dict_data=dictionary).compress(TEXT)

    with pytest.raises(IntegrityError, match="dictionary"):
        decode(Codec.ZSTD, stored, len(TEXT))


@pytest.mark.parametrize("size", [4, 6])
def test_a_raw_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError, match=f"decodes to 5 bytes, expected {size}"):
        decode(Codec.RAW, b"abcde", size)


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_arbitrary_bytes_are_decoded_to_the_size_or_refused(tail: bytes, size: int) -> None:
    try:
        data = decode(Codec.ZSTD, MAGIC + tail, size)
    except IntegrityError:
        return
    assert len(data) == size
