import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError
from airpack.formats.volume import Codec
from airpack.transport import planes
from airpack.transport.codec import Kind, decode, encode, encode_delta, encode_patch, estimate
from airpack.transport.planes import Layout
from airpack.types import Limits

TEXT = b"the quick brown fox " * 500
MAGIC = b"\x28\xb5\x2f\xfd"
NOISE = random.Random(1).randbytes(300_000)
COMPRESSED = [codec for codec in Codec if codec not in {Codec.RAW, Codec.BASE}]
PLANES = {Kind.BF16: Layout.BF16, Kind.FP16: Layout.FP16, Kind.FP32: Layout.FP32}
ALONE = {
    Kind.PLAIN: Codec.ZSTD,
    Kind.SOLID: Codec.ZSTD,
    Kind.BF16: Codec.BF16,
    Kind.FP16: Codec.FP16,
    Kind.FP32: Codec.FP32,
}
AGAINST = {
    Kind.PLAIN: Codec.XOR,
    Kind.SOLID: Codec.XOR,
    Kind.BF16: Codec.XOR_BF16,
    Kind.FP16: Codec.XOR_FP16,
    Kind.FP32: Codec.XOR_FP32,
}
kinds = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
compressed = pytest.mark.parametrize("codec", COMPRESSED, ids=lambda codec: codec.name)


def weights(kind: Kind, count: int = 100_000) -> bytes:
    """Return Gaussian weights of a kind; of bytes for the others."""
    values = np.random.default_rng(2).standard_normal(count, dtype=np.float32) * np.float32(0.02)
    if kind is Kind.FP32:
        return values.tobytes()
    if kind is Kind.BF16:
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    if kind is Kind.FP16:
        return values.astype(np.float16).tobytes()
    return (values * np.float32(1000)).astype(np.int8).tobytes()


def base_of(codec: Codec, size: int) -> bytes | None:
    """Return a base that goes with a frame of zeros."""
    return (bytes(size) if codec is not Codec.PATCH else bytes(99)) if codec.has_base else None


def frame(content_size: int, window: int, *blocks: bytes) -> bytes:
    """Return a zstd frame by hand: no single segment, 4 bytes of content size, window of 2**window bytes."""
    return MAGIC + bytes([0x80, (window - 10) << 3]) + struct.pack("<I", content_size) + b"".join(blocks)


def raw_block(data: bytes, *, last: bool) -> bytes:
    return (len(data) << 3 | last).to_bytes(3, "little") + data


def repeat_block(byte: bytes, count: int, *, last: bool) -> bytes:
    return (count << 3 | 1 << 1 | last).to_bytes(3, "little") + byte


frames = st.one_of(
    st.binary(max_size=2000),
    st.binary(min_size=1, max_size=9).map(lambda part: part * 99),
    st.integers(1, 70_000).map(lambda size: NOISE[:size]),
    st.integers(1, 70_000).map(lambda size: (TEXT * 9)[:size]),
)


@given(frames, st.sampled_from(Kind))
def test_what_is_encoded_is_decoded(raw: bytes, kind: Kind) -> None:
    codec, stored = encode(raw, kind)

    assert decode(codec, stored, len(raw)) == raw
    assert len(stored) <= len(raw)


@given(frames, st.sampled_from(Kind), st.data())
def test_a_difference_to_any_base_is_decoded_with_it(raw: bytes, kind: Kind, data: st.DataObject) -> None:
    base = bytearray(raw)
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=5)) if raw else ():
        base[at] ^= data.draw(st.integers(0, 255))
    codec, stored = encode_delta(raw, base, kind)

    assert len(stored) <= len(raw)
    assert (codec is Codec.BASE) == (raw == base)
    if codec is not Codec.BASE:
        assert decode(codec, stored, len(raw), base) == raw


@given(frames, frames)
def test_a_patch_to_any_prefix_is_decoded_with_it(raw: bytes, prefix: bytes) -> None:
    codec, stored = encode_patch(raw, prefix)

    assert decode(codec, stored, len(raw), prefix) == raw
    assert len(stored) <= len(raw)


@kinds
@pytest.mark.parametrize("size", [*range(1, 10), 65_535, 65_536, 65_537, 131_071, 131_074, Limits.CHUNK])
def test_frames_of_any_length_come_back(kind: Kind, size: int) -> None:
    raw = (weights(kind, 600_000) * 2)[:size]
    base = bytes(size)
    codec, stored = encode(raw, kind)
    difference, changed = encode_delta(raw, base, kind)

    assert decode(codec, stored, size) == raw
    assert decode(difference, changed, size, base) == raw


