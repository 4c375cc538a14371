"""Fuzzes one target in this process until its time is up or it fails. Run by `campaign`, in the environment of `fuzz`.

    python -m tests.fuzz.one TARGET FOLDER SECONDS

The first failure ends the process with a traceback; the input lies in FOLDER/failure-*.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import atheris

with atheris.instrument_imports(include=["airpack", "tuf", "tomllib", "packaging"]):
    from tests.fuzz import targets, watch

_GONE: Final = 60  # seconds after which libFuzzer ends an input that does not end by itself
_RARE: Final = 0.002  # share of inputs that may become as large as inputs may be
_OWN: Final = 0.5  # share of inputs changed by the target's mutator; the rest by libFuzzer's


def mutator(target: targets.Target) -> Callable[[bytes, int, int], bytes]:
    """Return what libFuzzer calls for a new input: half are changed with the target's form in mind."""

    def change(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < _OWN:
            # Large ones now and then only: they are slow, and `watch` runs the worst of them.
            room = most if random.random() < _RARE else max(4096, 2 * len(data))
            return target.mutate(data, random, min(room, most))
        changed: bytes = atheris.Mutate(data, most)
        return changed

    return change


def main() -> None:
    """Fuzz."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    target = targets.TARGETS[name]
    warnings.simplefilter("error")
    own, seeds = folder / "corpus", watch.CORPUS / name
    own.mkdir(exist_ok=True)
    seen = watch.Watch(target, folder / "figures.json")
    for path in sorted(folder.glob("failure-*")):
        seen.run(path.read_bytes())  # failed in a run before, and ends this one while it still does
        path.unlink()
    options = (
        f"-max_total_time={seconds}",
        f"-max_len={target.most}",
        f"-timeout={_GONE}",
        f"-report_slow_units={_GONE}",
        "-rss_limit_mb=0",  # one input's memory is measured here, the fuzzer's own is not the target's
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/failure-",
    )
    atheris.Setup([sys.argv[0], *options, str(own), str(seeds)], seen.run, custom_mutator=mutator(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
