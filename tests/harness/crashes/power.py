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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from crashes import world as worlds
from crashes.strike import STRUCK, struck
from crashes.world import FAILING, Act, LawBrokenError, World, hold

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


@dataclass(slots=True)
class Cuts:
    """What was done: act -> power cuts."""

    done: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.done.values())


def _start(world: World, place: Path, acts: Sequence[Act]) -> Path:
    return worlds.run_all(world, world.site(place), acts)


SWEEPS: Final[tuple[tuple[tuple[Act, ...], Act], ...]] = (
    ((), Act("import", "1.0.0")),
    ((Act("import", "1.0.0"),), Act("activate", "1.0.0")),
    ((Act("import", "1.0.0"), Act("activate", "1.0.0"), Act("import", "1.1.0")), Act("activate", "1.1.0")),
    ((Act("import", "1.0.0"), Act("activate", "1.0.0"), Act("import", FAILING)), Act("activate", FAILING)),
    (tuple(Act(name, version) for version in ("1.0.0", "1.1.0") for name in ("import", "activate")), Act("rollback")),
    (
        tuple(Act(n, v) for v in ("1.0.0", "1.1.0", "1.2.0", "1.4.0") for n in ("import", "activate")),
        Act("gc"),
    ),
    ((Act("import", "1.0.0"),), Act("export")),
    ((Act("import", "1.0.0"),), Act("fsck")),
)
"""What was done before -> what is struck."""


def sweep(world: World, made: Disk, before: Sequence[Act], act: Act, *, stride: int = 1) -> int:
    """Cut the power at every `stride`-th durable step of `act`, and once when it is done; return how often.

    Raises:
        LawBrokenError: A law does not hold; the message names act and step.
    """
    template = _start(world, made.mount / "template", before)
    place = made.mount / "site"
    cuts, at, through = 0, 1, False
    while not through:
        worlds.copy_site(template, place)
        made.settle()
        log = worlds.entries(place)
        through = struck(at, partial(act.run, world, place), partial(_cut, made))
        acknowledged = worlds.entries(place) if through else log
        seen = worlds.see(place) if through else None
        if through:
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
            raise LawBrokenError(f"{act}, power cut {when}: {error}") from error
        worlds.remove_site(place)
        at += stride
    worlds.remove_site(template)
    return cuts


def _cut(made: Disk) -> None:
    made.cut()
    os._exit(STRUCK)


def run(stride: int, say: Callable[[str], None], folder: Path | None = None) -> Cuts:
    """Run all sweeps.

    Args:
        stride: 1 for every step.
        say: Told what is done.
        folder: Where the disk's file lies.

    Raises:
        LawBrokenError: A law does not hold.
        OSError: The machine does not offer it.
    """
    cuts = Cuts()
    with tempfile.TemporaryDirectory(prefix="airpack-power-", dir=folder) as name:
        world = World.make(Path(name) / "world")
        with disk(Path(name)) as made:
            for before, act in SWEEPS:
                label = f"{act} after {len(before)} acts"
                cuts.done[label] = sweep(world, made, before, act, stride=stride)
                say(f"{label}: {cuts.done[label]} power cuts")
    return cuts
