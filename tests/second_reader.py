"""A second reader of packages, written from docs/spec/package.md alone: it imports nothing of airpack.

It is as plain as can be and slow, trusts the manifest without looking at signatures, and rebuilds one lost volume a
group at a time. That it agrees with airpack shows that the specification is complete.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

MIB = 1 << 20
Files = dict[str, bytes]  # raw bytes by hex digest


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_manifest(head: Path) -> tuple[dict[str, Any], bytes]:
    """Sections 2 and 3: return the package manifest and its exact bytes."""
    data = head.read_bytes()
    body, line = data[:-72], data[-72:]
    assert line == b"sha256:" + sha256(body).encode() + b"\n"
    payload = base64.b64decode(json.loads(body)["package"]["payload"])
    return json.loads(payload), payload


def read_package(head: Path, bases: Files) -> Files:
    """Return the files of the release that the package with this head carries.

    Args:
        head: The head file; volumes lie beside it, and lost ones are rebuilt from parity.
        bases: Files that the site holds, by hex digest.
    """
    manifest, payload = read_manifest(head)
    base_files = [bases[file["digest"][7:]] for base in manifest["bases"] for file in base["files"]]
    volumes = read_volumes(head.parent, manifest, payload)
    stream = b"".join(data for volume in volumes for data in read_frames(volume, base_files))
    files: Files = {}
    for file in manifest["files"]:
        data, stream = stream[: file["size"]], stream[file["size"] :]
        assert "sha256:" + sha256(data) == file["digest"]
        files[sha256(data)] = data
    assert not stream
    return files


@dataclass
class Volume:
    """A volume's bytes behind its header, and how many entries its table has."""

    body: bytes
    entries: int
    slots: int


