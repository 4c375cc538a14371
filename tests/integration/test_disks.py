"""The quick part of `./scripts/crash`: each harness over some of its steps, and over all of them by that script.

A machine that cannot run one of them says why; `.ci/run` installs what they need.
"""

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.crashes import aftermath, full, inject, planted, power, race, schedules, trace, unplug
from tests.crashes.cases import CASES, Case
from tests.crashes.strike import struck
from tests.crashes.world import (
    Act,
    LawBrokenError,
    World,
    check_resumed,
    check_settled,
    check_struck,
    copy_site,
    entries,
    remove_site,
    run_all,
)


@pytest.fixture(scope="module")
def folder(memory: Path) -> Path:
    """A folder in memory: these tests copy sites all the time."""
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return World.make(folder / "world")


def needed(why_not: Callable[[], str]) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


def test_random_schedules_hold_the_laws_and_the_model(folder: Path) -> None:
    *_, tally = schedules.run(20, 20_261_126, folder)
    assert tally.schedules == 20
    assert sum(tally.struck.values()) > 15


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.act.name in {"rollback", "export", "fsck"}], ids=lambda case: case.act.name
)
def test_a_kill_at_every_step_is_taken_up_again(world: World, folder: Path, case: Case) -> None:
    """Of import, activate, fallback and gc, test_crash.py does the same."""
    template = run_all(world, world.site(folder / "template"), case.before)
    for at in itertools.count(1):
        place = copy_site(template, folder / "struck")
        through = struck(at, partial(case.act.run, world, place))
        check_struck(place, entries(template))
        check_settled(place)
        check_resumed(world, place, case.act, thorough=at % 5 == 0)
        remove_site(place)
        if through:
            break
    remove_site(template)
    assert at > 10


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_state_that_a_power_cut_may_leave_holds_the_laws(world: World, folder: Path, case: Case) -> None:
    needed(trace.why_not)
    census = aftermath.check(world, folder, case, stride=25)
    assert census.states > 5
    assert census.drawn == 0, "small releases leave few enough states for all of them"


@pytest.mark.parametrize("mistake", planted.MISTAKES)
def test_a_planted_mistake_of_order_is_caught(world: World, folder: Path, mistake: str) -> None:
    needed(trace.why_not)
    with pytest.raises(LawBrokenError):
        aftermath.check(world, folder, CASES[0], stride=3, mistake=mistake)


def test_a_disk_that_loses_power_holds_the_laws(world: World) -> None:
    needed(power.why_not)
    with tempfile.TemporaryDirectory() as name, power.disk(Path(name)) as made:
        for case in CASES:
            assert power.cut_at_steps(world, made, case, stride=37) >= 2


@pytest.mark.parametrize("number", [0, 2], ids=["import", "activate"])
def test_the_command_line_survives_errors_and_kills_by_the_system(world: World, folder: Path, number: int) -> None:
    needed(trace.why_not)
    tally = inject.Injections()
    inject.sweep(world, folder, CASES[number], tally, stride=43)
    assert {fault.split(":")[1] for fault in tally.faults} == set(inject.FAULTS)
    assert {0, 20} & set(tally.outcomes)


def test_a_disk_that_is_full_at_any_step_holds_the_laws(world: World, tmp_path: Path) -> None:
    needed(full.why_not)
    with full.disk(tmp_path):
        for case in CASES:
            assert full.sweep(world, tmp_path, case, stride=31) >= 1


def test_many_commands_at_once_come_to_their_end(folder: Path) -> None:
    tally = race.run(3, 20_261_126, lambda _line: None, folder)
    assert tally["import"] + tally["killed"] >= 12


def test_an_import_that_is_killed_while_it_reads_reads_nothing_twice(folder: Path) -> None:
    tally = unplug.run(20, 20_261_126, lambda _line: None, folder)
    assert tally.kills["some"] >= 3
    assert tally.imports >= 3


def test_what_is_read_twice_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check behind the test above can fail: here the reader skips nothing, though the journal says what to skip."""
    monkeypatch.setattr("airpack.transport.reader._Reading._is_done", lambda *_: False)
    with pytest.raises(LawBrokenError, match=r"read twice|ended with 1"):  # whichever comes first
        unplug.run(20, 1, lambda _line: None, folder)


def test_the_laws_see_what_breaks_them(world: World, folder: Path) -> None:
    """The checks behind all of the above can fail."""
    place = run_all(world, world.site(folder / "broken"), [Act("import", "1.0.0"), Act("activate", "1.0.0")])
    log = entries(place)
    check_struck(place, log)
    blobs = [path for path in (place / "store").rglob("*") if path.is_file()]
    harms: Counter[str] = Counter()
    for path in blobs:
        data = path.read_bytes()
        for harm in ("lost", "cut"):
            path.chmod(0o644)
            path.unlink() if harm == "lost" else path.write_bytes(data[:-1])
            with pytest.raises(LawBrokenError):
                check_struck(place, log)
            path.write_bytes(data)
            harms[harm] += 1
    assert harms["lost"] == harms["cut"] == len(blobs) > 5
    with pytest.raises(LawBrokenError, match="acknowledged record"):
        check_struck(place, log + b"{}")
    link = place / "products/tool/current"
    link.unlink()
    link.symlink_to("../../generations/tool/7")
    with pytest.raises(LawBrokenError, match="not there"):
        check_struck(place, log)
