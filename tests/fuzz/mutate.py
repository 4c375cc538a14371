"""Changes inputs so that they stay near what a parser accepts: below a checksum, inside base64, in canonical form.

A mutator is `(data, random, most) -> data`: the same random numbers give the same bytes, and no answer is longer than
`most` bytes. The fuzzer asks these in turn with its own changes of bytes; the tests ask these alone.
"""

import base64
import binascii
import copy
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import zstandard

from airpack.errors import AirpackError
from airpack.evidence.archive import read_archive, write_archive
from airpack.formats import canonical, volume
from airpack.types import Digest

Mutator = Callable[[bytes, Random, int], bytes]

PREFIX: Final = struct.Struct("<IQQ")
"""Before a chunk table: used entries, where its first frame begins in the stream, bytes of chunks behind it."""

NUMBERS: Final = (0, 1, -1, 2, 127, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, 2**63, 2**64)
ODD: Final[tuple[Any, ...]] = (
    *NUMBERS,
    -(2**53),
    10**20,
    10**400,
    0.5,
    -0.0,
    1e-7,
    1e21,
    1e300,
    None,
    True,
    False,
    "",
    [],
    {},
    "a",
    "\0",
    "\ud800",
    "\u00e9",
    "e\u0301",
    "\u2028",
    "..",
    "../x",
    "/x",
    "a//b",
    "con",
    "nul.txt",
    "a" * 63,
    "a" * 64,
    "a" * 256,
    "a" * 4097,
    "sha256:" + "0" * 64,
    "sha256:" + "A" * 64,
    "0" * 32,
    "current",
    "product@1",
    "9999-12-31T23:59:59Z",
    "0000-00-00T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "2026-01-01T00:00:00+01:00",
    "AA==",
    "AB==",
    "linux/amd64",
    "application/vnd.oci.image.manifest.v1+json",
    [[]],
    {"": {}},
    ["a", "a"],
)
KEYS: Final = (
    "",
    "schema",
    "urls",
    "data",
    "subject",
    "annotations",
    "artifactType",
    "platform",
    "keyid",
    "bases",
    "x",
)
TOKENS: Final = (
    *(b"\0", b"\n", b"\r\n", b" ", b'"', b"\\", b"\\u0000", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\x94 "),
    *(b"{", b"}", b"[", b"]", b"[[[[", b"NaN", b"1e999", b"-0", b"null", b"0x1", b"1_0", b"'", b"=", b"#"),
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x28\xb5\x2f\xfd", b"\x80\x04", b"GGUF", b"\x93NUMPY", b"-----BEGIN "),
)


def raw(data: bytes, random: Random, most: int) -> bytes:
    """Change bytes here and there: flips, numbers, tokens, pieces left out, doubled or moved."""
    out = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        at = random.randrange(len(out) + 1)
        piece = bytes(out[at : at + random.randrange(1, 1 << random.randrange(1, 10))])
        match random.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1 if at < len(out):
                out[at] = random.randrange(256)
            case 2:
                out[at:at] = random.choice(TOKENS)
            case 3:
                del out[at : at + len(piece)]
            case 4:
                out[at:at] = piece
            case 5:
                there = random.randrange(len(out) + 1)
                out[there : there + len(piece)] = piece
            case _:
                number = random.choice(NUMBERS) + random.randrange(-1, 2)
                width = random.choice((1, 2, 4, 8))
                order = random.choice(("little", "big"))
                out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(out[:most])


# --- JSON -------------------------------------------------------------------------------------------------------------


def document(data: bytes, random: Random, most: int) -> bytes:
    """Change a JSON document as a tree, and write it as canonical JSON where it has such a form."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data, random, most)
    for _ in range(1 << random.randrange(3)):
        value = _changed(value, random, most)
    text = _written(value)
    return text if len(text) <= most else raw(data, random, most)


def _written(value: Any) -> bytes:
    try:
        return canonical.emit(value)
    except (ValueError, RecursionError):
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _changed(value: Any, random: Random, most: int) -> Any:
    """Return `value` with one thing in it changed; what it was stays as it is."""
    if isinstance(value, dict | list) and value and random.random() < 0.8:
        inner = copy.copy(value)
        keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
        key = random.choice(keys)
        inner[key] = _changed(value[key], random, most)
        return inner
    if random.random() < 0.15:
        return random.choice(ODD)
    match value:
        case dict():
            return _changed_table(value, random)
        case list():
            return _changed_list(value, random, most)
        case str():
            return _changed_text(value, random, most)
    return _changed_number(value, random)


def _changed_number(value: Any, random: Random) -> Any:
    if not isinstance(value, int):
        return random.choice(ODD)
    small = value if abs(value) <= 1 << 70 else value % 97
    return random.choice((small + 1, small - 1, -small, small * 2, small ^ 1 << random.randrange(53), small + 0.5))


def _changed_table(value: dict[str, Any], random: Random) -> dict[str, Any]:
    table = dict(value)
    key = random.choice(list(table) or [""])
    match random.randrange(3):
        case 0:
            table.pop(key, None)
        case 1:
            table[random.choice((*KEYS, key + "x"))] = random.choice(ODD)
        case _:
            table[random.choice((*KEYS, key.swapcase()))] = table.pop(key, None)
    return table


def _changed_list(value: list[Any], random: Random, most: int) -> list[Any]:
    items = list(value)
    at = random.randrange(len(items) + 1)
    match random.randrange(5):
        case 0:
            del items[at : at + 1]
        case 1:
            items[at:at] = items[at - 1 : at] or [random.choice(ODD)]
        case 2:
            items.insert(at, random.choice(ODD))
        case 3:
            random.shuffle(items)
        case _:
            room = most // (len(json.dumps(items)) + 1)  # as many as an input has room for
            items *= min(room, random.choice((2, 17, 257, 100_001)))
    return items


def _changed_text(value: str, random: Random, most: int) -> str:
    """Change a string, or the document in it: as JSON text, or in base64."""
    if value[:1] in {"{", "["} and random.random() < 0.9:
        return document(value.encode("utf-8", "surrogatepass"), random, most).decode("utf-8", "replace")
    if len(value) > 7 and len(value) % 4 == 0 and random.random() < 0.9:
        try:
            inner = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        else:
            return base64.b64encode(document(inner, random, most)).decode()
    if random.random() < 0.05:
        return value * random.choice((2, 64, min(most, 5000) // (len(value) or 1)))
    return raw(value.encode("utf-8", "surrogatepass"), random, most).decode("utf-8", "replace")


_CHECKSUM: Final = 73  # bytes of the line, with the newline before it


def head(data: bytes, random: Random, most: int) -> bytes:
    """Change the document of a head file and put the right checksum line below it."""
    body = data[: data.rstrip(b"\n").rfind(b"\n") + 1]
    return checked(document(body, random, most - _CHECKSUM))


def checked(text: bytes) -> bytes:
    """Return a JSON text as a head file: with its checksum line."""
    body = text + b"\n"
    return body + f"{Digest.of(body)}\n".encode()


# --- ZIP --------------------------------------------------------------------------------------------------------------


_MEMBER: Final = 8 << 20  # bytes of the largest member that is made here


def evidence(data: bytes, random: Random, most: int) -> bytes:
    """Change one file or one name in an export, and write the ZIP file in its one form."""
    try:
        files = read_archive(data)
    except AirpackError:
        return raw(data, random, most)
    name = random.choice(sorted(files))
    change = document if random.random() < 0.5 else raw
    match random.randrange(4):
        case 0:
            files[name + random.choice(("x", ".json", "/x"))] = files.pop(name)
        case 1 if len(files) > 1:
            del files[name]
        case _:
            files[name] = change(files[name], random, most // 2)
    try:
        return write_archive(files)[:most]
    except ValueError:
        return raw(data, random, most)


def zipped(data: bytes, random: Random, most: int) -> bytes:
    """Change members of a ZIP file: their content, names, kinds and methods."""
    return _rezipped(data, random, most, lambda _: None)


def wheel(data: bytes, random: Random, most: int) -> bytes:
    """Change members of a wheel, mostly with a RECORD that fits."""
    return _rezipped(data, random, most, record if random.random() < 0.8 else lambda _: None)


def _rezipped(data: bytes, random: Random, most: int, seal: Callable[[dict[str, bytes]], None]) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()[:64]}
    except Exception:  # noqa: BLE001 - whatever ails a ZIP file that was changed before
        return raw(data, random, most)
    name = random.choice(sorted(files) or ["x"])
    match random.randrange(5):
        case 0:
            renamed = raw(name.encode(), random, 300).decode("latin-1").replace("\0", "0")
            files[renamed or "x"] = files.pop(name, b"")
        case 1:
            files.pop(name, None)
        case 2:
            times = random.choice((2, 100, 10_000))
            files[name] = files.get(name, b"")[: _MEMBER // times] * times
        case _:
            files[name] = raw(files.get(name, b""), random, most // 2)
    seal(files)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            member = zipfile.ZipInfo(path or "x")
            member.compress_type = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            member.external_attr = random.choice((0o644, 0o755, 0o120777, 0o40755, 0)) << 16
            archive.writestr(member, content[:_MEMBER])
    out = packed.getvalue()
    return raw(out, random, most) if random.random() < 0.2 else out[:most]


def record(files: dict[str, bytes]) -> None:
    """Write the RECORD of a wheel's files anew, where there is one."""
    name = next((path for path in files if path.endswith("/RECORD")), None)
    if name is None:
        return
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}"
        for path, content in files.items()
        if path != name
    ]
    files[name] = "\n".join([*lines, f"{name},,", ""]).encode()


