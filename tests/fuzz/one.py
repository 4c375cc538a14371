"""Fuzzes one target in this process until its time is up or it fails. Run by `campaign`, in the environment of `fuzz`.

    python -m tests.fuzz.one TARGET FOLDER SECONDS
    python -m tests.fuzz.one TARGET FOLDER merge INTO      # copy the fewest inputs that reach all that is reached

What counts as a failure: any exception, a warning, more than `HANG` seconds for one input, more than `MEMORY` bytes of
memory for one input. The first ends the process with a traceback, and the input lies in FOLDER/failure-*.
"""

import gc
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import atheris

with atheris.instrument_imports(include=["airpack", "tuf", "tomllib", "packaging"]):
    from tests.fuzz import mutate, targets

    from airpack.types import Digest

HANG: Final = 10  # seconds of CPU
_GONE: Final = 60  # seconds after which libFuzzer ends an input that does not end by itself
MEMORY: Final = 64 << 20  # bytes above what the process held before
_OFTEN: Final = 5  # seconds between two looks that the figures are given
LARGE: Final = 1 << 20  # bytes of the largest input
_RARE: Final = 0.002  # share of those that may become as large as inputs may be
_OWN: Final = 0.5  # share of inputs changed by the target's mutator; the rest by libFuzzer's


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes that this process held since `forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_peak() -> None:
    """Begin to watch for a new peak (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_bytes(b"5")


class Watch:
    """Runs a target and keeps what its inputs cost at most.

    Args:
        target: The target.
        out: Where the figures are kept, as JSON, from time to time.
    """

    def __init__(self, target: targets.Target, out: Path) -> None:
        self._target = target
        self._out = out
        self._highest = peak()
        self._kept = 0.0
        self.figures = {"peak": 0, "peak_input": 0, "slowest": 0.0, "slowest_input": 0, "largest_input": 0}

    def begin(self) -> None:
        """Take what the process holds now as what it needs before any input."""
        gc.collect()
        forget_peak()
        self._highest = peak()

    def run(self, data: bytes) -> None:
        """Run one input.

        Raises:
            TimeoutError: It took longer than `HANG`.
            MemoryError: It took more than `MEMORY`.
        """
        began = time.process_time()
        self._target.run(data)
        taken = time.process_time() - began
        figures = self.figures
        if taken > HANG:
            raise TimeoutError(f"{taken:.1f} s of CPU for an input of {len(data)} bytes; at most {HANG} are allowed")
        changed = taken > figures["slowest"] + 0.05
        if taken > figures["slowest"]:
            figures["slowest"], figures["slowest_input"] = taken, len(data)
        figures["largest_input"] = max(int(figures["largest_input"]), len(data))
        if peak() > self._highest:
            self._highest = peak()
            changed = self._weigh(data) or changed
        if changed or time.monotonic() > self._kept + _OFTEN:
            self.keep()

    def _weigh(self, data: bytes) -> bool:
        """Run an input that raised the peak once more and by itself: the fuzzer's own memory grows too."""
        gc.collect()
        forget_peak()
        before = resident()
        self._target.run(data)
        grown = peak() - before
        if grown > MEMORY:
            self.keep()
            raise MemoryError(
                f"{grown >> 20} MiB for an input of {len(data)} bytes; at most {MEMORY >> 20} are allowed"
            )
        self._highest = max(self._highest, peak())
        higher = grown > self.figures["peak"]
        if higher:
            self.figures["peak"], self.figures["peak_input"] = grown, len(data)
        return higher

    def keep(self) -> None:
        """Write the figures."""
        self._kept = time.monotonic()
        self._out.write_text(json.dumps(self.figures))


def mutator(target: targets.Target) -> Callable[[bytes, int, int], bytes]:
    """Return what libFuzzer calls for a new input: half are changed with the target's form in mind."""

    def change(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < _OWN:
            # Large ones now and then only: they are slow, and the start of each run has the worst of them.
            room = LARGE if random.random() < _RARE else max(4096, 2 * len(data))
            return target.mutate(data, random, min(room, target.most, most))
        changed: bytes = atheris.Mutate(data, most)
        return changed

    return change


def large(target: targets.Target) -> Iterator[tuple[str, bytes]]:
    """Yield large inputs: documents that cost the most, and the seeds filled up to the target's bound."""
    if target.bulk:
        for name, data in mutate.bulk(min(LARGE, target.most) - 64).items():
            yield name, data
            text = data + b"\n"
            yield name, text + f"{Digest.of(text)}\n".encode()
    random = Random(target.name)
    for path in sorted((Path(__file__).parent / "corpus" / target.name).iterdir()):
        seed = path.read_bytes() or b"\0"
        for _ in range(2):
            grown = (seed * (target.most // len(seed) + 1))[: target.most]
            yield path.name, target.mutate(grown, random, target.most)


def main() -> None:
    """Fuzz."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    target = targets.TARGETS[name]
    warnings.simplefilter("error")
    seeds = Path(__file__).parent / "corpus" / name
    watch = Watch(target, folder / "figures.json")
    for path in sorted(seeds.iterdir()):
        target.run(path.read_bytes())  # what is imported or made once is no cost of an input
    own = folder / "corpus"
    own.mkdir(exist_ok=True)
    if seconds == "merge":
        atheris.Setup([sys.argv[0], "-merge=1", "-rss_limit_mb=0", sys.argv[4], str(seeds), str(own)], target.run)
        atheris.Fuzz()
    watch.begin()
    for path in sorted(folder.glob("failure-*")):
        watch.run(path.read_bytes())  # failed in a run before, and ends this one while it still does
        path.unlink()
    for number, (label, data) in enumerate(large(target)):
        try:
            watch.run(data)
        except BaseException:
            (folder / f"failure-large-{number}").write_bytes(data)
            print(f"a large input: {label}", file=sys.stderr)
            raise
    watch.keep()
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={target.most}",
            f"-timeout={_GONE}",
            "-rss_limit_mb=0",  # one input's memory is measured here, the fuzzer's own is not the target's
            "-print_final_stats=1",
            f"-artifact_prefix={folder}/failure-",
            str(own),
            str(seeds),
        ],
        watch.run,
        custom_mutator=mutator(target),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
