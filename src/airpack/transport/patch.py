"""Patches: a zstd frame that refers to bytes of a base file as if they stood before it.

The only home of `backports.zstd`, which is `compression.zstd` of Python 3.14. Only building needs it: its compressor
takes a prefix, that of `zstandard` does not. A patch is decoded as any other frame is, by `codec`.
"""

import sys
from typing import Final

from airpack.transport.planes import Buffer
from airpack.types import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHORTEST: Final = 8  # bytes of a prefix: libzstd makes no use of fewer

_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.enable_long_distance_matching: 1,
    zstd.CompressionParameter.window_log: Limits.WINDOW.bit_length() - 1,  # matches reach no farther back
    zstd.CompressionParameter.content_size_flag: 1,
    zstd.CompressionParameter.checksum_flag: 0,
    zstd.CompressionParameter.dict_id_flag: 0,
}


def compress(raw: Buffer, prefix: Buffer) -> bytes:
    """Return one zstd frame of `raw` that refers to `prefix`, without a dictionary ID.

    It takes a copy of the prefix and about a third of its length for tables, and reads all of it: long frames are made
    faster than short ones, and those of 8 MiB nearly as well.

    Args:
        raw: The frame, 1 to `Limits.FRAME` bytes.
        prefix: What stands before it, from `SHORTEST` to `formats.volume.PREFIX` bytes.
    """
    dictionary = zstd.ZstdDict(prefix, is_raw=True)
    compressor = zstd.ZstdCompressor(options=_OPTIONS, zstd_dict=dictionary.as_prefix)
    compressor.set_pledged_input_size(len(raw))
    return compressor.compress(raw, compressor.FLUSH_FRAME)
