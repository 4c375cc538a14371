"""Fuzzes targets one after the other or side by side, each in a process of its own, and says what came of it.

    ./scripts/fuzz 600                  # every target for ten minutes
    ./scripts/fuzz 60 head wheel        # two of them for one
    ./scripts/fuzz --list
    ./scripts/fuzz --report             # what each target's last run came to, as a table
    ./scripts/fuzz --keep               # put what was found worth keeping beside the seeds

Inputs that reached something new are kept in .fuzz/TARGET/corpus and are where the next run begins. An input that
failed lies in .fuzz/TARGET/failure-*. What a target's last run came to lies in .fuzz/TARGET/result.json.

Exit codes: 0; 1 when a target failed; 2 for wrong usage; 3 when nothing can be fuzzed here.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
WORK: Final = REPOSITORY / ".fuzz"
CORPUS: Final = Path(__file__).resolve().parent / "corpus"
FAILED, UNABLE = 1, 3
KEPT: Final = 20 << 10  # bytes of one target's inputs beside its seeds
LARGEST: Final = 8 << 10  # bytes of one of them
MOST: Final = 40  # of them

_STATUS = re.compile(r"cov: (\d+) ft: \d+ corp: (\d+)/")
_REASON = re.compile(r"[\w.]*(Error|Exception|Warning|Exit)\b|ALARM|.*ERROR: libFuzzer: timeout")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Figures:
    """What fuzzing one target came to.

    Attributes:
        target: Its name.
        seconds: How long it ran; the large inputs come before.
        cpu: Seconds of CPU that it got.
        executions: Inputs run.
        coverage: Edges of bytecode reached in airpack and the libraries read with it.
        corpus: Inputs that each reached something new.
        largest: Bytes of the largest input.
        peak: Bytes of memory that one input took at most, also of the large ones; likewise `largest` and `slowest`.
        slowest: Seconds that one input took at most.
        failure: The last line of what it failed with; empty when it did not.
    """

    target: str
    seconds: float
    cpu: float
    executions: int
    coverage: int
    corpus: int
    largest: int
    peak: int
    slowest: float
    failure: str


def fuzz(name: str, seconds: int) -> Figures:
    """Fuzz one target: large inputs in one process, without atheris, then all others in another."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    costs = {kind: folder / f"{kind}.json" for kind in ("large", "figures")}
    for path in costs.values():
        path.unlink(missing_ok=True)
    began, cpu = time.monotonic(), 0.0
    log = folder / "log"
    with log.open("wb") as said:
        code, _ = _run(said, "watch", name, str(folder))
        if code == 0:
            began = time.monotonic()
            code, cpu = _run(said, "one", name, str(folder), str(seconds))
    text = log.read_text(errors="replace")
    found = [json.loads(path.read_text()) for path in costs.values() if path.exists()]
    executions, coverage, corpus = read_log(text)
    figures = Figures(
        target=name,
        seconds=round(time.monotonic() - began, 1),
        cpu=round(cpu, 1),
        executions=executions,
        coverage=coverage,
        corpus=corpus,
        largest=max((cost["largest"] for cost in found), default=0),
        peak=max((cost["peak"] for cost in found), default=0),
        slowest=round(max((cost["slowest"] for cost in found), default=0.0), 2),
        failure="" if code == 0 else reason(text, code),
    )
    (folder / "result.json").write_text(json.dumps(asdict(figures), indent=1))
    return figures


