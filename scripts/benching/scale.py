"""A model of 1 TB: its documents are real, its bytes simulated. What must not grow with it: head, memory, patience.

Every volume's real chunk table is made, hashed, and later read again; every file is listed, signed and admitted as any
other. Only digests of chunks are numbers instead of hashes, for there is nothing to hash.
"""

import json
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from scripts.benching.measure import apart, say
from scripts.benching.report import GOALS, goal, table

SIZE: Final = 1_000_000_000_000  # bytes of weights
SHARD: Final = 5_000_000_000
TENSOR: Final = 117_440_512  # bytes, bf16: 7168 x 8192
VOLUME: Final = 2 << 30
STORED: Final = 0.67  # of a bf16 frame


def run(folder: Path) -> dict[str, Any]:
    """Plan, list, sign and admit the package, in another process."""
    say("a model of 1 TB, simulated")
    answer = folder / "scale.json"
    apart(_measure, folder, answer)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _measure(folder: Path, answer: Path) -> None:
    from scripts.benching import terabyte  # noqa: PLC0415, only this process may hold what works

    began = time.perf_counter()
    package = terabyte.plan_package(folder)
    planned = time.perf_counter()
    terabyte.admit_package(package)
    admitted = time.perf_counter()
    answer.write_text(
        json.dumps(
            {
                "planning": planned - began,
                "admission": admitted - planned,
                "head": len(package.head),
                "volumes": len(package.manifest.volumes),
                "chunks": sum(info.entries for info in package.manifest.volumes),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            }
        )
    )


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return this part for people."""
    seconds = found["planning"] + found["admission"]
    rows = [
        goal("head, MiB", found["head"] / (1 << 20), 16, at_most=True),
        goal("planning and admission, s", seconds, 60, at_most=True),
        goal("memory, MiB", found["peak"] / (1 << 20), 256, at_most=True, form="{:.0f}"),
    ]
    text = f"{SIZE / 1e12:.0f} TB in {found['volumes']} volumes and {found['chunks']} chunks, its bytes simulated"
    return [
        f"{text}; planning took {found['planning']:.1f} s, admission {found['admission']:.1f} s.",
        "",
        *table([GOALS, *rows]),
    ]
