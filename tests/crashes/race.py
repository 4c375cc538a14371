"""Four importers, three gcs and one activation at once at one site, one of them killed; nobody waits for ever.

Each is a process that tries again while another holds the site. Whoever held the lock when it was killed held it by
`flock`, which ends with the process. The clock of one importer stands a day back.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn

from tests.crashes import world as worlds
from tests.crashes.strike import BROKEN, REFUSED, THROUGH
from tests.crashes.world import Act, LawBrokenError, World, hold

from airpack.errors import AirpackError, BusyError
from airpack.ops import site as sites

_START: Final = tuple(Act(name, version) for version in ("1.0.0", "1.1.0") for name in ("import", "activate"))
_TOGETHER: Final = (
    *(Act("import", version) for version in ("1.2.0", "1.3.0", "1.4.0", "1.5.0")),
    *(Act("gc"),) * 3,
    Act("activate", "1.1.0"),
)
_PATIENCE: Final = 60  # seconds until a process counts as hung
_PAUSE: Final = 0.01  # seconds between two tries
_LONGEST: Final = 0.4  # seconds after which one is killed, at the latest
_SLOW: Final = timedelta(days=1)


def run_round(world: World, template: Path, place: Path, dice: random.Random, tally: Counter[str]) -> None:
    """Run one round at a copy of `template`.

    Raises:
        LawBrokenError: A law does not hold, or somebody hangs.
    """
    worlds.copy_site(template, place)
    before = worlds.entries(place)
    acts = list(_TOGETHER)
    dice.shuffle(acts)
    children = {_start(world, place, act, slow=number == 0): act for number, act in enumerate(acts)}
    victim = dice.choice(list(children))
    time.sleep(dice.uniform(0, _LONGEST))
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    for child, act in children.items():
        status = _wait(child, deadline)
        if child == victim and os.WIFSIGNALED(status):
            tally["killed"] += 1
        else:
            hold(os.WIFEXITED(status) and os.WEXITSTATUS(status) == THROUGH, f"{act} ended with status {status}")
            tally[act.name] += 1
    worlds.check_struck(place, before)
    worlds.check_settled(place)
    seen = worlds.check_resumed(world, place, children[victim])
    newer = {act.version for act in _TOGETHER if act.name == "import"}
    hold(newer <= set(seen.states), f"an import that was acknowledged is gone: {seen}")
    hold(seen.active == "1.1.0", f"{seen.active} runs, expected 1.1.0")
    worlds.remove_site(place)


def _start(world: World, place: Path, act: Act, *, slow: bool) -> int:
    child = os.fork()
    if child == 0:
        _child(world, place, act, slow=slow)
    return child


def _child(world: World, place: Path, act: Act, *, slow: bool) -> NoReturn:
    if slow:
        sites.utc_now = _yesterday
    while True:
        try:
            act.run(world, place)
        except BusyError:
            time.sleep(_PAUSE)
        except AirpackError as error:
            os.write(2, f"{act}: {error.code}: {error.message}\n".encode())
            os._exit(REFUSED)
        except BaseException as error:  # noqa: BLE001, a forked child must never go on as its parent
            os.write(2, f"{act}: {type(error).__name__}: {error}\n".encode())
            os._exit(BROKEN)
        else:
            os._exit(THROUGH)


_now = sites.utc_now


def _yesterday() -> datetime:
    return _now() - _SLOW


def _wait(child: int, deadline: float) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise LawBrokenError("a command hangs although nobody holds the site")
        time.sleep(_PAUSE)


def run(rounds: int, seed: int, say: Callable[[str], None], folder: Path | None = None) -> Counter[str]:
    """Run `rounds` rounds; return act -> how often it came to its end, and how many were killed.

    Raises:
        LawBrokenError: A law does not hold; the message names seed and round.
    """
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="airpack-race-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        template = worlds.run_all(world, world.site(Path(name) / "template", bare=True), _START)
        for number in range(rounds):
            dice = random.Random(f"{seed}:{number}")
            try:
                run_round(world, template, Path(name) / "site", dice, tally)
            except LawBrokenError as error:
                raise LawBrokenError(f"seed {seed}, round {number}: {error}") from error
            if number % 20 == 19:
                say(f"{number + 1} rounds: {dict(tally)}")
        worlds.remove_site(template)
    return tally
