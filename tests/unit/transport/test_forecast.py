import io
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from airpack.errors import IntegrityError
from airpack.facts.tensors import read_layout
from airpack.transport import forecast as module
from airpack.transport.forecast import forecast
from airpack.transport.writer import VOLUME_SIZE, PackWriter
from airpack.types import Silent, Source

RANDOM = np.random.default_rng(3)


def source(path: str, data: bytes, *, solid: bool = False) -> Source:
    name = "safetensors" if path.endswith(".safetensors") else ""
    return Source(
        path,
        len(data),
        lambda: io.BytesIO(data),
        tensors=read_layout(name, io.BytesIO(data), len(data)).tensors,
        solid=solid,
    )


def sources() -> list[Source]:
    arrays: dict[str, Any] = {f"w{number}": RANDOM.normal(0, 0.02, 500_000).astype("f4") for number in range(8)}
    arrays |= {f"small{number}": RANDOM.normal(0, 0.02, 300).astype("f2") for number in range(50)}
    return [
        source("lib.so", b"code " * 50_000, solid=True),
        source("other.so", bytes(3_000_000), solid=True),
        source("w.safetensors", safetensors.numpy.save(arrays)),
        source("config.json", b"{}" * 100),
        source("empty", b""),
        source("again.json", b"{}" * 100),
    ]


def written(folder: Any, files: list[Source]) -> int:
    with PackWriter(folder, "tool") as writer:
        writer.pack(files)
        _, volumes = writer.close()
        writer.seal(b"payload")
    return sum(volume.size for volume in volumes)


def told(files: list[Source]) -> module.Forecast:
    return forecast(files, None, volume_size=VOLUME_SIZE, reporter=Silent())


def test_with_every_frame_coded_it_is_what_is_written(tmp_path: Any) -> None:
    found = told(sources())
    assert found.is_exact
    # But for slots of the table that stay free.
    assert written(tmp_path / "out", sources()) - 64 * 16 <= found.bytes <= written(tmp_path / "again", sources())


def test_with_few_frames_coded_it_is_near_and_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLES", 4)
    found = told(sources())
    assert not found.is_exact
    assert found.coded < found.frames
    assert found.bytes == pytest.approx(written(tmp_path / "out", sources()), rel=0.02)


def test_nothing_is_nothing() -> None:
    assert told([]) == module.Forecast(0, 0, 0)
    assert told([source("a", b"")]).bytes == 0


def test_a_file_that_is_shorter_than_announced_is_refused() -> None:
    with pytest.raises(IntegrityError):
        told([Source("a", 10, lambda: io.BytesIO(b"x" * 9))])
