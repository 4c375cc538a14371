"""What parity costs: CPU to make it, and to make up for a lost volume."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from scripts.benching import data, desk
from scripts.benching.measure import Usage, apart, bytes_in, measure, median, say
from scripts.benching.report import GOALS, MB, goal, mib, table

VOLUMES: Final = 10
_ROUNDS: Final = 3
_SEED: Final = 20_260_301


def run(folder: Path, size: int) -> dict[str, Any]:
    """Build the same package of ten volumes without and with one of parity, and import it whole and with one lost."""
    (folder / "model").mkdir()
    apart(data.write_weights, folder / "model/model.safetensors", size, _SEED)
    desk.make_workspace(folder)
    desk.write_spec(folder, "1.0", model="model")
    packed = bytes_in(*(Path(name) for name in desk.build(folder, "package")["volumes"]))
    shutil.rmtree(folder / "package")
    volume = ("--volume-size", str(packed // VOLUMES + (1 << 20)))
    builds: dict[str, list[Usage]] = {"without": [], "with": []}
    for number in range(2 * _ROUNDS):
        name, options = ("with", ("--parity", "1")) if number % 2 else ("without", ())
        desk.write_spec(folder, f"1.{number + 1}", model="model")
        os.sync()
        say(f"a build of {VOLUMES} volumes, {name} parity")
        builds[name].append(measure(desk.build_command("package", *volume, *options), folder=folder)[0])
        if number + 1 < 2 * _ROUNDS:
            shutil.rmtree(folder / "package")
    imports = {}
    for name in ("all there", "one lost"):
        if name == "one lost":
            sorted((folder / "package").glob("*.0*.airvol"))[3].unlink()
        desk.make_site(folder)
        os.sync()
        say(f"an import, {name}")
        imports[name] = asdict(measure(desk.IMPORT, folder=folder)[0])
        shutil.rmtree(folder / "site")
    cost = median(builds["with"], "cpu") - median(builds["without"], "cpu")
    return {
        "bytes_raw": size,
        "bytes_packed": packed,
        "encode": _encode_alone(folder),
        "cost": cost,
        "imports": imports,
    }


def _encode_alone(folder: Path) -> float:
    """Return the CPU seconds that the code alone takes for a GB of ten volumes."""
    answer = folder / "parity.json"
    apart(_encode, answer)
    seconds: float = json.loads(answer.read_text())
    return seconds


def _encode(answer: Path) -> None:
    from airpack.transport.parity import Code, slice_size  # noqa: PLC0415, only this process may hold what works

    code = Code(VOLUMES, 1)
    slices = [os.urandom(slice_size(VOLUMES + 1)) for _ in range(VOLUMES)]
    count = 1_000 * MB // sum(map(len, slices))
    began = time.process_time()
    for _ in range(count):
        code.encode(slices)
    answer.write_text(json.dumps(time.process_time() - began))


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return this part for people."""
    packed = found["bytes_packed"] / MB
    rows = [(f"import of {mib(found['bytes_raw'])}, {VOLUMES} + 1 volumes", "wall s", "CPU s", "peak memory")]
    rows += [
        (name, f"{used['wall']:.2f}", f"{used['cpu']:.2f}", mib(used["peak"]))
        for name, used in found["imports"].items()
    ]
    goals = [
        goal(f"the code alone, {VOLUMES} + 1 volumes, MB per CPU-second", 1_000 / found["encode"], 300, form="{:.0f}"),
        goal("all that --parity 1 adds to a build, likewise", packed / max(found["cost"], 1e-3), 300, form="{:.0f}"),
    ]
    return [*table([GOALS, *goals]), "", *table(rows)]