# --- volumes and frames -----------------------------------------------------------------------------------------------

_ROW: Final = struct.Struct("<32sQQIIIBBBB")  # one entry of a chunk table, as docs/spec/package.md has it


def table(data: bytes, random: Random, most: int) -> bytes:
    """Change entries of a chunk table, mostly with offsets and counts that fit again."""
    if len(data) < PREFIX.size or random.random() < 0.2:
        return raw(data, random, most)
    entries, start, stored = PREFIX.unpack_from(data)
    entries = min(entries, (len(data) - PREFIX.size) // volume.ENTRY)
    end = PREFIX.size + entries * volume.ENTRY
    rows = [list(_ROW.unpack_from(data, PREFIX.size + at * volume.ENTRY)) for at in range(entries)]
    rest = data[end:]
    at = random.randrange(len(rows) + 1)
    match random.randrange(5):
        case 0 if rows:
            del rows[at - 1]
        case 1 if rows:
            rows[at:at] = [list(rows[at - 1]) for _ in range(random.choice((1, 2, 100)))]
        case 2 if rows:
            field = random.randrange(1, 10)
            width = (64, 64, 32, 32, 32, 8, 8, 8, 8)[field - 1]
            rows[at - 1][field] = (random.choice(NUMBERS) + random.randrange(-1, 2)) % (1 << width)
        case 3:
            rest = raw(rest, random, most)
        case _:
            random.shuffle(rows)
    if random.random() < 0.7:
        entries, stored, place = len(rows), sum(row[3] for row in rows), start
        for row in rows:
            row[1] = place % (1 << 64)
            place += row[4] if row[7] + 1 >= row[8] else 0
    prefix = PREFIX.pack(entries % (1 << 32), start, stored % (1 << 64))
    return (prefix + b"".join(_ROW.pack(*row) for row in rows) + rest)[:most]


def frame(data: bytes, random: Random, most: int) -> bytes:
    """Change a frame's stored bytes, or what it holds before it is compressed."""
    if random.random() < 0.5:
        return raw(data, random, most)
    content = raw(data[5:], random, most) * random.choice((1, 1, 3, 400))
    content = content[: 4 << 20]
    packer = zstandard.ZstdCompressor(
        level=random.choice((-5, 1, 3, 12)),
        write_content_size=random.random() < 0.9,
        write_checksum=random.random() < 0.2,
    )
    size = max(0, len(content) + random.choice((0, 0, 0, 1, -1)))
    packed = packer.compress(content)
    if random.random() < 0.1:
        packed += random.choice((b"\0", packed, b"\x50\x2a\x4d\x18\0\0\0\0"))
    kind = random.choice((volume.Codec.ZSTD, *volume.Codec))
    return (bytes([kind]) + struct.pack("<I", size // kind.width * kind.width) + packed)[:most]


def lines(data: bytes, random: Random, most: int) -> bytes:
    """Change lines: drop, double or swap one, or change its bytes."""
    parts = data.split(b"\n")
    at = random.randrange(len(parts))
    match random.randrange(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, random.choice(parts))
        case 2:
            parts[at] = random.choice(parts)
        case _:
            parts[at] = raw(parts[at], random, most)
    return b"\n".join(parts)[:most]
