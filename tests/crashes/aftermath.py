"""Holds every state that a power cut may leave of a real command to the laws; and catches planted mistakes by them."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from tests.crashes import planted, states, trace
from tests.crashes import world as worlds
from tests.crashes.cases import CASES, Case
from tests.crashes.states import Census
from tests.crashes.world import LawBrokenError, World, hold

_RESUMED: Final = 7  # one state in so many is also worked on until the act has come to its end


def check(world: World, folder: Path, case: Case, *, stride: int = 1, mistake: str = "") -> Census:
    """Trace one command, and hold the states that it may leave to the laws.

    Args:
        world: Where its package comes from.
        folder: Where sites are laid out; in memory is quickest.
        case: The command.
        stride: Look at one state in so many; those at the end, which were acknowledged, are all looked at.
        mistake: One of `planted.MISTAKES`, or "" for the command line as it is.

    Raises:
        LawBrokenError: A law does not hold.
    """
    template = worlds.run_all(world, world.site(folder / "template"), case.before)
    traced = worlds.copy_site(template, folder / "traced")
    program = [sys.executable, "-m", "tests.crashes.planted", mistake] if mistake else [_airpack()]
    ops = trace.record(traced, [*program, *case.words(world, traced)], folder / "strace", code=case.code)
    before, after, seen = worlds.entries(template), worlds.entries(traced), worlds.see(traced)
    census, taken = Census(), count()
    try:
        for number, tree in states.enumerate_states(states.load(template), ops, census):
            acknowledged = number == len(ops)
            if next(taken) % stride and not acknowledged:
                continue
            place = states.lay_out(tree, folder / "left", template, worlds.copy_site)
            try:
                worlds.check_struck(place, after if acknowledged else before)
                settled = worlds.check_settled(place)
                hold(not acknowledged or settled == seen, f"{seen} was acknowledged, {settled} is left")
                if census.states % _RESUMED == 0:
                    worlds.check_resumed(world, place, case.act)
            except LawBrokenError as error:
                raise LawBrokenError(f"{case}, after {number} of {len(ops)} operations: {error}") from error
            finally:
                worlds.remove_site(place)
    finally:
        for site in (template, traced):
            worlds.remove_site(site)
    return census


def _airpack() -> str:
    return str(Path(sys.executable).parent / "airpack")


def run(stride: int, say: Callable[[str], None], folder: Path | None = None) -> int:
    """Check all cases, then see that each planted mistake is caught; return how many states were told apart.

    Raises:
        LawBrokenError: A law does not hold, or a planted mistake was not caught.
    """
    with tempfile.TemporaryDirectory(prefix="airpack-states-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        total = 0
        for case in CASES:
            census = check(world, Path(name), case, stride=stride)
            total += census.states
            drawn = f", drawn at {census.drawn} of them" if census.drawn else ""
            say(f"{case}: {census.states} states at {census.moments} moments{drawn}")
        for mistake, found in caught(world, Path(name), stride):
            say(f"planted {mistake}: caught: {found}")
    return total


def caught(world: World, folder: Path, stride: int) -> Iterator[tuple[str, str]]:
    """Yield each planted mistake with the law that it breaks.

    Raises:
        LawBrokenError: One was not caught.
    """
    for mistake in planted.MISTAKES:
        try:
            check(world, folder, CASES[0], stride=stride, mistake=mistake)
        except LawBrokenError as error:
            yield mistake, str(error)
        else:
            raise LawBrokenError(f"the planted mistake {mistake} was not caught")