@kinds
def test_a_frame_is_coded_by_its_kind_and_smaller_so(kind: Kind) -> None:
    raw = weights(kind)
    base = bytearray(raw)
    base[1000] ^= 1
    codec, stored = encode(raw, kind)
    difference, changed = encode_delta(raw, base, kind)

    assert (codec, difference) == (ALONE[kind], AGAINST[kind])
    if kind in PLANES:
        assert len(stored) < 0.97 * len(encode(raw, Kind.PLAIN)[1])
    assert len(changed) < 100


@pytest.mark.parametrize("kind", list(PLANES), ids=lambda kind: kind.name)
def test_a_frame_that_is_no_whole_number_of_elements_is_coded_plainly(kind: Kind) -> None:
    raw = weights(kind) + b"x"

    assert encode(raw, kind) == encode(raw, Kind.PLAIN)
    assert encode(raw, kind)[0] is Codec.ZSTD
    assert encode_delta(raw, bytes(len(raw)), kind)[0] is Codec.XOR


def test_a_solid_frame_finds_what_lies_far_apart() -> None:
    raw = NOISE + TEXT * 200 + NOISE

    assert len(encode(raw, Kind.SOLID)[1]) < len(NOISE) + 10_000
    assert len(encode(raw, Kind.SOLID)[1]) < len(encode(raw, Kind.PLAIN)[1]) - 250_000


def test_a_patch_finds_what_stands_in_its_prefix() -> None:
    codec, stored = encode_patch(NOISE[1000:100_000], NOISE)

    assert codec is Codec.PATCH
    assert len(stored) < 1000


@kinds
def test_encoding_is_deterministic_and_declares_its_size(kind: Kind) -> None:
    raw, base = weights(kind), bytes(100_000 * 4)
    for codec, stored in (
        encode(raw, kind),
        encode_delta(raw, base[: len(raw)], kind),
        encode_patch(raw, raw[5000:] + b"x"),
    ):
        header = zstandard.get_frame_parameters(stored)
        assert codec is not Codec.RAW
        assert (header.content_size, header.has_checksum, header.dict_id) == (len(raw), False, 0)
    assert encode(raw, kind) == encode(bytearray(raw), kind)
    assert encode_patch(raw, raw[5000:]) == encode_patch(bytearray(raw), memoryview(raw)[5000:])


@kinds
def test_what_does_not_shrink_below_the_threshold_is_stored_raw(kind: Kind) -> None:
    noise = NOISE[:100_000]
    other = random.Random(2).randbytes(100_000)

    assert encode(noise, kind) == (Codec.RAW, noise)
    assert encode(noise, kind)[1] is noise, "no copy"
    assert encode_delta(noise, other, kind) == (Codec.RAW, noise)
    assert encode_patch(noise, other) == (Codec.RAW, noise)
    assert encode(noise[:99_000] + bytes(1_000), Kind.PLAIN)[0] is Codec.RAW
    assert encode(noise[:97_000] + bytes(3_000), Kind.PLAIN)[0] is Codec.ZSTD


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_prefix_too_short_for_a_patch_is_none(length: int) -> None:
    assert encode_patch(TEXT, TEXT[:length]) == (Codec.RAW, TEXT)


def test_an_estimate_is_near_what_remains_and_not_below() -> None:
    mixed = (NOISE[:262_144] + bytes(262_144)) * 8

    assert estimate(b"") == 0
    assert estimate(NOISE) >= len(NOISE)
    assert estimate(bytes(1 << 22)) < 1 << 16
    for raw in (TEXT * 100, mixed):
        assert estimate(raw) >= len(encode(raw, Kind.SOLID)[1])


