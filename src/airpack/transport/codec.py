"""Frame codecs: what a frame is stored as, and back (docs/spec/package.md section 4.3).

Every codec but `RAW` and `BASE` is one ordinary zstd frame: of the frame itself, of its byte planes, of its difference
to a range of a base file, or with such a range as prefix. Encoding is deterministic for one version of libzstd. A frame
of which more than 0.985 would remain is stored raw: it would cost time at every import and save nothing.

Decoding is bounded by what the signed table says, before libzstd sees a byte of content: one zstd frame and nothing
after it, whose header declares exactly the table's frame size and a window of at most `Limits.WINDOW`. The output
buffer has exactly that size, so a frame that holds more stops at it.

The only home of `zstandard`.
"""

import threading
from enum import Enum, auto
from typing import Final

import zstandard

from airpack.errors import IntegrityError
from airpack.formats.volume import Codec
from airpack.transport import patch, planes
from airpack.transport.planes import Buffer, Layout
from airpack.types import Limits

_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878 section 3.1.1; skippable frames have others
_WORTH = 985  # stored bytes for 1000 raw ones; above, raw is better
_SAMPLE = 4 << 10  # bytes that an estimate looks at
_STEP = 67 << 10  # bytes between samples: with no power of two, not always at the same place of whatever repeats
_LOCAL = threading.local()  # zstandard's contexts serve one thread at a time


class Kind(Enum):
    """What a frame holds, as far as it decides how it is coded."""

    PLAIN = auto()  # anything
    SOLID = auto()  # many files end to end, likely to repeat each other far apart
    BF16 = auto()  # tensors of such elements
    FP16 = auto()
    FP32 = auto()

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return _CODECS[self][0].width


_CODECS: Final = {  # alone, and against a base
    Kind.PLAIN: (Codec.ZSTD, Codec.XOR),
    Kind.SOLID: (Codec.ZSTD, Codec.XOR),
    Kind.BF16: (Codec.BF16, Codec.XOR_BF16),
    Kind.FP16: (Codec.FP16, Codec.XOR_FP16),
    Kind.FP32: (Codec.FP32, Codec.XOR_FP32),
}
_LAYOUTS: Final = {
    Codec.BF16: Layout.BF16,
    Codec.FP16: Layout.FP16,
    Codec.FP32: Layout.FP32,
    Codec.XOR_BF16: Layout.BF16,
    Codec.XOR_FP16: Layout.FP16,
    Codec.XOR_FP32: Layout.FP32,
}
_XOR: Final = {Codec.XOR, Codec.XOR_BF16, Codec.XOR_FP16, Codec.XOR_FP32}


class _Effort(Enum):
    """How libzstd compresses: a level, and what differs from it."""

    _value_: tuple[int, dict[str, int]]

    QUICK = (1, {"window_log": 20})  # higher levels gain nothing on weights, whatever their type
    LONG = (6, {"enable_ldm": True, "window_log": Limits.WINDOW.bit_length() - 1})
    # Match search all but off: false matches of 3 to 6 bytes would push literals out of their Huffman code.
    ENTROPY = (1, {"strategy": 1, "min_match": 7, "hash_log": 6, "chain_log": 6, "window_log": 20})


def encode(raw: Buffer, kind: Kind) -> tuple[Codec, Buffer]:
    """Return the codec and the stored bytes of the frame `raw`; `raw` itself where it is stored raw.

    Args:
        raw: The frame, 1 to `Limits.FRAME` bytes.
        kind: What it holds. A frame that is no whole number of its elements is coded as `PLAIN`.
    """
    codec, _ = _CODECS[_fitting(raw, kind)]
    if kind is not Kind.SOLID:
        return _better(codec, _pack(codec, raw), raw)
    if _is_poor(estimate(raw), raw):
        return Codec.RAW, raw  # to find it out in full would take as much memory again
    return _better(codec, _compress(raw, _Effort.LONG), raw)


def encode_delta(raw: Buffer, base: Buffer, kind: Kind) -> tuple[Codec, Buffer]:
    """Return the codec and the stored bytes of the frame `raw` as its difference to `base`, or raw.

    Where there is no difference that is `Codec.BASE`, and nothing is stored.

    Args:
        raw: The frame, 1 to `Limits.FRAME` bytes.
        base: The range of the base file, as long as the frame.
        kind: As for `encode`.
    """
    _, codec = _CODECS[_fitting(raw, kind)]
    difference = planes.xor(raw, base)
    return _better(codec, _pack(codec, difference), raw) if planes.any_bit(difference) else (Codec.BASE, b"")