def _run(said: IO[bytes], module: str, *words: str) -> tuple[int, float]:
    """Run a module of this folder; return its exit code and the seconds of CPU that it got."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="airpack-fuzz-", dir=place) as work:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.fuzz.{module}", *words],
            cwd=REPOSITORY,
            env={**os.environ, "AIRPACK_FUZZ_WORK": work, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def read_log(text: str) -> tuple[int, int, int]:
    """Return inputs run, edges reached and inputs kept, by what libFuzzer said last."""
    found, executed = _STATUS.findall(text), _EXECUTED.search(text)
    coverage, corpus = map(int, found[-1]) if found else (0, 0)
    return int(executed[1]) if executed else 0, coverage, corpus


def reason(text: str, code: int) -> str:
    """Return the last line that says why a target failed."""
    lines = [line for line in text.splitlines() if _REASON.match(line)]
    return lines[-1][:300] if lines else f"ended with exit code {code}"


def row(figures: Figures) -> str:
    """Return one line for people."""
    speed = figures.executions / max(figures.seconds, 1)
    return (
        f"{figures.target:<10} {figures.executions:>9} inputs {speed:>7.0f}/s  {figures.coverage:>5} edges "
        f"{figures.corpus:>5} kept  peak {figures.peak / (1 << 20):>5.1f} MiB  slowest {figures.slowest:>5.2f} s  "
        f"{figures.failure or 'ok'}"
    )


def report() -> None:
    """Print the last run of each target as a table."""
    print("| target | seconds | CPU seconds | inputs | inputs/s | edges | corpus | largest | peak | slowest | result |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    for path in sorted(WORK.glob("*/result.json")):
        each = Figures(**json.loads(path.read_text()))
        print(
            f"| {each.target} | {each.seconds:.0f} | {each.cpu:.0f} | {each.executions:,} "
            f"| {each.executions / max(each.seconds, 1):.0f} | {each.coverage} | {each.corpus} "
            f"| {each.largest / 1024:.0f} KiB | {each.peak / (1 << 20):.1f} MiB | {each.slowest:.2f} s "
            f"| {each.failure or 'ok'} |"
        )


def keep() -> None:
    """Copy some of the inputs that each reached something new beside the seeds, `KEPT` bytes of each target's."""
    for own in sorted(WORK.glob("*/corpus")):
        name, room = own.parent.name, KEPT
        before = {
            path.name: path.read_bytes() for path in CORPUS.glob(f"{name}/*") if not path.name.startswith("seed-")
        }
        found = before | {path.name: path.read_bytes() for path in own.iterdir() if path.stat().st_size <= LARGEST}
        chosen: dict[str, bytes] = {}
        ordered = sorted(found.items(), key=lambda item: (len(item[1]), item[0]))
        for label, data in ordered[:: max(1, len(ordered) // MOST)][:MOST]:  # of every size, not the smallest alone
            if len(data) > room:
                break
            chosen[label], room = data, room - len(data)
        for label in before.keys() - chosen.keys():
            (CORPUS / name / label).unlink()
        for label, data in chosen.items():
            (CORPUS / name / label).write_bytes(data)
        print(f"{name:<10} {len(chosen)} inputs kept, {KEPT - room} bytes")


def main(words: Sequence[str]) -> int:
    """Run the command line."""
    names = sorted(path.name for path in CORPUS.iterdir())
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the parsers of untrusted bytes.")
    parser.add_argument("seconds", nargs="?", type=int, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when none is named")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once (default 1)")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--report", action="store_true", help="say what the last runs came to and end")
    parser.add_argument("--keep", action="store_true", help="put what was found beside the seeds and end")
    options = parser.parse_args(words)
    if options.list:
        print("\n".join(names))
        return 0
    if options.report:
        report()
        return 0
    if options.keep:
        keep()
        return 0
    unknown = set(options.targets) - set(names)
    if options.seconds is None or options.seconds < 1 or options.jobs < 1 or unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}" if unknown else "SECONDS is a number from 1")
    if importlib.util.find_spec("atheris") is None:
        print(
            "fuzz: atheris is not installed: it has wheels for CPython 3.11 to 3.13 on Linux x86-64 only\n"
            "hint: set PYTHON to one of them; without it, `./scripts/test tests/fuzz` tries changed inputs blindly",
            file=sys.stderr,
        )
        return UNABLE
    WORK.mkdir(exist_ok=True)
    chosen = options.targets or names
    done: list[Figures] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for figures in pool.map(lambda name: fuzz(name, options.seconds), chosen):
            print(row(figures), flush=True)
            done.append(figures)
    failed = [each.target for each in done if each.failure]
    for name in failed:
        print(f"{name} failed: see .fuzz/{name}/log, inputs in .fuzz/{name}/failure-*", file=sys.stderr)
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