def read_volumes(folder: Path, manifest: dict[str, Any], payload: bytes) -> list[Volume]:
    """Sections 4 and 7: return all volumes; those that are not there come from parity."""
    infos = manifest["volumes"]
    bodies: list[bytes | None] = []
    for number, info in enumerate(infos, 1):
        path = folder / info["name"]
        header = (b"airvol\0\1", number, len(infos), info["entries"], info["slots"], data_of(info))
        bodies.append(read_body(path, header, payload) if path.exists() else None)
    first = 0
    parity_number = 0
    for group in manifest.get("parity", []):
        last = first + group["data"]
        length = max(info["size"] for info in infos[first:last]) - 128
        parity: list[bytes | None] = []
        for info in group["volumes"]:
            parity_number += 1
            rows = -(-length // MIB)
            total = sum(len(each["volumes"]) for each in manifest["parity"])
            header = (b"airpar\0\1", parity_number, total, rows, rows, length)
            path = folder / info["name"]
            parity.append(read_parity(path, header, payload, info["table"]) if path.exists() else None)
        shares = [None if body is None else body.ljust(length, b"\0") for body in bodies[first:last]] + parity
        rebuilt = rebuild(shares, group["data"])
        for at, body in enumerate(rebuilt):
            bodies[first + at] = body[: infos[first + at]["size"] - 128]
        first = last
    volumes = []
    for info, whole in zip(infos, bodies, strict=True):
        assert whole is not None, f"{info['name']} is lost"
        assert "sha256:" + sha256(whole[: 64 * info["slots"]]) == info["table"]
        volumes.append(Volume(whole, info["entries"], info["slots"]))
    return volumes


def data_of(info: dict[str, Any]) -> int:
    size: int = info["size"]
    return size - 128 - 64 * int(info["slots"])


def read_body(path: Path, header: tuple[Any, ...], payload: bytes) -> bytes:
    """Section 4.1: return what follows the header, which must be the one that the manifest implies."""
    data = path.read_bytes()
    magic, *numbers = header
    assert data[:128] == struct.pack("<8s32sIIIIQ64x", magic, hashlib.sha256(payload).digest(), *numbers)
    return data[128:]


def read_parity(path: Path, header: tuple[Any, ...], payload: bytes, table: str) -> bytes:
    """Section 7: return the parity bytes of a parity volume, each row compared with its digest."""
    body = read_body(path, header, payload)
    rows, length = header[3], header[5]
    digests, parity, again = body[: 32 * rows], body[32 * rows : 32 * rows + length], body[32 * rows + length :]
    assert digests == again
    assert "sha256:" + sha256(digests) == table
    for row in range(rows):
        assert hashlib.sha256(parity[row * MIB : (row + 1) * MIB]).digest() == digests[32 * row : 32 * row + 32]
    return parity


def read_frames(volume: Volume, base_files: Sequence[bytes]) -> Iterator[bytes]:
    """Sections 4.2 and 4.3: yield the decoded frames."""
    place = 64 * volume.slots
    stored = b""
    for number in range(volume.entries):
        entry = struct.unpack_from("<32sQQIIIBBBB", volume.body, 64 * number)
        digest, _, base_offset, length, size, base, codec, part, parts, _ = entry
        chunk = volume.body[place : place + length]
        place += length
        stored += chunk
        if codec != 6:
            assert hashlib.sha256(chunk).digest() == digest
        if part == parts - 1:
            base_file = base_files[base - 1] if base else b""
            frame = decode(codec, stored, size, base_file, base_offset)
            assert len(frame) == size
            if codec == 6:
                assert hashlib.sha256(frame).digest() == digest
            yield frame
            stored = b""
    assert place == len(volume.body)


def decode(codec: int, stored: bytes, size: int, base_file: bytes, offset: int) -> bytes:
    """Section 4.3."""
    base = base_file[offset : offset + size]
    if codec == 1:
        return stored
    if codec == 6:
        return base
    if codec == 11:
        prefix = zstandard.ZstdCompressionDict(
            base_file[offset : offset + 32 * MIB], dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
        return zstandard.ZstdDecompressor(dict_data=prefix).decompress(stored, max_output_size=size)
    content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
    if codec in {3, 8}:
        content = unplane_bf16(content)
    elif codec in {4, 9}:
        content = unplane_fp16(content)
    elif codec in {5, 10}:
        content = unplane_fp32(content)
    if codec >= 7:
        content = (int.from_bytes(content) ^ int.from_bytes(base)).to_bytes(size)
    return content


def unplane_bf16(planes: bytes) -> bytes:
    count = len(planes) // 2
    pairs = zip(planes[:count], planes[count:], strict=True)
    return b"".join(((rest >> 7) << 15 | high << 7 | rest & 127).to_bytes(2, "little") for high, rest in pairs)


def unplane_fp16(planes: bytes) -> bytes:
    count = len(planes) // 2
    return b"".join(bytes([low, high]) for high, low in zip(planes[:count], planes[count:], strict=True))


def unplane_fp32(planes: bytes) -> bytes:
    count = len(planes) // 4
    found = bytearray()
    for at in range(count):
        exponent, rest = planes[at], planes[count + at]
        low = int.from_bytes(planes[2 * count + 2 * at : 2 * count + 2 * at + 2], "little")
        found += ((rest >> 7) << 31 | exponent << 23 | (rest & 127) << 16 | low).to_bytes(4, "little")
    return bytes(found)


# --- section 7: Reed-Solomon over GF(2^8), x^8 + x^4 + x^3 + x^2 + 1 --------------------------------------------------

_EXP = [1]
for _ in range(254):
    _EXP.append(_EXP[-1] << 1 ^ (0x11D if _EXP[-1] & 0x80 else 0))
_LOG = {value: power for power, value in enumerate(_EXP)}
Matrix = list[list[int]]


def times(a: int, b: int) -> int:
    return _EXP[(_LOG[a] + _LOG[b]) % 255] if a and b else 0


def product(a: Matrix, b: Matrix) -> Matrix:
    def cell(row: list[int], column: int) -> int:
        total = 0
        for at, value in enumerate(row):
            total ^= times(value, b[at][column])
        return total

    return [[cell(row, column) for column in range(len(b[0]))] for row in a]


def inverse(matrix: Matrix) -> Matrix:
    """Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *(int(at == column) for column in range(size))] for at, row in enumerate(matrix)]
    for at in range(size):
        pivot = next(row for row in range(at, size) if rows[row][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        factor = _EXP[(255 - _LOG[rows[at][at]]) % 255]
        rows[at] = [times(factor, value) for value in rows[at]]
        for other in range(size):
            if other != at and rows[other][at]:
                scale = rows[other][at]
                rows[other] = [value ^ times(scale, own) for value, own in zip(rows[other], rows[at], strict=True)]
    return [row[size:] for row in rows]


def code(k: int, m: int) -> Matrix:
    """Return the k + m rows of the code: a Vandermonde matrix, made systematic."""
    vandermonde = [[1] + [0] * (k - 1)]
    vandermonde += [[_EXP[(row * column) % 255] for column in range(k)] for row in range(k + m - 1)]
    return product(vandermonde, inverse(vandermonde[:k]))


def rebuild(shares: Sequence[bytes | None], k: int) -> list[bytes]:
    """Return the k data shares from any k of all."""
    if all(share is not None for share in shares[:k]):
        return [share for share in shares[:k] if share is not None]
    have = [(number, share) for number, share in enumerate(shares) if share is not None][:k]
    assert len(have) == k, "too much is lost"
    rows = code(k, len(shares) - k)
    back = inverse([rows[number] for number, _ in have])
    return [combine(row, [share for _, share in have]) for row in back]


def combine(factors: list[int], shares: list[bytes]) -> bytes:
    total = 0
    for factor, share in zip(factors, shares, strict=True):
        scaled = share.translate(bytes(times(factor, value) for value in range(256)))
        total ^= int.from_bytes(scaled)
    return total.to_bytes(len(shares[0]))
