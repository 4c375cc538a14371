"""Measures what inputs cost a target: CPU, and memory above what the process held before.

python -m tests.fuzz.watch TARGET FOLDER      # runs large inputs, without a fuzzer; figures in FOLDER/large.json
"""

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.fuzz import mutate
from tests.fuzz.targets import TARGETS, Target

HANG: Final = 10  # seconds of CPU
MEMORY: Final = 64 << 20  # bytes above what the process held before
CORPUS: Final = Path(__file__).resolve().parent / "corpus"
_OFTEN: Final = 5  # seconds between two looks that the figures are given


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes that this process held since `forget_peak`.

    Not `ru_maxrss`: that begins with the peak of whoever started this program.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> None:
    """Begin to watch for a new peak (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_bytes(b"5")


@dataclass(slots=True)
class Cost:
    """What inputs cost at most: bytes of memory, seconds of CPU; and the bytes of the largest."""

    peak: int = 0
    slowest: float = 0.0
    largest: int = 0


class Watch:
    """Runs a target and keeps what its inputs cost at most.

    Args:
        target: The target; its seeds are run once, for what is imported or made once is no cost of an input.
        out: Where the figures are kept, as JSON, from time to time.
        memory: Bytes that one input may take.
    """

    def __init__(self, target: Target, out: Path, *, memory: int = MEMORY) -> None:
        self._target = target
        self._out = out
        self._memory = memory
        self._kept = 0.0
        self.cost = Cost()
        for path in sorted((CORPUS / target.name).iterdir()):
            target.run(path.read_bytes())
        gc.collect()
        forget_peak()
        self._highest = peak()

    def run(self, data: bytes) -> None:
        """Run one input.

        Raises:
            TimeoutError: It took longer than `HANG`.
            MemoryError: It took more than `memory`.
        """
        began = time.process_time()
        self._target.run(data)
        self._charge(data, time.process_time() - began)
        if peak() > self._highest:
            self._highest = max(peak(), self._weigh(data))
        if time.monotonic() > self._kept + _OFTEN:
            self.keep()

    def _charge(self, data: bytes, taken: float) -> None:
        self.cost.slowest = max(self.cost.slowest, taken)
        self.cost.largest = max(self.cost.largest, len(data))
        if taken > HANG:
            raise TimeoutError(f"{taken:.1f} s of CPU for an input of {len(data)} bytes; at most {HANG} are allowed")

    def run_alone(self, data: bytes) -> bool:
        """Run one input in a process of its own, so that nothing that came before hides what it costs.

        Returns:
            Whether it passed; if not, the process has said why.
        """
        child = os.fork()
        if child == 0:
            code = 1
            try:
                began = time.process_time()
                self._weigh(data)
                self._charge(data, time.process_time() - began)
                self.keep()
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, the parent ends with it
                traceback.print_exc()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        self.cost = Cost(**json.loads(self._out.read_text()))
        return status == 0

    def _weigh(self, data: bytes) -> int:
        """Run an input by itself, and return the peak: a fuzzer's own memory grows too, and is no cost of an input."""
        gc.collect()
        forget_peak()
        before = resident()
        self._target.run(data)
        grown = peak() - before
        self.cost.peak = max(self.cost.peak, grown)
        self.keep()
        if grown > self._memory:
            raise MemoryError(f"{grown >> 20} MiB for {len(data)} bytes; at most {self._memory >> 20} are allowed")
        return before + grown

    def keep(self) -> None:
        """Write the figures."""
        self._kept = time.monotonic()
        self._out.write_text(json.dumps(asdict(self.cost)))


def large(target: Target) -> Iterator[bytes]:
    """Yield inputs of the target's largest size: documents that cost the most, and the seeds filled up to it."""
    if target.bulk is not None:
        for text in target.bulk(target.most - 80).values():
            yield text
            if target.mutate is mutate.head:
                yield mutate.checked(text)
    random = Random(target.name)
    for path in sorted((CORPUS / target.name).glob("seed-*")):
        seed = path.read_bytes() or b"\0"
        grown = (seed * (target.most // len(seed) + 1))[: target.most]
        yield grown
        yield target.mutate(grown, random, target.most)


def main() -> None:
    """Run the large inputs, made in another process: what their makers leave in memory would hide what they cost."""
    target, folder, make = TARGETS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]
    place = folder / "large"
    if make:
        for number, data in enumerate(large(target)):
            (place / f"{number:03}").write_bytes(data)
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    subprocess.run([sys.executable, "-m", "tests.fuzz.watch", target.name, str(folder), "make"], check=True)
    warnings.simplefilter("error")
    watch = Watch(target, folder / "large.json")
    for path in sorted(place.iterdir()):
        if not watch.run_alone(path.read_bytes()):
            path.replace(folder / "failure-large")
            sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
