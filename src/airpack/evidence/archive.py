"""The ZIP file of an export, in the one form that these names and contents have.

PKWARE APPNOTE 6.3.10: local file headers (4.3.7) with stored content, central directory (4.3.12), end record (4.3.16).
Names ascend, times are 1980-01-01, attributes are those of a 0644 regular file; no ZIP64, comments, extra fields,
encryption or gaps. Any tool opens it, its text can be searched as it lies, and it does not depend on a compressor's
version.

Law: `read_archive(write_archive(files)) == files`, and no other bytes are read as `files`. A changed byte is thus found
even where it changes no content. The reader compares and never seeks by what it was told, so that two readers cannot
see two archives.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from typing import Final

from airpack.errors import IntegrityError
from airpack.types import Limits

MAX_ENTRIES: Final = 10_000
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")
_VERSION = 20  # needed to extract: 2.0
_MADE_BY = 3 << 8 | _VERSION  # Unix, so that the mode means something
_TIME, _DATE = 0, 1 << 5 | 1  # midnight, 1980-01-01
_MODE = 0o100644 << 16
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}(/[0-9A-Za-z][0-9A-Za-z._-]{0,127}){0,3}\Z")


def is_name(name: str) -> bool:
    """Return whether `name` may stand in an export: 1 to 4 parts of `[0-9A-Za-z._-]`, no part begins with a dot."""
    return bool(_NAME.match(name))


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Return the ZIP file that holds `files`.

    Args:
        files: Content by name; 1 to `MAX_ENTRIES`, together at most `Limits.EVIDENCE_BUNDLE` bytes.

    Raises:
        ValueError: A name or a bound does not hold (a caller's bug).
    """
    if not 0 < len(files) <= MAX_ENTRIES or sum(map(len, files.values())) > Limits.EVIDENCE_BUNDLE:
        raise ValueError(f"an export holds 1 to {MAX_ENTRIES} files and at most {Limits.EVIDENCE_BUNDLE} bytes")
    parts: list[bytes] = []
    central: list[bytes] = []
    offset = 0
    for name, content in sorted(files.items()):
        if not is_name(name):
            raise ValueError(f"not a name of an export: {name[:80]!r}")
        local, entry = _headers(name.encode(), content, offset)
        parts += (local, content)
        central.append(entry)
        offset += len(local) + len(content)
    directory = b"".join(central)
    return b"".join((*parts, directory, _end(len(files), len(directory), offset)))


def read_archive(data: bytes) -> dict[str, bytes]:
    """Return the files of an export, by name in ascending order.

    Args:
        data: The whole ZIP file.

    Raises:
        IntegrityError: Not byte for byte what `write_archive` makes of any files: compressed, encrypted, two entries
            of one name, damaged, cut short, bytes before, between or after, or beyond a bound.
    """
    if len(data) < _END.size or not data.startswith(_SIGNATURES[0]):
        raise IntegrityError(f"not a ZIP file of evidence: {len(data)} bytes that begin with {data[:4].hex()!r}")
    _, _, _, _, count, size, start, _ = _END.unpack_from(data, len(data) - _END.size)
    if data[-_END.size :] != _end(count, size, start) or start + size + _END.size != len(data):
        raise IntegrityError("the ZIP file does not end with its directory: cut short, or with bytes after its end")
    if count > MAX_ENTRIES:
        raise IntegrityError(f"the ZIP file has {count} entries; at most {MAX_ENTRIES} are read")
    files: dict[str, bytes] = {}
    offset, position, last = 0, start, ""
    for _ in range(count):
        name, content = _entry(data, position, offset, start)
        if name <= last:
            raise IntegrityError(f"ZIP entry {name!r} is there twice or out of order", offset=position)
        local, entry = _headers(name.encode(), content, offset)
        if data[offset : offset + len(local)] != local or data[position : position + len(entry)] != entry:
            raise IntegrityError(
                f"ZIP entry {name!r} is damaged, or not as airpack writes it (stored, 1980-01-01, 0644)", offset=offset
            )
        files[name] = content
        offset, position, last = offset + len(local) + len(content), position + len(entry), name
    if offset != start or position != start + size:
        raise IntegrityError("the ZIP file holds bytes that its directory does not list", offset=offset)
    return files


def _entry(data: bytes, position: int, offset: int, start: int) -> tuple[str, bytes]:
    """Return name and content of the directory entry at `position`, whose file must lie at `offset`, below `start`."""
    if position + _CENTRAL.size > len(data):
        raise IntegrityError("the ZIP file's directory is cut short", offset=position)
    fields = _CENTRAL.unpack_from(data, position)
    size, length = fields[9], fields[10]
    raw = data[position + _CENTRAL.size : position + _CENTRAL.size + length]
    name = raw.decode("ascii", "replace")
    if not is_name(name):
        raise IntegrityError(f"ZIP entry {name[:80]!r} has a name that no export has", offset=position)
    begin = offset + _LOCAL.size + length
    if begin + size > start:
        raise IntegrityError(f"ZIP entry {name!r} claims {size} bytes; they are not there", offset=position)
    return name, data[begin : begin + size]


def _headers(name: bytes, content: bytes, offset: int) -> tuple[bytes, bytes]:
    """Return the local header and the directory entry of a stored file at `offset`."""
    crc, size = zlib.crc32(content), len(content)
    local = _LOCAL.pack(_SIGNATURES[0], _VERSION, 0, 0, _TIME, _DATE, crc, size, size, len(name), 0) + name
    central = _CENTRAL.pack(
        _SIGNATURES[1],
        *(_MADE_BY, _VERSION, 0, 0, _TIME, _DATE),
        *(crc, size, size),
        *(len(name), 0, 0, 0, 0),
        *(_MODE, offset),
    )
    return local, central + name


def _end(count: int, size: int, start: int) -> bytes:
    return _END.pack(_SIGNATURES[2], 0, 0, count, count, size, start, 0)
