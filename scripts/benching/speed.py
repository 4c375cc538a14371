"""Build and import against the shell pipelines that do the same without proof, and against what two cores could do.

Both sides work on the same files, in alternating rounds, the order turned each time.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from scripts.benching import alone, data, desk
from scripts.benching.measure import Usage, apart, bytes_in, measure, median, say, speed, stop, warm_memory
from scripts.benching.report import GOALS, goal, mib, spread, table

TOOLS: Final = {"tar": "tar", "zstd": "zstd", "openssl": "openssl", "sync": "coreutils", "sha256sum": "coreutils"}
_SEED: Final = 20_260_102

_PACK: Final = """\
set -euo pipefail
exec 3> >(exec {digest} >"$1.digest")
hash=$!
tar -cf - model runtime | zstd -q -T2 -3 | tee /dev/fd/3 >"$1"
exec 3>&-
wait "$hash"
"""
_UNPACK: Final = """\
set -euo pipefail
zstd -q -dc "$1" | tar -C "$2" -xf - && sync -f "$2"
"""
_CHECKED: Final = 'set -euo pipefail\nsha256sum --quiet -c "$1.sum"\n' + _UNPACK.partition("\n")[2]

BUILD, IMPORT = "airpack build", "airpack import"
OPENSSL, COREUTILS = "tar, zstd -T2 -3, openssl dgst", "tar, zstd -T2 -3, sha256sum"
PLAIN, CHECKED = "zstd -d, tar x, sync -f", "sha256sum -c, then zstd -d, tar x, sync -f"
ROUND: Final = ((BUILD, OPENSSL, COREUTILS), (IMPORT, PLAIN, CHECKED))
COMMANDS: Final[Mapping[str, Sequence[str | Path]]] = {
    BUILD: desk.build_command("package"),
    OPENSSL: ("bash", "-c", _PACK.format(digest="openssl dgst -sha256"), "bash", "plain.tar.zst"),
    COREUTILS: ("bash", "-c", _PACK.format(digest="sha256sum"), "bash", "plain.tar.zst"),
    IMPORT: desk.IMPORT,
    PLAIN: ("bash", "-c", _UNPACK, "bash", "plain.tar.zst", "plain"),
    CHECKED: ("bash", "-c", _CHECKED, "bash", "plain.tar.zst", "checked"),
}


def run(folder: Path, size: int, rounds: int, runtime: Path) -> dict[str, Any]:
    """Run airpack and the pipelines in turn; return all figures, medians and ratios.

    Args:
        folder: Where to work.
        size: Bytes of weights: four bf16 shards and an int8 one, of a fifth each.
        rounds: How often each runs.
        runtime: The runtime tree.
    """
    say(f"making a model of {mib(size)}")
    (folder / "model").mkdir()
    for number in range(4):
        apart(data.write_weights, folder / f"model/model-{number}.safetensors", size // 5, _SEED + number)
    apart(data.write_weights, folder / "model/model-int8.safetensors", size // 5, _SEED + 4, "I8")
    shutil.copytree(runtime, folder / "runtime")
    desk.make_workspace(folder)
    raw = bytes_in(folder / "model", folder / "runtime")
    runs: dict[str, list[Usage]] = {name: [] for names in ROUND for name in names}
    sizes: dict[str, int] = {}
    for number in range(1, rounds + 1):
        desk.write_spec(folder, f"1.{number}", model="model", runtime="runtime")  # an identical rebuild signs less
        desk.make_site(folder)
        for name in ("plain", "checked"):
            (folder / name).mkdir()
        for names in ROUND:
            for name in names if number % 2 else reversed(names):
                os.sync()  # no command pays for writing out what the one before left in memory
                warm_memory(2 * raw)
                say(f"round {number} of {rounds}: {name}")
                runs[name].append(measure(COMMANDS[name], folder=folder)[0])
                if name in {OPENSSL, COREUTILS}:
                    measure(("bash", "-c", "sha256sum plain.tar.zst >plain.tar.zst.sum"), folder=folder)
        sizes = {"bytes_packed": bytes_in(folder / "package"), "bytes_tar": bytes_in(folder / "plain.tar.zst")}
        for name in ("plain", "checked"):
            _check_plain(folder / name, raw)
        ceiling = alone.run(folder) if number == rounds else {}
        for name in ("package", "site", "plain", "checked"):
            shutil.rmtree(folder / name)
        (folder / "plain.tar.zst").unlink()
    return {
        "bytes_raw": raw,
        **sizes,
        "rounds": rounds,
        "runs": {name: [asdict(usage) for usage in usages] for name, usages in runs.items()},
        "speed": {theirs: speed(runs[ours], runs[theirs]) for ours, *others in ROUND for theirs in others},
        "ceiling": ceiling,
        "ceiling_share": sum(ceiling.values()) / 2 / median(runs[BUILD], "wall"),
    }


def _check_plain(folder: Path, raw: int) -> None:
    """Hold the pipelines to having done their work: a broken one would be very fast."""
    if bytes_in(folder) != raw:
        stop("tar and zstd did not bring the files back")


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return this part for people."""
    rows = [
        (f"{mib(found['bytes_raw'])}, {found['rounds']} rounds", "wall s (min to max)", "CPU s (min to max)", "airpack")
    ]
    for name, runs in found["runs"].items():
        wall, cpu = (spread([run[figure] for run in runs]) for figure in ("wall", "cpu"))
        ratio = found["speed"].get(name)
        rows.append((name, wall, cpu, f"{ratio['wall']:.2f}x, CPU {ratio['cpu']:.2f}x" if ratio else ""))
    ceiling = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["ceiling"].items())
    return [*table(rows), "", f"Each measured alone, on one core: {ceiling}.", "", *table([GOALS, *goals(found)])]


def goals(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of goals."""
    ratio = {name: each["wall"] for name, each in found["speed"].items()}
    return [
        goal(f"build, times as fast as {OPENSSL}", ratio[OPENSSL], 1.7),
        goal(f"build, times as fast as {COREUTILS}", ratio[COREUTILS], 2.5),
        goal("build, of the two-core ceiling", found["ceiling_share"], 0.70),
        goal("package, of the .tar.zst", found["bytes_packed"] / found["bytes_tar"], 0.90, at_most=True),
        goal(f"import, times as fast as {PLAIN}", ratio[PLAIN], 1.1),
        goal(f"import, times as fast as {CHECKED}", ratio[CHECKED], 2.5),
    ]
