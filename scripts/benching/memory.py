"""Peak memory and temporary disk of build, verify and import: promises that a machine can be held to."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from scripts.benching import data, desk
from scripts.benching.measure import Usage, apart, measure, say, stop
from scripts.benching.report import MB, mib, table

WEIGHTS: Final = 128 << 20  # bytes of peak memory, for any size of model
RUNTIMES: Final = 192 << 20  # with runtimes
TEMP: Final = 0.05  # of the result, on disk beside it
_SEED: Final = 20_260_101


def run(folder: Path, size: int, runtime: Path) -> dict[str, Any]:
    """Build, verify and import one model alone, and one with a runtime; return the figures and whether all holds."""
    say(f"making a model of {mib(size)}")
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text('{"architectures": ["Synthetic"], "torch_dtype": "bfloat16"}\n')
    apart(data.write_weights, folder / "model/model.safetensors", size, _SEED)
    shutil.copytree(runtime, folder / "runtime")
    desk.make_workspace(folder)
    parts: dict[str, dict[str, Any]] = {}
    for name, spec, limit in (
        ("weights", {"model": "model"}, WEIGHTS),
        ("with a runtime", {"model": "model", "runtime": "runtime"}, RUNTIMES),
    ):
        desk.write_spec(folder, f"1.{len(parts)}", **spec)
        parts[name] = _steps(folder, name, limit)
        for made in ("package", "site"):
            shutil.rmtree(folder / made)
    return {"holds": all(part["holds"] for part in parts.values()), "parts": parts}


def _steps(folder: Path, name: str, limit: int) -> dict[str, Any]:
    steps: dict[str, Usage] = {}
    package, site = folder / "package", folder / "site"
    package.mkdir()
    desk.make_site(folder)
    built: dict[str, Any] = {}
    for step, command, watch in (
        ("build", desk.build_command("package"), package),
        ("verify", desk.VERIFY, package),
        ("import", desk.IMPORT, site),
    ):
        os.sync()
        say(f"measuring {step}, {name}")
        steps[step], said = measure(command, folder=folder, watch=watch)
        answer = json.loads(said)
        built = built or answer
        if answer["release"] != built["release"]:
            stop(f"{step} names release {answer['release']}, build made {built['release']}")
    results = {"build": built["bytes_packed"], "verify": built["bytes_packed"], "import": built["bytes_raw"]}
    return {
        "bytes_raw": built["bytes_raw"],
        "bytes_packed": built["bytes_packed"],
        "limit": limit,
        "holds": all(
            used.peak < limit and (used.temp or 0) <= TEMP * results[step] + (1 << 20) for step, used in steps.items()
        ),
        "steps": {step: asdict(used) for step, used in steps.items()},
    }


def lines(memory: Mapping[str, Any]) -> list[str]:
    """Return this part for people."""
    found: list[str] = []
    for name, part in memory["parts"].items():
        raw, packed = part["bytes_raw"], part["bytes_packed"]
        rows = [(f"{mib(raw)}, {name}", "wall s", "CPU s", "MB/s", "MB per CPU s", "peak memory", "temporary disk")]
        for step, used in part["steps"].items():
            speeds = (f"{raw / used[figure] / MB:.0f}" for figure in ("wall", "cpu"))
            figures = (f"{used['wall']:.1f}", f"{used['cpu']:.1f}", *speeds, mib(used["peak"]), mib(used["temp"]))
            rows.append((step, *figures))
        found += [*table(rows), "", f"Package: {mib(packed)}, {packed / raw:.3f} of the files. {verdict(part)}", ""]
    return found[:-1]


def verdict(part: Mapping[str, Any]) -> str:
    """Return what became of the promise."""
    peak = max(used["peak"] for used in part["steps"].values())
    verdict = "holds" if part["holds"] else "FAILS"
    return f"Peak memory under {mib(part['limit'])}, temporary disk under {TEMP:.0%}: {verdict} (at most {mib(peak)})."
