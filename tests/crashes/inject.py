"""The unmodified command line under `strace -e inject`: an error or SIGKILL at its N-th fsync, write and rename.

What must come out of it: done, or an airpack error of storage, never a traceback; a site that holds the laws; and the
same command comes to its end once the disk works again.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.crashes import world as worlds
from tests.crashes.cases import CASES, Case
from tests.crashes.world import LawBrokenError, World, hold

CALLS: Final = ("fsync", "write", "pwrite64", "rename", "ftruncate")
FAULTS: Final = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
_KILLED: Final = -9
_STORAGE: Final = 20
_POLICY: Final = 12


@dataclass(slots=True)
class Injections:
    """What was done.

    Attributes:
        faults: Fault -> how often it struck.
        outcomes: Exit code -> how often.
    """

    faults: dict[str, int] = field(default_factory=dict)
    outcomes: dict[int, int] = field(default_factory=dict)


def sweep(world: World, folder: Path, case: Case, tally: Injections, *, stride: int = 1) -> None:
    """Strike one command at every `stride`-th call of each kind, with each fault.

    Raises:
        LawBrokenError: A law does not hold.
    """
    template = worlds.run_all(world, world.site(folder / "template"), case.before)
    for call in CALLS:
        for fault in FAULTS:
            at, struck = 1, True
            while struck:
                place = worlds.copy_site(template, folder / "struck")
                struck = _strike(world, place, case, f"{call}:{fault}:when={at}", tally)
                worlds.remove_site(place)
                at += stride
    worlds.remove_site(template)


def _strike(world: World, place: Path, case: Case, fault: str, tally: Injections) -> bool:
    """Run the command with one fault; return whether it struck."""
    log = place.with_name("strace")
    acknowledged = worlds.entries(place)
    command = [str(Path(sys.executable).parent / "airpack"), *case.words(world, place)]
    strace = ["strace", "-f", "-qq", "-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}", "-o", str(log)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, check=False, cwd=place)
    told = log.read_text("utf-8", "replace")
    struck = "(INJECTED)" in told or "killed by SIGKILL" in told
    try:
        hold("Traceback" not in done.stderr, f"a traceback: {done.stderr[-1500:]}")
        if not struck:
            hold(done.returncode == case.code, f"nothing was struck, exit code {done.returncode}: {done.stderr}")
            return False
        tally.faults[fault.rpartition(":")[0]] = tally.faults.get(fault.rpartition(":")[0], 0) + 1
        tally.outcomes[done.returncode] = tally.outcomes.get(done.returncode, 0) + 1
        allowed = {case.code, _STORAGE, _KILLED, 128 - _KILLED}
        if case.act.name in {"activate", "rollback"}:
            allowed.add(_POLICY)  # each process counts its own calls: the probe's was struck
        hold(done.returncode in allowed, f"exit code {done.returncode}: {done.stderr[-500:]}")
        if done.returncode == case.code:
            acknowledged = worlds.entries(place)
        worlds.check_struck(place, acknowledged)
        worlds.check_settled(place)
        worlds.check_resumed(world, place, case.act)
    except LawBrokenError as error:
        raise LawBrokenError(f"{case}, {fault}: {error}") from error
    return True


def run(stride: int, say: Callable[[str], None], folder: Path | None = None) -> Injections:
    """Sweep all cases.

    Raises:
        LawBrokenError: A law does not hold.
    """
    tally = Injections()
    with tempfile.TemporaryDirectory(prefix="airpack-inject-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        for case in CASES:
            sweep(world, Path(name), case, tally, stride=stride)
            say(f"{case}: {sum(tally.faults.values())} faults so far")
    return tally
