"""One measured command: its time, its CPU, its memory, and the disk that it used meanwhile.

The peak of memory is that of `wait4`, for the very process. It begins with the memory of the process that forked it, so
whoever measures stays small: this program imports neither numpy nor any part of airpack that does work.
"""

import json
import mmap
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

AIRPACK: Final = Path(sys.executable).parent / "airpack"
UNMEASURED: Final = 3  # exit code

_SAMPLE: Final = 0.1  # seconds between looks at the disk


def stop(message: str) -> NoReturn:
    """End because nothing can be measured."""
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(UNMEASURED)


def say(line: str) -> None:
    """Tell what is being done."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one command used.

    Attributes:
        wall: Seconds from start to end.
        cpu: Seconds of CPU, user and system, with all processes that it waited for.
        peak: Bytes of resident memory that its largest process had at its largest.
        temp: Bytes that its folder held at most, beyond what it held at the end; None where nobody looked.
    """

    wall: float
    cpu: float
    peak: int
    temp: int | None = None


def measure(command: Sequence[str | Path], *, folder: Path, watch: Path | None = None) -> tuple[Usage, str]:
    """Run a command to its end and return what it used and what it wrote on stdout.

    Args:
        command: Its words.
        folder: Where it runs; its temporary files go there too.
        watch: The folder whose growth counts as disk used; looking costs a little, so ratios do without.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, "TMPDIR": str(watch or folder), "AIRPACK_NO_PROGRESS": "1"}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        began = time.monotonic()
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=said, stderr=complained, start_new_session=True
        )
        with _killed_with_us(process), _watched(watch) as most:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.monotonic() - began
        said.seek(0)
        complained.seek(0)
        if process.returncode != 0:
            stop(f"{' '.join(words[:2])} ended with exit code {process.returncode}: {complained.read().decode()}")
        temp = max(0, most() - disk_used(watch)) if watch else None
        return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss << 10, temp), said.read().decode()


@contextmanager
def _killed_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


@contextmanager
def _watched(folder: Path | None) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most bytes that `folder` was seen to hold; valid after the block."""
    most, ended = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while folder is not None:
            most = max(most, disk_used(folder))
            if ended.wait(_SAMPLE):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: most
    finally:
        ended.set()
        watcher.join()


def disk_used(folder: Path) -> int:
    """Return the bytes that the file system gave to all files in `folder`; those that vanish meanwhile do not count."""
    blocks: dict[int, int] = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                status = Path(parent, name).lstat()
            except FileNotFoundError:
                continue
            blocks[status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())


def ask(*words: str | Path, folder: Path) -> dict[str, Any]:
    """Return what an airpack command says with --json, unmeasured."""
    _, said = measure([AIRPACK, *words, "--json"], folder=folder)
    answer: dict[str, Any] = json.loads(said)
    return answer


def warm_memory(size: int) -> None:
    """Touch `size` bytes of memory and give them back.

    In a virtual machine, memory that nobody used for a while is the host's, and to get it back costs more than the work
    that is measured here: whichever command came first would pay for both. It is done in another process, whose memory
    counts as that of no command, and never with more than half of what there is.
    """
    there = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE + _cached()
    apart(touch_memory, min(size, there // 2))


def _cached() -> int:
    """Return the bytes of the page cache, which the kernel gives up when memory is asked for."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == "Cached":
            return int(value.split()[0]) << 10
    return 0


def touch_memory(size: int) -> None:
    """Use each page of `size` bytes once."""
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def apart(work: Callable[..., None], *words: Any) -> None:
    """Run `work` in another process, whose memory counts as that of no command measured later."""
    worker = multiprocessing.get_context("spawn").Process(target=work, args=words)
    worker.start()
    worker.join()
    if worker.exitcode != 0:
        stop(f"{work.__name__} ended with exit code {worker.exitcode}")


def speed(ours: Sequence[Usage], theirs: Sequence[Usage]) -> dict[str, float]:
    """Return how many times as fast airpack is: the ratio of medians, theirs to ours."""
    return {figure: median(theirs, figure) / median(ours, figure) for figure in ("wall", "cpu")}


def median(usages: Sequence[Usage], figure: str) -> float:
    """Return the median of one figure."""
    figures: list[float] = [getattr(usage, figure) for usage in usages]
    return statistics.median(figures)


def bytes_in(*places: Path) -> int:
    """Return the bytes of all files in these folders, or of these files."""
    files = (path for place in places for path in (place.rglob("*") if place.is_dir() else [place]))
    return sum(path.stat().st_size for path in files if path.is_file())
