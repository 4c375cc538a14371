"""Random schedules: acts at a site, each struck by SIGKILL at a random durable step, held to the laws and to a model.

A schedule starts from one of several sites, does one to four acts of which most are struck (recovery included, since
each command begins with it), and ends with one act that comes to its end; some with gc, fsck, an export and an audit.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from tests.crashes import world as worlds
from tests.crashes.model import Model
from tests.crashes.strike import kill, struck
from tests.crashes.world import FAILING, VERSIONS, Act, LawBrokenError, World, hold

from airpack.catalog import catalog as catalogs

_MOST_STEPS = 220  # durable steps of the longest act; beyond it an act is not struck
_OFTEN_EARLY = 0.5  # share of strikes among the first steps: recovery, the intent
_EARLY = 40
_THOROUGH = 0.3  # share of schedules that end with fsck, gc, an export and an audit


@dataclass(slots=True)
class Tally:
    """What was done.

    Attributes:
        schedules: How many.
        struck: Act -> how often it was struck.
        through: Act -> how often it came to its end.
    """

    schedules: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    through: Counter[str] = field(default_factory=Counter)


def templates(world: World, folder: Path) -> list[Path]:
    """Make the sites that schedules start from: from empty to one with more releases than it keeps."""
    stages = (
        (),
        (Act("import", "1.0.0"),),
        (Act("activate", "1.0.0"), Act("import", "1.1.0")),
        (Act("activate", "1.1.0"), Act("import", "1.2.0"), Act("import", FAILING)),
        (Act("activate", "1.2.0"), Act("activate", FAILING), Act("import", "1.4.0")),
        (Act("activate", "1.4.0"), Act("import", "1.5.0")),
    )
    made = [world.site(folder / "template-0", bare=True)]
    for number, acts in enumerate(stages[1:], 1):
        made.append(worlds.run_all(world, worlds.copy_site(made[-1], folder / f"template-{number}"), acts))
    return made


def acts(dice: random.Random) -> Iterator[Act]:
    """Yield acts without end; now and then the same one again, as people do after a power cut."""
    last = Act("gc")
    while True:
        if dice.random() < 0.6:
            name = dice.choice(("import", "import", "activate", "activate", "rollback", "gc", "export", "fsck"))
            last = Act(name, dice.choice(VERSIONS) if name in {"import", "activate"} else "")
        yield last


def run_schedule(world: World, template: Path, place: Path, dice: random.Random, tally: Tally) -> None:
    """Run one schedule at a copy of `template`.

    Raises:
        LawBrokenError: A law does not hold; the message says after which acts.
    """
    worlds.copy_site(template, place)
    model = Model(worlds.see(place))
    told: list[str] = [template.name]
    drawn = acts(dice)
    try:
        for _ in range(dice.randint(1, 4)):
            act = next(drawn)
            at = dice.randint(1, _EARLY if dice.random() < _OFTEN_EARLY else _MOST_STEPS)
            told.append(f"{act} struck at {at}")
            before = worlds.entries(place)
            if struck(at, partial(act.run, world, place), kill):
                tally.through[act.name] += 1
                possible = [model.after(act)]
            else:
                tally.struck[act.name] += 1
                possible = list(model.cut_short(act))
            worlds.check_struck(place, before)
            model = _match(possible, worlds.check_settled(place))
        act = next(drawn)
        told.append(str(act))
        worlds.check_resumed(world, place, act, thorough=dice.random() < _THOROUGH)
    except LawBrokenError as error:
        raise LawBrokenError(f"{'; '.join(told)}: {error}") from error
    finally:
        worlds.remove_site(place)
    tally.schedules += 1


def _match(possible: Iterable[Model], seen: worlds.Seen) -> Model:
    """Return the model that shows what was seen; the one with most tries, where several do."""
    fitting = [model for model in possible if model.seen == seen]
    hold(fitting, f"the site shows {seen}; expected one of {[model.seen for model in possible]}")
    return max(fitting, key=lambda model: sum(model.tries.values()))


@contextmanager
def _engines_kept() -> Iterator[None]:
    """Keep a site's database engine, and with it the SQL it has compiled: half of the time of a schedule otherwise."""
    made = catalogs._engine
    catalogs._engine = cache(made)
    try:
        yield
    finally:
        catalogs._engine = made


@contextmanager
def _temporary_in(folder: str) -> Iterator[None]:
    """Keep what struck processes leave among the system's temporary files in a place that is cleared away."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def run(count: int, seed: int, folder: Path | None = None) -> Iterator[Tally]:
    """Run `count` schedules, and yield the tally now and then, and at the end.

    Args:
        count: How many.
        seed: Schedule number N of a seed is the same each time.
        folder: Where the sites lie; one in memory is quickest, and a kill loses nothing there either.

    Raises:
        LawBrokenError: A law does not hold; the message names seed and number.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="airpack-crash-", dir=folder) as name, _temporary_in(name), _engines_kept():
        world = World.make(Path(name) / "world")
        starts = templates(world, Path(name))
        said = time.monotonic()
        for number in range(count):
            dice = random.Random(f"{seed}:{number}")
            try:
                run_schedule(world, dice.choice(starts), Path(name) / "site", dice, tally)
            except LawBrokenError as error:
                raise LawBrokenError(f"seed {seed}, schedule {number}: {error}") from error
            if time.monotonic() - said > 5:
                said = time.monotonic()
                yield tally
        yield tally
        for template in starts:
            worlds.remove_site(template)
