"""Power cuts: an ext4 on a loop device that stops writing, at every durable step of every act, and right after it.

`FS_IOC_SHUTDOWN` (fs/ext4/ioctl.c) ends a mounted file system without writing its log: what no sync has brought to the
disk by then is lost, as it is when the power goes. The disk is the loop device's file, whose own cache is left alone.
Needs root, a loop device and ext4; a machine without them is named, never passed over in silence.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.crashes import world as worlds
from tests.crashes.cases import CASES, Case
from tests.crashes.strike import STRUCK, struck
from tests.crashes.world import LawBrokenError, World, hold

_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, __u32), linux/fs.h
_NO_LOG_FLUSH: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_SIZE: Final = 96 << 20  # bytes of the disk
_ATTEMPTS: Final = 600  # to find the file system let go of
_PAUSE: Final = 0.05  # seconds between them


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted ext4 that can lose power.

    Attributes:
        image: The file behind it.
        mount: Where it is mounted.
    """

    image: Path
    mount: Path

    def settle(self) -> None:
        """Bring everything to the disk."""
        _run("sync", "--file-system", self.mount)

    def cut(self) -> None:
        """Stop the file system as a power cut does; nothing more reaches the disk until `again`."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def again(self) -> None:
        """Mount what the power cut left; ext4 replays its journal.

        Whoever made a mount namespace meanwhile (a probe that is just being killed, another program) holds the stopped
        file system a little longer, and a mount finds that one again until they have gone.
        """
        for _ in range(_ATTEMPTS):
            _run("umount", self.mount)
            _run("mount", "-o", "loop", self.image, self.mount)
            if not self._is_stopped():
                return
            time.sleep(_PAUSE)
        raise OSError(f"{self.mount} stays stopped: another process holds it")

    def _is_stopped(self) -> bool:
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
        return any(line.split()[1] == str(self.mount) and "shutdown" in line.split()[3].split(",") for line in lines)


def _run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")


def why_not() -> str:
    """Return why this machine cannot cut the power of a disk, "" where it can."""
    lacking = [name for name in ("mkfs.ext4", "mount", "umount", "losetup") if shutil.which(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: on Debian, apt-get install e2fsprogs mount"
    if os.geteuid() != 0:
        return "only root mounts loop devices"
    try:
        with tempfile.TemporaryDirectory() as name, disk(Path(name)) as made:
            made.cut()
            made.again()
    except OSError as error:
        return f"this machine mounts no loop device with ext4: {error}"
    return ""


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Make and mount a disk in `folder`; it is gone afterwards.

    Raises:
        OSError: The machine does not offer it.
    """
    made = Disk(folder / "disk.img", folder / "disk")
    made.mount.mkdir()
    with made.image.open("wb") as stream:
        stream.truncate(_SIZE)
    _run("mkfs.ext4", "-q", "-F", made.image)
    _run("mount", "-o", "loop", made.image, made.mount)
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(made.mount)], check=False)


def cut_at_steps(world: World, made: Disk, case: Case, *, stride: int = 1) -> int:
    """Cut the power at every `stride`-th durable step of an act, and once when it is done; return how often.

    Raises:
        LawBrokenError: A law does not hold; the message names act and step.
    """
    template = worlds.run_all(world, world.site(made.mount / "template"), case.before)
    place, act = made.mount / "site", case.act
    cuts, at, through = 0, 1, False
    while not through:
        worlds.copy_site(template, place)
        made.settle()
        acknowledged = worlds.entries(place)
        through = struck(at, partial(act.run, world, place), partial(_cut, made))
        seen = None
        if through:
            acknowledged, seen = worlds.entries(place), worlds.see(place)
            made.cut()  # it has said that it is done: now nothing may be lost
        made.again()
        cuts += 1
        try:
            worlds.check_struck(place, acknowledged)
            hold(seen is None or worlds.see(place) == seen, f"{seen} was acknowledged, {worlds.see(place)} is left")
            worlds.check_settled(place)
            worlds.check_resumed(world, place, act)
        except LawBrokenError as error:
            when = "when it was done" if through else f"at step {at}"
            raise LawBrokenError(f"{case}, power cut {when}: {error}") from error
        worlds.remove_site(place)
        at += stride
    worlds.remove_site(template)
    return cuts


def _cut(made: Disk) -> None:
    made.cut()
    os._exit(STRUCK)


def run(stride: int, say: Callable[[str], None], folder: Path | None = None) -> int:
    """Run all sweeps; return how often the power was cut.

    Args:
        stride: 1 for every step.
        say: Told what is done.
        folder: Where the disk's file lies.

    Raises:
        LawBrokenError: A law does not hold.
        OSError: The machine does not offer it.
    """
    total = 0
    with tempfile.TemporaryDirectory(prefix="airpack-power-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        with disk(Path(name)) as made:
            for case in CASES:
                cuts = cut_at_steps(world, made, case, stride=stride)
                total += cuts
                say(f"{case}: {cuts} power cuts")
    return total
