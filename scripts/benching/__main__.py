"""What build, verify and import cost: memory, disk, time, size. Run by `./scripts/bench`.

    memory   one model is built, verified and imported, alone and with a runtime; peaks and disk are promises
    speed    against the shell pipelines that do the same without proof, and against what two cores could do
    sizes    by type of weight, as deltas, beside restic, casync, borg and zstd --patch-from
    parity   what parity volumes cost
    scale    a model of 1 TB whose bytes are simulated: head, planning, admission

Models are synthetic, the same bytes every time. CPU seconds are the figure to trust: wall time on a shared machine says
as much about its other users.

Exit codes: 0; 1 when a promise of memory or disk fails, and only then; 2 for wrong usage; 3 when it cannot be measured.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from scripts.benching import memory, parity, scale, sizes, speed
from scripts.benching.machine import check_room, check_tools, describe_machine, runtime_tree
from scripts.benching.measure import stop
from scripts.benching.report import machine_lines, split_page, write_page

import airpack
from airpack.errors import InputError
from airpack.formats.sizes import parse_size

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PAGE: Final = REPOSITORY / "docs/performance.md"
FAILED: Final = 1
LINES: Final[Mapping[str, Callable[[Mapping[str, Any]], list[str]]]] = {
    "memory": memory.lines,
    "speed": speed.lines,
    "sizes": sizes.lines,
    "parity": parity.lines,
    "scale": scale.lines,
}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=_size, default="4GiB", help="model of the part 'memory' (4GiB)")
    parser.add_argument("--speed-size", type=_size, default="2GiB", help="model of the part 'speed' (2GiB)")
    parser.add_argument("--other-size", type=_size, default="256MiB", help="models of the parts behind (256MiB)")
    parser.add_argument("--rounds", type=_rounds, default="3", help="rounds of the part 'speed' (3)")
    parser.add_argument("--part", choices=list(LINES), action="append", help="what to measure (all); repeatable")
    parser.add_argument("--runtime", type=Path, help="runtime tree to pack (by default the digits example's wheels)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on (the temporary folder's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, metavar="PAGE", help="update the tables in docs/performance.md"
    )
    return parser.parse_args(words)


def main() -> int:
    """Measure, show, and keep the promises that a machine can be held to."""
    chosen = arguments()
    parts = [part for part in LINES if part in (chosen.part or LINES)]
    if "speed" in parts:
        check_tools(speed.TOOLS)
    if chosen.write:
        _page(chosen.write)
    signal.signal(signal.SIGTERM, _interrupt)
    results: dict[str, Any] = {
        "schema": "airpack.bench/2",
        "date": datetime.now(UTC).date().isoformat(),
        "airpack": airpack.__version__,
        "machine": describe_machine(chosen.folder),
    }
    with tempfile.TemporaryDirectory(prefix="airpack-bench-", dir=chosen.folder) as folder:
        for part in reversed(parts):  # the quick ones first: what is missing here is found soon
            results[part] = _measured(part, chosen, Path(folder))
            if chosen.json:  # what was measured stays, whatever becomes of the rest
                chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    lines = machine_lines(results)
    for part in parts:
        lines += ["", f"### {part.capitalize()}", "", *LINES[part](results[part])]
    print("\n".join(lines))
    if chosen.write:
        write_page(chosen.write, lines)
    return 0 if results.get("memory", {}).get("holds", True) else FAILED


def _measured(part: str, chosen: argparse.Namespace, disk: Path) -> dict[str, Any]:
    """Run one part in a folder of its own, which goes when it ends."""
    # A model, its package and its copy at the site; then also the .tar.zst and what it unpacks to, twice.
    needed = {"memory": 3 * chosen.size, "speed": 6 * chosen.speed_size, "scale": 0}.get(part, 8 * chosen.other_size)
    check_room(disk, needed)
    with tempfile.TemporaryDirectory(prefix=f"{part}-", dir=disk) as name:
        folder = Path(name)
        if part == "scale":
            return scale.run(folder)
        if part == "parity":
            return parity.run(folder, chosen.other_size)
        runtime = chosen.runtime or runtime_tree(disk)
        if part == "memory":
            return memory.run(folder, chosen.size, runtime)
        if part == "speed":
            return speed.run(folder, chosen.speed_size, chosen.rounds, runtime)
        return sizes.run(folder, chosen.other_size, runtime)


def _page(page: Path) -> None:
    try:
        split_page(page)
    except ValueError as error:
        stop(str(error))


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(error.message) from error
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"at least 1MiB; found {text}")
    return size


def _rounds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a number from 1; found {text}")
    return int(text)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave as after Ctrl-C: children end, folders go."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
