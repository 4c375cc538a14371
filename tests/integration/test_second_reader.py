"""The specification of packages is whole: a reader written from it alone finds what airpack packed."""

import hashlib
import json
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.second_reader import MIB, read_manifest, read_package

SHAPES = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1}  # bytes of an element


def weights(seed: int, size: int = 300_000) -> dict[str, bytes]:
    """Return tensors of every type that is coded in a way of its own: noise around few exponents, as weights are."""
    chance = random.Random(seed)
    found = {}
    for dtype, width in SHAPES.items():
        rest = chance.randbytes(size - size % width)
        found[f"{dtype.lower()}.weight"] = bytes(
            byte if (at + 1) % width or width == 1 else 0x3C | byte & 3 for at, byte in enumerate(rest)
        )
    return found


def safetensors(tensors: dict[str, bytes]) -> bytes:
    table, at = {}, 0
    for name, data in tensors.items():
        dtype = name.partition(".")[0].upper()
        table[name] = {"dtype": dtype, "shape": [len(data) // SHAPES[dtype]], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def tuned(data: bytes, seed: int) -> bytes:
    """Return `data` with the lowest bits of some bytes changed."""
    chance = random.Random(seed)
    return bytes(byte ^ (1 if at % 4 == 0 and chance.random() < 0.5 else 0) for at, byte in enumerate(data))


def write(folder: Path, tensors: dict[str, bytes], version: str) -> Path:
    """Write a pack spec and its files: a model with one file of no bytes and one without tensors, and a runtime."""
    (folder / "model").mkdir(parents=True)
    (folder / "model/model.safetensors").write_bytes(safetensors(tensors))
    (folder / "model/config.json").write_bytes(b'{"hidden_size": 4}\n' * 20)
    (folder / "model/empty.txt").write_bytes(b"")
    (folder / "tool").mkdir()
    chance = random.Random("engine")
    engine = b"".join(struct.pack("<IIQ", 7, chance.randrange(1 << 16), number) for number in range(20_000))
    (folder / "tool/engine.bin").write_bytes(engine.replace(b"\x07\x00", version[:2].encode(), 40))
    (folder / "tool/again.bin").write_bytes(engine[:100_000])
    (folder / "pack.toml").write_text(
        f'[release]\nproduct = "second"\nversion = "{version}"\n'
        '[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
        '[[runtime]]\nname = "tool"\nkind = "files"\npath = "tool"\n'
    )
    return folder / "pack.toml"


def raw(folder: Path) -> dict[str, bytes]:
    """Return the files of a spec by the hex digest of their bytes."""
    files = (path.read_bytes() for part in ("model", "tool") for path in (folder / part).iterdir())
    return {hashlib.sha256(data).hexdigest(): data for data in files}


@pytest.fixture(scope="module")
def packages(new_bench: Callable[[], Any], airpack: Callable[..., Any]) -> dict[str, tuple[Path, dict[str, bytes]]]:
    """A full package with parity in two groups' worth of volumes, and a delta on it; each with its files."""
    bench = new_bench()
    tensors = weights(1, 3 * MIB // 2)
    old, new = bench.folder / "old", bench.folder / "new"
    moved = {name: tensors[name] for name in reversed(tensors)}  # other offsets
    moved["bf16.weight"] = tuned(moved["bf16.weight"], 1)
    moved["i8.weight"] = tuned(moved["i8.weight"], 2)
    options = ("--workspace", bench.workspace, "--volume-size", str(2 * MIB), "--json")
    airpack("build", write(old, tensors, "1.0"), "-o", bench.folder / "full", "--parity", "1", *options)
    airpack("build", write(new, moved, "1.1"), "-o", bench.folder / "delta", "--base", "second@1.0", *options)
    return {"full": (bench.folder / "full", raw(old)), "delta": (bench.folder / "delta", raw(new))}


def head(medium: Path) -> Path:
    (path,) = medium.glob("*.airpack")
    return path


def test_a_full_package_is_read(packages: dict[str, tuple[Path, dict[str, bytes]]]) -> None:
    medium, files = packages["full"]
    assert read_package(head(medium), {}) == files


def test_each_lost_volume_is_rebuilt(packages: dict[str, tuple[Path, dict[str, bytes]]], tmp_path: Path) -> None:
    medium, files = packages["full"]
    names = [info["name"] for info in read_manifest(head(medium))[0]["volumes"]]
    assert len(names) >= 3
    for name in names:
        carried = tmp_path / name
        shutil.copytree(medium, carried)
        (carried / name).unlink()
        assert read_package(head(carried), {}) == files


def test_a_delta_is_read_with_the_files_of_its_base(packages: dict[str, tuple[Path, dict[str, bytes]]]) -> None:
    (_, old), (medium, files) = packages["full"], packages["delta"]
    manifest, _ = read_manifest(head(medium))
    shipped = sum(info["size"] for info in manifest["volumes"])
    assert manifest["bases"], "nothing of the base was of use"
    assert shipped < sum(map(len, files.values())) / 4

    found = read_package(head(medium), old)

    reused = {file["digest"][7:] for base in manifest["bases"] for file in base["files"]}
    assert found == {digest: data for digest, data in files.items() if digest not in reused or digest in found}
    assert files.keys() <= found.keys() | reused
    assert old.keys() >= reused


def test_every_codec_is_among_what_was_read(packages: dict[str, tuple[Path, dict[str, bytes]]]) -> None:
    found = {codec for medium, _ in packages.values() for codec, _ in chunks(medium)}
    assert found >= {2, 3, 4, 5, 6, 7, 8, 11}


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")
def test_stock_zstd_unpacks_a_chunk_to_planes(packages: dict[str, tuple[Path, dict[str, bytes]]]) -> None:
    medium, _ = packages["full"]
    stored = next(stored for codec, stored in chunks(medium) if codec == 3)
    planes = subprocess.run(["zstd", "-dc"], input=stored, capture_output=True, check=True).stdout
    frame = bytes(
        byte
        for high, rest in zip(planes[: len(planes) // 2], planes[len(planes) // 2 :], strict=True)
        for byte in ((rest & 0x80) << 8 | high << 7 | rest & 0x7F).to_bytes(2, "little")
    )
    assert frame in weights(1, 3 * MIB // 2)["bf16.weight"]


def chunks(medium: Path) -> list[tuple[int, bytes]]:
    """Return codec and stored bytes of each chunk of a medium's volumes."""
    found = []
    for info in read_manifest(head(medium))[0]["volumes"]:
        data = (medium / info["name"]).read_bytes()
        place = 128 + 64 * info["slots"]
        for number in range(info["entries"]):
            (length,) = struct.unpack_from("<I", data, 128 + 64 * number + 48)
            found.append((data[128 + 64 * number + 60], data[place : place + length]))
            place += length
    return found