@pytest.mark.parametrize("kind", list(PLANES), ids=lambda kind: kind.name)
def test_stock_zstd_decodes_a_frame_to_its_planes(kind: Kind, tmp_path: Path) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("no zstd program here: apt-get install zstd")
    raw = weights(kind)
    (tmp_path / "frame.zst").write_bytes(encode(raw, kind)[1])
    found = subprocess.run([program, "-dc", tmp_path / "frame.zst"], capture_output=True, check=True).stdout

    assert found == planes.split(raw, PLANES[kind])


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
@compressed
def test_a_frame_that_is_not_what_the_table_says_is_refused(
    codec: Codec, stored: bytes, size: int, message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        decode(codec, stored, size, base_of(codec, size))


@compressed
def test_the_largest_window_is_accepted(codec: Codec) -> None:
    assert Limits.WINDOW == 1 << 26
    assert decode(codec, frame(8, 26, raw_block(bytes(8), last=True)), 8, base_of(codec, 8)) == bytes(8)


@compressed
def test_a_frame_that_needs_a_dictionary_is_refused(codec: Codec) -> None:
    dictionary = zstandard.train_dictionary(2000, [f"sample {number} of text".encode() * 9 for number in range(500)])
    stored = zstandard.ZstdCompressor(dict_data=dictionary).compress(TEXT)

    with pytest.raises(IntegrityError, match="dictionary"):
        decode(codec, stored, len(TEXT), base_of(codec, len(TEXT)))


def test_a_patch_is_not_read_with_another_prefix_in_place_of_its_own() -> None:
    _, stored = encode_patch(NOISE[1000:100_000], NOISE)

    with pytest.raises(IntegrityError, match="does not decode"):
        decode(Codec.PATCH, stored, 99_000, NOISE[:500])
    assert decode(Codec.PATCH, stored, 99_000, NOISE[::-1]) != NOISE[1000:100_000], "the file's digest finds it"


def test_a_prefix_that_looks_like_a_dictionary_is_bytes_all_the_same() -> None:
    prefix = struct.pack("<II", 0xEC30A437, 77) + NOISE[:5000]
    codec, stored = encode_patch(NOISE[:5000] + b"end", prefix)

    assert zstandard.get_frame_parameters(stored).dict_id == 0
    assert decode(codec, stored, 5003, prefix) == NOISE[:5000] + b"end"


@pytest.mark.parametrize("codec", [codec for codec in Codec if codec.has_base], ids=lambda codec: codec.name)
def test_a_frame_is_not_decoded_without_its_base(codec: Codec) -> None:
    with pytest.raises(ValueError, match="needs its base"):
        decode(codec, encode(bytes(8), Kind.PLAIN)[1], 8)


def test_a_base_of_another_length_is_refused() -> None:
    codec, stored = encode_delta(bytes(8) * 99, bytes(7) * 99 + b"x" * 99, Kind.PLAIN)

    with pytest.raises(ValueError, match="792 bytes and 1 bytes"):
        decode(codec, stored, 792, b"x")


@pytest.mark.parametrize("size", [4, 6])
def test_a_raw_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError, match=f"decodes to 5 bytes, expected {size}"):
        decode(Codec.RAW, b"abcde", size)


@given(st.binary(max_size=200), st.integers(1, 250).map(lambda elements: 4 * elements), st.sampled_from(COMPRESSED))
def test_arbitrary_bytes_are_decoded_to_the_size_or_refused(tail: bytes, size: int, codec: Codec) -> None:
    try:
        data = decode(codec, MAGIC + tail, size, base_of(codec, size))
    except IntegrityError:
        return
    assert len(data) == size


MEASURE = """
import re, sys
from pathlib import Path
from airpack.formats.volume import Codec
from airpack.transport.codec import decode
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) << 10
stored, size = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
decode(Codec.ZSTD, Path(sys.argv[3]).read_bytes(), 8)
before = peak()
decode(Codec[sys.argv[4]], stored, size)
print(peak() - before)
"""


@pytest.mark.parametrize(("kind", "copies"), [(Kind.PLAIN, 1), (Kind.SOLID, 1), (Kind.BF16, 2), (Kind.FP32, 2)])
def test_decoding_takes_the_frame_and_its_planes_and_no_more(kind: Kind, copies: int, tmp_path: Path) -> None:
    raw = (weights(kind, 500_000) * 32)[: 32 << 20]
    raw += bytes((32 << 20) - len(raw))
    codec, stored = encode(raw, kind)
    (tmp_path / "frame").write_bytes(stored)
    (tmp_path / "small").write_bytes(zstandard.compress(bytes(8)))
    paths = [str(tmp_path / "frame"), str(len(raw)), str(tmp_path / "small")]
    words = [sys.executable, "-c", MEASURE, *paths, codec.name]
    taken = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    assert codec is ALONE[kind]
    assert len(raw) <= taken + (1 << 20), "it is measured at all"
    assert taken <= copies * len(raw) + (4 << 20)