def encode_patch(raw: Buffer, prefix: Buffer) -> tuple[Codec, Buffer]:
    """Return the codec and the stored bytes of the frame `raw` as a patch to `prefix`, or raw.

    Args:
        raw: The frame, 1 to `Limits.FRAME` bytes.
        prefix: The range of the base file.
    """
    if len(prefix) < patch.SHORTEST:
        return Codec.RAW, raw
    return _better(Codec.PATCH, patch.compress(raw, prefix), raw)


def estimate(raw: Buffer) -> int:
    """Return about how many bytes would remain of `raw`, from samples: rather too many than too few."""
    view = memoryview(raw)
    samples = b"".join(view[at : at + _SAMPLE] for at in range(0, len(raw), _STEP))
    return len(_compress(samples, _Effort.QUICK)) * len(raw) // len(samples) if samples else 0


def decode(codec: Codec, stored: Buffer, size: int, base: Buffer | None = None) -> Buffer:
    """Return the frame of exactly `size` bytes in `stored`, whose digest has been checked.

    Beside the frame, at most `size` bytes are allocated on the way, and a copy of the prefix of a patch.

    Args:
        codec: Any but `Codec.BASE`, whose frames are no stored bytes.
        stored: All chunks of the frame, end to end.
        size: The frame's length in bytes, at most `Limits.FRAME`, a multiple of `codec.width`.
        base: For codecs that have one, the range of the base file: `size` bytes, or the prefix of a patch.

    Raises:
        IntegrityError: `stored` is not one frame of exactly `size` bytes with a bounded window.
        ValueError: No base, or one of another length, where the codec is a difference to it.
    """
    if codec.has_base and base is None:
        raise ValueError(f"a frame of {codec!r} needs its base")
    if codec is Codec.RAW:
        _check_size(stored, size)
        return stored
    _check_header(stored, size)
    frame: Buffer = _decompress(stored, base if codec is Codec.PATCH else None)
    _check_size(frame, size)
    if codec in _LAYOUTS:
        frame = planes.join(frame, _LAYOUTS[codec])
    if codec in _XOR and base is not None:
        frame = planes.xor(frame, base)
    return frame


def _fitting(raw: Buffer, kind: Kind) -> Kind:
    """Return `kind`, or what else a frame of that many bytes can be."""
    return Kind.PLAIN if len(raw) % kind.width else kind


def _pack(codec: Codec, content: Buffer) -> bytes:
    layout = _LAYOUTS.get(codec)
    if layout is None:
        return _compress(content, _Effort.QUICK)
    return _compress(planes.split(content, layout), _Effort.ENTROPY)


def _better(codec: Codec, packed: bytes, raw: Buffer) -> tuple[Codec, Buffer]:
    return (Codec.RAW, raw) if _is_poor(len(packed), raw) else (codec, packed)


def _is_poor(packed: int, raw: Buffer) -> bool:
    return packed * 1000 > len(raw) * _WORTH


def _compress(content: Buffer, effort: _Effort) -> bytes:
    compressor: zstandard.ZstdCompressor | None = getattr(_LOCAL, effort.name, None)
    if compressor is None:
        level, differences = effort.value
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, **differences, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        setattr(_LOCAL, effort.name, compressor)
    return compressor.compress(content)


def _check_size(frame: Buffer, size: int) -> None:
    if len(frame) != size:
        raise IntegrityError(f"the frame decodes to {len(frame)} bytes, expected {size}")


def _check_header(stored: Buffer, size: int) -> None:
    """Refuse a zstd frame by its header (RFC 8878 section 3.1.1.1)."""
    if stored[:4] != _MAGIC:
        raise IntegrityError("the chunk does not hold a zstd frame")
    try:
        header = zstandard.get_frame_parameters(stored)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the zstd frame header is damaged: {error}") from error
    if header.content_size != size:
        declared = "no" if header.content_size == zstandard.CONTENTSIZE_UNKNOWN else str(header.content_size)
        raise IntegrityError(f"the zstd frame declares {declared} bytes of content, expected {size}")
    if header.window_size > Limits.WINDOW:
        raise IntegrityError(f"the zstd frame needs a window of {header.window_size} bytes; at most {Limits.WINDOW}")
    if header.dict_id:
        raise IntegrityError(f"the zstd frame needs dictionary {header.dict_id}; frames stand alone")


def _decompress(stored: Buffer, prefix: Buffer | None) -> bytes:
    try:
        return _decompressor(prefix).decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the zstd frame does not decode: {error}") from error


def _decompressor(prefix: Buffer | None) -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor, or a new one for a patch: to it, a prefix is a dictionary without a header."""
    if prefix is not None:
        dictionary = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=Limits.WINDOW)
    if not hasattr(_LOCAL, "decompressor"):
        _LOCAL.decompressor = zstandard.ZstdDecompressor(max_window_size=Limits.WINDOW)
    decompressor: zstandard.ZstdDecompressor = _LOCAL.decompressor
    return decompressor
