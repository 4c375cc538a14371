"""Runs one harness to its end: see `./scripts/crash --help`. Exit code 1 and the finding where a law does not hold."""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from tests.crashes import aftermath, full, inject, power, race, schedules, trace, unplug
from tests.crashes.world import LawBrokenError

_MEMORY: Final = Path("/dev/shm")
FOUND, UNMEASURED = 1, 3
_EPILOG: Final = """\
exit codes: 0 all laws held; 1 one did not, and the last line says which, after what; 3 it cannot be run here
"""


def main() -> None:
    """Parse the command line and run what it names."""
    options = _parser().parse_args()
    harness = options.harness if options.harness in _HARNESSES else "random"
    count = int(options.harness) if harness == "random" else options.count
    began = time.monotonic()
    why_not, run = _HARNESSES[harness]
    reason = why_not()
    if reason:
        _stop(UNMEASURED, f"cannot be run here: {reason}")
    try:
        result = run(count, options)
    except LawBrokenError as error:
        _stop(FOUND, f"a law does not hold: {error}")
    print(f"{harness}: {result}, no law broken, {time.monotonic() - began:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/crash",
        description="Strikes a site at its durable steps and holds it to the laws.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "harness",
        type=_harness,
        help="a number: so many random schedules; or states, power, inject, full, race, unplug",
    )
    parser.add_argument("--stride", type=int, default=1, help="strike at one step in so many (default: at each)")
    parser.add_argument("--seed", type=int, default=1, help="of random schedules, races and kills")
    parser.add_argument("--count", type=int, default=200, help="rounds of race, or kills of unplug (default 200)")
    parser.add_argument("--folder", type=Path, help="where sites lie (default: memory, where there is some)")
    return parser


def _harness(word: str) -> str:
    if word not in _HARNESSES and not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither a number nor one of {', '.join(_HARNESSES)}")
    return word


def _stop(code: int, message: str) -> NoReturn:
    print(f"crash: {message}", file=sys.stderr)
    sys.exit(code)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _folder(options: argparse.Namespace) -> Path | None:
    chosen: Path | None = options.folder
    return chosen or (_MEMORY if os.access(_MEMORY, os.W_OK) else None)


def _random(count: int, options: argparse.Namespace) -> str:
    tally = schedules.Tally()
    for tally in schedules.run(count, options.seed, _folder(options)):
        _say(f"{tally.schedules} schedules, {sum(tally.struck.values())} strikes")
    return (
        f"{tally.schedules} schedules of seed {options.seed}, {sum(tally.struck.values())} strikes "
        f"({_counts(tally.struck)}), {sum(tally.through.values())} acts came through"
    )


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def _states(_count: int, options: argparse.Namespace) -> str:
    return f"{aftermath.run(options.stride, _say, _folder(options))} states, all planted mistakes caught"


def _power(_count: int, options: argparse.Namespace) -> str:
    return f"{power.run(options.stride, _say, options.folder)} power cuts"


def _inject(_count: int, options: argparse.Namespace) -> str:
    tally = inject.run(options.stride, _say, _folder(options))
    codes = _counts({f"exit {code}": times for code, times in tally.outcomes.items()})
    return f"{sum(tally.faults.values())} faults ({_counts(tally.faults)}; {codes})"


def _full(_count: int, options: argparse.Namespace) -> str:
    return f"full at {full.run(options.stride, _say, _folder(options))} steps"


def _race(count: int, options: argparse.Namespace) -> str:
    return f"{count} rounds of seed {options.seed} ({_counts(race.run(count, options.seed, _say, _folder(options)))})"


def _unplug(count: int, options: argparse.Namespace) -> str:
    tally = unplug.run(count, options.seed, _say, _folder(options))
    return (
        f"{tally.imports} imports of seed {options.seed}, {sum(tally.kills.values())} kills "
        f"({_counts(tally.kills)} of the chunks done), {tally.restarts} restarts"
    )


def _always() -> str:
    return ""


_Run = Callable[[int, argparse.Namespace], str]
_HARNESSES: Final[dict[str, tuple[Callable[[], str], _Run]]] = {
    "random": (_always, _random),
    "states": (trace.why_not, _states),
    "power": (power.why_not, _power),
    "inject": (trace.why_not, _inject),
    "full": (full.why_not, _full),
    "race": (_always, _race),
    "unplug": (_always, _unplug),
}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch
        main()
