"""A small disk that is full from the N-th durable step on, for every N: real ENOSPC, in SQLite too.

The site lies on a tmpfs of its own. At the step the rest of it is filled; the command must end with an error of
storage, the site must hold the laws while the disk is still full, and everything goes on once there is space again.
"""

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.crashes import world as worlds
from tests.crashes.cases import CASES, Case
from tests.crashes.strike import struck
from tests.crashes.world import LawBrokenError, World

_SIZE: Final = "48m"  # beyond the 16 MiB that an import wants to find free
_PIECE: Final = 1 << 20  # bytes


def why_not() -> str:
    """Return why no small disk can be had here, "" where it can."""
    if os.geteuid() != 0:
        return "only root mounts a tmpfs"
    try:
        with tempfile.TemporaryDirectory() as name, disk(Path(name)):
            return ""
    except OSError as error:
        return f"this machine mounts no tmpfs: {error}"


@contextmanager
def disk(mount: Path) -> Iterator[Path]:
    """Mount a small tmpfs at `mount`; it is gone afterwards.

    Raises:
        OSError: The machine does not offer it.
    """
    words = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "airpack-full", str(mount)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=False)


def fill(ballast: Path) -> None:
    """Take all the space that is left on a disk."""
    with ballast.open("ab", buffering=0) as stream:
        size = _PIECE
        while size:
            try:
                stream.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2


def sweep(world: World, mount: Path, case: Case, *, stride: int = 1) -> int:
    """Fill the disk at every `stride`-th step of one act; return how often.

    Raises:
        LawBrokenError: A law does not hold, or the act ended by an exception that is not airpack's own.
    """
    template = worlds.run_all(world, world.site(mount / "template"), case.before)
    ballast, at, filled = mount / "ballast", 1, 0
    while True:
        place = worlds.copy_site(template, mount / "site")
        before = worlds.entries(place)
        try:
            struck(at, partial(case.act.run, world, place), partial(fill, ballast))
            was_filled = ballast.exists()
            worlds.check_struck(place, before)
            ballast.unlink(missing_ok=True)
            worlds.check_settled(place)
            worlds.check_resumed(world, place, case.act)
        except (LawBrokenError, AssertionError) as error:
            raise LawBrokenError(f"{case}, full at step {at}: {error}") from error
        worlds.remove_site(place)
        if not was_filled:
            worlds.remove_site(template)
            return filled
        filled, at = filled + 1, at + stride


def run(stride: int, say: Callable[[str], None], folder: Path | None = None) -> int:
    """Sweep all cases; return how often a disk was full.

    Raises:
        LawBrokenError: A law does not hold.
        OSError: The machine does not offer it.
    """
    total = 0
    with tempfile.TemporaryDirectory(prefix="airpack-full-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        mount = Path(name) / "disk"
        mount.mkdir()
        with disk(mount):
            for case in CASES:
                found = sweep(world, mount, case, stride=stride)
                total += found
                say(f"{case}: full at {found} steps")
    return total
