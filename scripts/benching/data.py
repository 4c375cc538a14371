"""Synthetic models, the same bytes on every run and machine: Gaussian weights, and fine-tuned copies of them.

Their entropy is that of real weights, so the sizes carry over (docs/performance.md has one real model beside them).
Everything here runs in a process of its own (`measure.apart`), for numpy's memory must not count as a command's.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

COLUMNS: Final = 4096  # weights in a row
_BLOCK: Final = 128  # rows made at once
_TENSOR: Final = 4096  # rows of a whole tensor
_WIDTHS: Final = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1}  # bytes of a weight


def write_weights(path: Path, size: int, seed: int, dtype: str = "BF16") -> None:
    """Write a safetensors file of Gaussian weights, each tensor and each column with a scale of its own.

    Args:
        path: The file.
        size: Bytes of weights, rounded down to whole rows.
        seed: Same seed, same bytes.
        dtype: `BF16`, `F16`, `F32` or `I8`.
    """
    import numpy as np  # noqa: PLC0415, only this process may hold numpy

    random = np.random.Generator(np.random.SFC64(seed))
    row = _WIDTHS[dtype] * COLUMNS
    heights = [min(_TENSOR, size // row - at) for at in range(0, size // row, _TENSOR)]
    with path.open("wb") as stream:
        stream.write(_header(heights, dtype))
        for height in heights:
            scales = (0.02 * np.exp(0.3 * random.standard_normal(COLUMNS))).astype(np.float32)
            for start in range(0, height, _BLOCK):
                shape = (min(_BLOCK, height - start), COLUMNS)
                weights = random.standard_normal(shape, dtype=np.float32) * scales
                stream.write(_encoded(weights, dtype, scales))


def write_tuned(source: Path, target: Path, share: float, relative: float, seed: int) -> None:
    """Write a copy of a bf16 file in which a share of the tensors is changed by a relative Gaussian error.

    As when weights are tuned in fp32 and rounded afterwards: changed are numbers that round to those of `source`.

    Args:
        source: A safetensors file of `BF16`, as `write_weights` writes it.
        target: The copy.
        share: Of the tensors, from the first on.
        relative: Standard deviation of the error, relative to each weight.
        seed: Same seed, same bytes.
    """
    import numpy as np  # noqa: PLC0415, as above

    random = np.random.Generator(np.random.SFC64(seed))
    with source.open("rb") as reader, target.open("wb") as writer:
        length = int.from_bytes(reader.read(8), "little")
        text = reader.read(length)
        writer.write(length.to_bytes(8, "little") + text)
        tensors = sorted(json.loads(text).values(), key=lambda tensor: int(tensor["data_offsets"][0]))
        for number, tensor in enumerate(tensors):
            is_changed = number < share * len(tensors)
            start, stop = tensor["data_offsets"]
            for size in _pieces(stop - start):
                data = reader.read(size)
                if is_changed:
                    bits = np.frombuffer(data, "<u2").astype(np.int64) << 16
                    master = (
                        (bits + random.integers(-(1 << 15), 1 << 15, bits.shape)).astype(np.uint32).view(np.float32)
                    )
                    data = _bf16(master * (1 + relative * random.standard_normal(bits.shape, dtype=np.float32)))
                writer.write(data)


def _pieces(size: int) -> Iterator[int]:
    for at in range(0, size, 1 << 20):
        yield min(1 << 20, size - at)


def _encoded(weights: Any, dtype: str, scales: Any) -> bytes:
    import numpy as np  # noqa: PLC0415, as above

    if dtype == "BF16":
        return _bf16(weights)
    if dtype == "I8":  # scaled by column, as quantisers do
        return bytes(np.clip(np.round(weights / scales * 32), -127, 127).astype(np.int8).tobytes())
    return bytes(weights.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes())


def _bf16(weights: Any) -> bytes:
    """Round to bf16: to the nearest, ties to even."""
    import numpy as np  # noqa: PLC0415, as above

    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes())


def _header(heights: Sequence[int], dtype: str) -> bytes:
    tensors, at = {}, 0
    for number, height in enumerate(heights):
        end = at + height * COLUMNS * _WIDTHS[dtype]
        tensors[f"layers.{number}.weight"] = {"dtype": dtype, "shape": [height, COLUMNS], "data_offsets": [at, end]}
        at = end
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
