"""Sizes that people write: `4096`, `700MiB`, `25GB`, and names of media for `--volume-size`.

A medium's name stands for the largest volume that fits it, one to a medium, with the head and the file system's own
needs beside it. Capacities are sectors of 2048 bytes as drives report them, of the smaller kind where there are two:

| name | capacity in bytes | of |
|---|---|---|
| `fat32` | 4,294,967,295 (one file) | a file's length in FAT32 is a number of 32 bits |
| `dvd` | 4,700,372,992 | DVD+R, 2,295,104 sectors (DVD-R has 2,298,496) |
| `dvd-dl` | 8,543,666,176 | DVD-R DL, 4,171,712 sectors (DVD+R DL has 4,173,824) |
| `bd25` | 24,220,008,448 | BD-R and BD-RE as formatted by default, with spare areas: 11,826,176 sectors of 12,219,392 |
| `bd50` | 48,440,016,896 | the same in two layers: 23,652,352 sectors of 24,438,784 |
| `bd100` | 96,882,130,944 | the same share in three layers: 47,305,728 sectors of 48,878,592 |

Off a disc's capacity go 32 MiB: 16 for the largest head, the rest for UDF and a label. Off FAT32's goes 1. What remains
is cut to whole MiB. A disc's volume may be longer than FAT32 takes, and ISO 9660 below level 3: such discs are UDF.
"""

import re
from typing import Final

from airpack.errors import InputError

_SIZE = re.compile(r"([0-9]{1,12}) ?(KiB|MiB|GiB|TiB|kB|MB|GB|TB|B)?\Z")
_UNITS: Final = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SECTOR: Final = 2048  # bytes, on every optical disc
_MIB: Final = 1 << 20
_ROOM: Final = 32 * _MIB  # bytes beside the volume on a disc

FAT_FILE: Final = (1 << 32) - 1  # bytes: the longest file in FAT32, and in FAT before it


def _disc(sectors: int) -> int:
    return (sectors * _SECTOR - _ROOM) // _MIB * _MIB


MEDIA: Final = {
    "fat32": (FAT_FILE - _MIB) // _MIB * _MIB,
    "dvd": _disc(2_295_104),
    "dvd-dl": _disc(4_171_712),
    "bd25": _disc(11_826_176),
    "bd50": _disc(23_652_352),
    "bd100": _disc(47_305_728),
}
"""Largest volume in bytes by the medium's name."""


def parse_size(text: str) -> int:
    """Return the bytes in a size such as `2GiB`, `512 MiB`, `25GB` or `4096`.

    Raises:
        InputError: Not a whole number with an optional unit: B, KiB to TiB (of 1024), kB to TB (of 1000).
    """
    match = _SIZE.match(text)
    if not match:
        raise InputError(
            f"{text[:60]!r} is not a size; expected a whole number and B, KiB, MiB, GiB, TiB, kB, MB, GB or TB",
            hint='for example "2GiB"',
        )
    return int(match[1]) * _UNITS[match[2]]


def parse_volume_size(text: str) -> int:
    """Return the bytes that a volume may have: a size, or the name of a medium in `MEDIA`.

    Raises:
        InputError: It is neither.
    """
    if text in MEDIA:
        return MEDIA[text]
    try:
        return parse_size(text)
    except InputError as error:
        names = ", ".join(MEDIA)
        raise InputError(f"{error.message}; or one of {names}", hint="for example 2GiB, 700MiB or dvd") from error
