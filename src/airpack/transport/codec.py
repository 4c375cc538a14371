"""Frame codecs: `raw` and `zstd`.

Encoding is deterministic for one version of libzstd: level 3, content size written, no checksum, no dictionary. A
frame that zstd does not bring to 0.985 of itself is stored raw: it would cost time at every import and save nothing.

Decoding is bounded by what the signed table says, before libzstd sees a byte of content: one zstd frame and nothing
after it, whose header declares exactly the table's frame size and a window of at most `Limits.WINDOW`. The output
buffer has exactly that size, so a frame that holds more stops at it.

The only home of `zstandard`.
"""

import threading
from typing import Final

import zstandard

from airpack.errors import IntegrityError
from airpack.formats.volume import Codec
from airpack.types import Limits

LEVEL: Final = 3

_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878 section 3.1.1; skippable frames have others
_WORTH = 985  # stored bytes for 1000 raw ones; above, raw is better
_LOCAL = threading.local()  # zstandard's contexts serve one thread at a time


def encode(raw: bytes) -> tuple[Codec, bytes]:
    """Return the codec and the stored bytes of the frame `raw`.

    Args:
        raw: The frame, 1 to `Limits.CHUNK` bytes.
    """
    packed = _compressor().compress(raw)
    if len(packed) * 1000 > len(raw) * _WORTH:
        return Codec.RAW, raw
    return Codec.ZSTD, packed


def decode(codec: Codec, stored: bytes | bytearray, size: int) -> bytes | bytearray:
    """Return the frame of exactly `size` bytes in `stored`, whose digest has been checked.

    Args:
        codec: `Codec.RAW` or `Codec.ZSTD`.
        stored: All chunks of the frame, end to end.
        size: The frame's length in bytes, at most `Limits.FRAME`.

    Raises:
        IntegrityError: `stored` is not one frame of exactly `size` bytes with a bounded window.
    """
    if codec is Codec.RAW:
        data: bytes | bytearray = stored
    else:
        _check_zstd(stored, size)
        data = _decompress(stored)
    if len(data) != size:
        raise IntegrityError(f"the frame decodes to {len(data)} bytes, expected {size}")
    return data


def _check_zstd(stored: bytes | bytearray, size: int) -> None:
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


def _decompress(stored: bytes | bytearray) -> bytes:
    try:
        return _decompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the zstd frame does not decode: {error}") from error


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_LOCAL, "compressor"):
        _LOCAL.compressor = zstandard.ZstdCompressor(
            level=LEVEL, write_content_size=True, write_checksum=False, write_dict_id=False
        )
    compressor: zstandard.ZstdCompressor = _LOCAL.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_LOCAL, "decompressor"):
        _LOCAL.decompressor = zstandard.ZstdDecompressor(max_window_size=Limits.WINDOW)
    decompressor: zstandard.ZstdDecompressor = _LOCAL.decompressor
    return decompressor
