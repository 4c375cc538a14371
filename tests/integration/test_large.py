"""A package of more than 32 bits everywhere: file, volume, offsets. `./scripts/test -m slow`, and 35 GiB of disk."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SIZE = 9 << 30
HOLE = 5 << 30


def write(folder: Path) -> dict[str, str]:
    """Write 9 GiB that nothing compresses, each MiB alike, and 5 GiB of holes; return their digests."""
    block = random.Random(9).randbytes(MIB)
    header = json.dumps({"w": {"dtype": "I8", "shape": [SIZE], "data_offsets": [0, SIZE]}}).encode()
    start = len(header).to_bytes(8, "little") + header
    found = {}
    folder.mkdir()
    digest = hashlib.sha256(start)
    with (folder / "noise.safetensors").open("wb") as stream:
        stream.write(start)
        for _ in range(SIZE // MIB):
            stream.write(block)
            digest.update(block)
    found["noise.safetensors"] = digest.hexdigest()
    with (folder / "holes.bin").open("wb") as stream:
        stream.truncate(HOLE + 1)
        stream.seek(HOLE)
        stream.write(b"x")
    digest = hashlib.sha256()
    for _ in range(HOLE // MIB):
        digest.update(bytes(MIB))
    digest.update(b"x")
    found["holes.bin"] = digest.hexdigest()
    return found


@pytest.mark.slow
def test_a_package_of_9_gib_in_one_volume_is_imported(
    tmp_path: Path, program: Callable[..., Any], new_bench: Callable[[], Any]
) -> None:
    if shutil.disk_usage(tmp_path).free < 35 << 30:
        pytest.skip("needs 35 GiB of disk")
    bench = new_bench()
    digests = write(tmp_path / "model")
    (tmp_path / "pack.toml").write_text(
        '[release]\nproduct = "large"\nversion = "1"\n[[model]]\nname = "m"\npath = "model"\nlicense = "MIT"\n'
    )
    site, medium = tmp_path / "site", tmp_path / "medium"
    words = ("-o", medium, "--workspace", bench.workspace, "--volume-size", "16GiB", "--json")
    built = program("build", tmp_path / "pack.toml", *words).json
    (volume,) = built["volumes"]
    assert Path(volume).stat().st_size > SIZE
    shutil.rmtree(tmp_path / "model")

    program("site", "init", site, "--root", bench.root)
    program("import", medium, "--site", site)

    for digest in digests.values():
        path = site / "store/blobs/sha256" / digest[:2] / digest
        with path.open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == digest
