import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.transport.planes import Layout, any_bit, join, split, xor

WIDTHS = {Layout.BF16: 2, Layout.FP16: 2, Layout.FP32: 4}
NOISE = random.Random(3).randbytes(1 << 20)
layouts = pytest.mark.parametrize("layout", list(Layout), ids=lambda layout: layout.name)


def expected(frame: bytes, layout: Layout) -> bytes:
    """Return the planes element by element, as docs/spec/package.md section 4.3 has them."""
    width = WIDTHS[layout]
    elements = [int.from_bytes(frame[at : at + width], "little") for at in range(0, len(frame), width)]
    if layout is Layout.BF16:
        return bytes(e >> 7 & 0xFF for e in elements) + bytes(e >> 15 << 7 | e & 0x7F for e in elements)
    if layout is Layout.FP16:
        return bytes(e >> 8 for e in elements) + bytes(e & 0xFF for e in elements)
    low = b"".join((e & 0xFFFF).to_bytes(2, "little") for e in elements)
    return bytes(e >> 23 & 0xFF for e in elements) + bytes(e >> 31 << 7 | e >> 16 & 0x7F for e in elements) + low


def test_the_example_of_the_specification() -> None:
    assert bytes(split(bytes.fromhex("813f813f"), Layout.BF16)).hex() == "7f7f0101"
    assert bytes(split(bytes.fromhex("81bf813f"), Layout.BF16)).hex() == "7f7f8101"
    assert bytes(split(bytes.fromhex("0102810304058284"), Layout.FP32)).hex() == "0709018201020405"


@pytest.mark.parametrize("layout", [Layout.BF16, Layout.FP16], ids=lambda layout: layout.name)
def test_all_65536_patterns_of_16_bits_come_back(layout: Layout) -> None:
    frame = np.arange(1 << 16, dtype="<u2").tobytes()
    planes = bytes(split(frame, layout))

    assert planes == expected(frame, layout)
    assert bytes(join(planes, layout)) == frame


def test_every_exponent_sign_and_payload_of_fp32_comes_back() -> None:
    high = np.arange(1 << 16, dtype="<u4") << 16  # each exponent, zeros, infinities and both kinds of NaN
    low = np.random.default_rng(1).integers(0, 1 << 16, 1 << 16, dtype="<u4")
    frame = (high | low).astype("<u4").tobytes()
    planes = bytes(split(frame, Layout.FP32))

    assert planes == expected(frame, Layout.FP32)
    assert bytes(join(planes, Layout.FP32)) == frame


@layouts
@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_number_of_whole_elements_comes_back_from_any_place_in_memory(
    layout: Layout, data: bytes, start: int
) -> None:
    view = memoryview(data)[start:]
    frame = view[: len(view) // WIDTHS[layout] * WIDTHS[layout]]
    planes = bytes(split(frame, layout))

    assert planes == expected(bytes(frame), layout)
    assert join(bytearray(planes), layout) == frame


@layouts
@pytest.mark.parametrize("elements", [65535, 65536, 65537, 131072, 200_001])
def test_blocks_make_no_difference(layout: Layout, elements: int) -> None:
    frame = NOISE[: elements * WIDTHS[layout]]

    assert bytes(split(frame, layout)) == expected(frame, layout)
    assert bytes(join(expected(frame, layout), layout)) == frame


@layouts
def test_a_frame_beyond_the_scratch_that_is_kept_comes_back(layout: Layout) -> None:
    frame = NOISE * 2 + NOISE[:8]

    assert bytes(join(bytes(split(frame, layout)), layout)) == frame


def test_what_was_joined_stays_when_the_next_frame_comes() -> None:
    first = join(bytes(split(b"abcd", Layout.BF16)), Layout.BF16)
    join(bytes(split(b"efgh", Layout.BF16)), Layout.BF16)

    assert bytes(first) == b"abcd"


@given(st.binary(max_size=300), st.randoms())
def test_the_difference_to_a_base_gives_the_frame_again(frame: bytes, random: random.Random) -> None:
    base = random.randbytes(len(frame))

    assert xor(xor(frame, base), base) == frame
    assert any_bit(xor(frame, base)) == (frame != base)
    assert not any_bit(xor(frame, frame))


@pytest.mark.parametrize("length", [0, 1, 7, 9])
def test_a_base_of_another_length_is_never_stretched(length: int) -> None:
    with pytest.raises(ValueError, match=f"8 bytes and {length} bytes"):
        xor(bytes(8), bytes(length))
