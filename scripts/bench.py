"""What build, verify and import cost: memory, temporary disk, CPU and time. Run by `./scripts/bench`.

    1. memory: one model (4 GiB) is built, verified and imported; the peak of each process must stay under 256 MiB
    2. ratios: one model (4 GiB), in alternating rounds, against the shell pipelines that do the same without proof

The model is a safetensors file of Gaussian bf16 weights, the same bytes every time. CPU seconds are the figure to
trust: wall time on a shared machine says as much about its other users.

Exit codes: 0; 1 when the memory promise fails, and only then; 2 for wrong usage; 3 when it cannot be measured here.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import platform
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import zstandard

import airpack
from airpack.errors import InputError
from airpack.formats.sizes import parse_size

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PAGE: Final = REPOSITORY / "docs/performance.md"
AIRPACK: Final = Path(sys.executable).parent / "airpack"
PROMISE: Final = 256 << 20  # bytes of peak memory, for any size of model
TOOLS: Final = {"tar": "tar", "zstd": "zstd", "openssl": "openssl", "sync": "coreutils"}  # program to Debian package
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
FAILED, UNMEASURED = 1, 3

_SEED: Final = 20_260_101
_COLUMNS: Final = 4096  # weights in a row
_ROW: Final = 2 * _COLUMNS  # bytes
_BLOCK: Final = 128  # rows made at once: 1 MiB
_TENSOR: Final = 4096  # rows of a whole tensor: 32 MiB
_SAMPLE: Final = 0.1  # seconds between looks at the disk
_ROOM: Final = 64 << 20  # bytes beside the files themselves
_MB: Final = 1_000_000

_PACK: Final = """\
set -euo pipefail
exec 3> >(exec openssl dgst -sha256 >"$2.digest")
hash=$!
tar -C "$1" -cf - . | zstd -q -T2 -3 | tee /dev/fd/3 >"$2"
exec 3>&-
wait "$hash"
"""
_UNPACK: Final = """\
set -euo pipefail
zstd -q -dc "$1" | tar -C "$2" -xf - && sync -f "$2"
"""


def stop(message: str) -> NoReturn:
    """End because nothing can be measured."""
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(UNMEASURED)


def say(line: str) -> None:
    """Tell what is being done."""
    print(line, file=sys.stderr, flush=True)


# --- one measured command ---------------------------------------------------------------------------------------------


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

    The peak is that of `wait4`, for this very process. It begins with the memory of the process that forked it, so this
    program stays small: it imports neither numpy nor any part of airpack that does work.

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


# --- the model --------------------------------------------------------------------------------------------------------


def make_model(folder: Path, size: int, seed: int) -> None:
    """Write a model of about `size` bytes: one safetensors file and its config.

    It is made in another process: numpy's memory must not count as that of the commands measured later.
    """
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text('{"architectures": ["Synthetic"], "torch_dtype": "bfloat16"}\n')
    maker = multiprocessing.get_context("spawn").Process(
        target=write_safetensors, args=(folder / "model/model.safetensors", size, seed)
    )
    maker.start()
    maker.join()
    if maker.exitcode != 0:
        stop(f"the model could not be written; its maker ended with exit code {maker.exitcode}")
    (folder / "spec.toml").write_text(_spec(1))


def write_safetensors(path: Path, size: int, seed: int) -> None:
    """Write Gaussian bf16 weights, each tensor and each column with a scale of its own, 1 MiB at a time.

    Args:
        path: The file.
        size: Bytes of weights, rounded down to whole rows.
        seed: Same seed, same bytes.
    """
    import numpy as np  # noqa: PLC0415, only the maker's process may hold numpy

    random = np.random.Generator(np.random.SFC64(seed))
    heights = [min(_TENSOR, size // _ROW - row) for row in range(0, size // _ROW, _TENSOR)]
    with path.open("wb") as stream:
        stream.write(_header(heights))
        for height in heights:
            scales = (0.02 * np.exp(0.3 * random.standard_normal(_COLUMNS))).astype(np.float32)
            for start in range(0, height, _BLOCK):
                shape = (min(_BLOCK, height - start), _COLUMNS)
                bits = (random.standard_normal(shape, dtype=np.float32) * scales).view(np.uint32)
                rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to bf16, nearest and ties to even
                stream.write(rounded.astype("<u2").tobytes())


def _header(heights: Sequence[int]) -> bytes:
    tensors, at = {}, 0
    for number, height in enumerate(heights):
        end = at + height * _ROW
        tensors[f"layers.{number}.weight"] = {
            "dtype": "BF16",
            "shape": [height, _COLUMNS],
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _spec(number: int) -> str:
    return (
        f'[release]\nproduct = "bench"\nversion = "1.0.{number}"\n\n'
        '[[model]]\nname = "weights"\npath = "model"\nlicense = "CC0-1.0"\n'
    )


def prepare(folder: Path, size: int, seed: int) -> None:
    """Make a model, and a workspace to build it in."""
    say(f"making a model of {mib(size)}")
    make_model(folder, size, seed)
    ask("init", "workspace", "--no-passphrase", folder=folder)
    os.sync()  # here and below: no command pays for writing out what the one before left in memory


def make_site(folder: Path) -> None:
    """Make an empty site that trusts the workspace."""
    ask("site", "init", "site", "--root", "workspace/keys/root.json", folder=folder)


def build_command(out: str) -> list[str | Path]:
    """Return the command that is measured as build."""
    return [AIRPACK, "build", "spec.toml", "-o", out, "--workspace", "workspace", "--json"]


IMPORT: Final[tuple[str | Path, ...]] = (AIRPACK, "import", "package", "--site", "site", "--json")
VERIFY: Final[tuple[str | Path, ...]] = (AIRPACK, "verify", "package", "--root", "workspace/keys/root.json", "--json")


# --- the two parts ----------------------------------------------------------------------------------------------------


def measure_memory(folder: Path, size: int) -> dict[str, Any]:
    """Build, verify and import one model; return the figures and whether the promise of memory holds."""
    prepare(folder, size, _SEED)
    steps: dict[str, Usage] = {}
    package, site = folder / "package", folder / "site"
    package.mkdir()
    make_site(folder)
    built: dict[str, Any] = {}
    for name, command, watch in (
        ("build", build_command("package"), package),
        ("verify", VERIFY, package),
        ("import", IMPORT, site),
    ):
        os.sync()
        say(f"measuring {name}")
        steps[name], said = measure(command, folder=folder, watch=watch)
        answer = json.loads(said)
        built = built or answer
        if answer["release"] != built["release"]:
            stop(f"{name} names release {answer['release']}, build made {built['release']}")
    return {
        "bytes_raw": built["bytes_raw"],
        "bytes_packed": built["bytes_packed"],
        "limit": PROMISE,
        "holds": all(step.peak < PROMISE for step in steps.values()),
        "steps": {name: asdict(step) for name, step in steps.items()},
    }


def measure_ratios(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    """Run airpack and the shell pipelines on the same files, in turn; return all figures, medians and ratios."""
    prepare(folder, size, _SEED + 1)
    runs: dict[str, list[Usage]] = {name: [] for pair in PAIRS for name in pair}
    sizes: dict[str, int] = {}
    for number in range(1, rounds + 1):
        (folder / "spec.toml").write_text(_spec(number))  # a new version: an identical rebuild signs less
        make_site(folder)
        (folder / "plain").mkdir()
        for pair in PAIRS:
            for name in pair if number % 2 else reversed(pair):
                os.sync()
                warm_memory(2 * size)
                say(f"round {number} of {rounds}: {name}")
                runs[name].append(measure(COMMANDS[name], folder=folder)[0])
        sizes = {"bytes_packed": _bytes_in(folder / "package"), "bytes_tar": (folder / "plain.tar.zst").stat().st_size}
        _check_plain(folder)
        for name in ("package", "site", "plain"):
            shutil.rmtree(folder / name)
        (folder / "plain.tar.zst").unlink()
    return {
        "bytes_raw": _bytes_in(folder / "model"),
        **sizes,
        "rounds": rounds,
        "runs": {name: [asdict(usage) for usage in usages] for name, usages in runs.items()},
        "speed": {ours: _speed(runs[ours], runs[theirs]) for ours, theirs in PAIRS},
    }


PAIRS: Final = (
    ("airpack build", "tar, zstd -T2 -3, tee, openssl dgst"),
    ("airpack import", "zstd -d, tar x, sync -f"),
)
COMMANDS: Final[Mapping[str, Sequence[str | Path]]] = {
    PAIRS[0][0]: build_command("package"),
    PAIRS[0][1]: ("bash", "-c", _PACK, "bash", "model", "plain.tar.zst"),
    PAIRS[1][0]: IMPORT,
    PAIRS[1][1]: ("bash", "-c", _UNPACK, "bash", "plain.tar.zst", "plain"),
}


def warm_memory(size: int) -> None:
    """Touch `size` bytes of memory and give them back.

    In a virtual machine, memory that nobody used for a while is the host's, and to get it back costs more than the work
    that is measured here: whichever command came first would pay for both. It is done in another process, whose memory
    counts as that of no command, and never with more than half of what there is.
    """
    there = int(_fields("/proc/meminfo")["MemAvailable"].split()[0]) << 10
    toucher = multiprocessing.get_context("spawn").Process(target=touch_memory, args=(min(size, there // 2),))
    toucher.start()
    toucher.join()
    if toucher.exitcode != 0:
        stop(f"memory could not be touched; who did it ended with exit code {toucher.exitcode}")


def touch_memory(size: int) -> None:
    """Use each page of `size` bytes once."""
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def _speed(ours: Sequence[Usage], theirs: Sequence[Usage]) -> dict[str, float]:
    """Return how many times as fast airpack is: the ratio of medians, theirs to ours."""
    return {
        "wall": _median(theirs, "wall") / _median(ours, "wall"),
        "cpu": _median(theirs, "cpu") / _median(ours, "cpu"),
    }


def _median(usages: Sequence[Usage], figure: str) -> float:
    figures: list[float] = [getattr(usage, figure) for usage in usages]
    return statistics.median(figures)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_plain(folder: Path) -> None:
    """Hold the pipelines to having done their work: a broken one would be very fast."""
    if _bytes_in(folder / "plain") != _bytes_in(folder / "model"):
        stop("tar and zstd did not bring the model back")


# --- the machine ------------------------------------------------------------------------------------------------------


def check_tools() -> None:
    """End unless the programs to compare with are there."""
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        stop(
            f"not found: {', '.join(missing)}\n"
            f"hint: on Debian, apt-get install {' '.join(sorted(set(missing.values())))}; "
            "or leave the comparison out with --part memory"
        )


def check_room(folder: Path, sizes: Sequence[int]) -> None:
    """End unless the largest part fits on the disk of `folder`."""
    wanted, free = max(sizes) + _ROOM, shutil.disk_usage(folder).free
    if wanted > free:
        stop(
            f"not enough space: {mib(wanted)} are needed in {folder}, {mib(free)} are free\n"
            "hint: name another disk with --folder, or measure less with --size and --ratio-size"
        )


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = _fields("/proc/cpuinfo")
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "sha_instructions": bool({"sha_ni", "sha2"} & set((cpu.get("flags") or cpu.get("Features", "")).split())),
        "memory": int(_fields("/proc/meminfo")["MemTotal"].split()[0]) << 10,
        "file_system": file_system(folder),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "libzstd": ".".join(str(part) for part in zstandard.ZSTD_VERSION),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def _fields(path: str) -> dict[str, str]:
    """Return `name: value` lines of a file in /proc, of each name the first."""
    found: dict[str, str] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`."""
    best, found = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind = line.split()[:3]
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, found = point, kind
    return found


# --- what is shown ----------------------------------------------------------------------------------------------------


def mib(size: float) -> str:
    """Return a size for people."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns line up; the first row is its head, the first column text."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [("-" * (width + 1) + ":") if place else "-" * (width + 2) for place, width in enumerate(widths)]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]


def memory_lines(memory: Mapping[str, Any]) -> list[str]:
    """Return the first part for people."""
    raw, packed = memory["bytes_raw"], memory["bytes_packed"]
    rows = [(f"{mib(raw)} of bf16", "wall s", "CPU s", "MB/s", "MB per CPU s", "peak memory", "temporary disk")]
    for name, step in memory["steps"].items():
        speeds = (f"{raw / step[figure] / _MB:.0f}" for figure in ("wall", "cpu"))
        rows.append((name, f"{step['wall']:.1f}", f"{step['cpu']:.1f}", *speeds, mib(step["peak"]), mib(step["temp"])))
    return [*table(rows), "", f"Package: {mib(packed)}, {packed / raw:.3f} of the model. {promise_line(memory)}"]


def promise_line(memory: Mapping[str, Any]) -> str:
    """Return what became of the promise."""
    peak = max(step["peak"] for step in memory["steps"].values())
    verdict = "holds" if memory["holds"] else "FAILS"
    return f"Peak memory under {mib(memory['limit'])}: {verdict} (at most {mib(peak)})."


def ratio_lines(ratios: Mapping[str, Any]) -> list[str]:
    """Return the second part for people."""
    raw = ratios["bytes_raw"]
    rows = [(f"{mib(raw)} of bf16, {ratios['rounds']} rounds", "wall s (min to max)", "CPU s (min to max)")]
    for name, runs in ratios["runs"].items():
        wall, cpu = (_spread([run[figure] for run in runs]) for figure in ("wall", "cpu"))
        rows.append((name, wall, cpu))
    speed = ratios["speed"]
    lines = [
        f"- {ours.removeprefix('airpack ')}: {speed[ours]['cpu']:.2f} times as fast by CPU, "
        f"{speed[ours]['wall']:.2f} times by wall"
        for ours, _ in PAIRS
    ]
    share = ratios["bytes_packed"] / ratios["bytes_tar"]
    return [*table(rows), "", *lines, f"- size: the package is {share:.3f} of the `.tar.zst`"]


def _spread(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


def machine_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the machine and the date for people."""
    machine = results["machine"]
    extensions = "with" if machine["sha_instructions"] else "without"
    facts = (
        f"{machine['cpu']} ({machine['cores']} cores, {extensions} SHA instructions)",
        f"{mib(machine['memory'])} of memory",
        machine["file_system"],
        machine["system"],
        f"Linux {machine['kernel']}",
        f"Python {machine['python']}",
        machine["openssl"],
        f"libzstd {machine['libzstd']}",
        f"load {machine['load'][0]} at the start",
    )
    return [f"Measured {results['date']} with airpack {results['airpack']}:", f"{', '.join(facts)}."]


def report(results: Mapping[str, Any]) -> list[str]:
    """Return everything for people."""
    lines = machine_lines(results)
    if results["memory"]:
        lines += ["", *memory_lines(results["memory"])]
    if results["ratios"]:
        lines += ["", *ratio_lines(results["ratios"])]
    return lines


def write_page(page: Path, lines: Sequence[str]) -> None:
    """Put `lines` between the markers of a Markdown page."""
    before, after = split_page(page)
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def split_page(page: Path) -> tuple[str, str]:
    """Return what stands before and after the markers of a page; end when it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        stop(f"{page} has no {BEGIN} and {END} to write between")
    return before, after


# --- the program ------------------------------------------------------------------------------------------------------


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(error.message) from error
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"at least 1MiB; found {text}")
    return size


def _rounds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a number from 1; found {text}")
    return int(text)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=_size, default="4GiB", help="model of the first part (4GiB)")
    parser.add_argument("--ratio-size", type=_size, default="4GiB", help="model of the second part (4GiB)")
    parser.add_argument("--rounds", type=_rounds, default="3", help="rounds of the second part (3)")
    parser.add_argument("--part", choices=["memory", "ratios", "all"], default="all", help="what to measure (all)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="disk to measure on (the temporary folder's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, metavar="PAGE", help="update the tables in docs/performance.md"
    )
    return parser.parse_args(words)


def main() -> int:
    """Measure, show, and keep the one promise that a machine can be held to."""
    chosen = arguments()
    with_memory, with_ratios = chosen.part != "ratios", chosen.part != "memory"
    if with_ratios:
        check_tools()
    if chosen.write:
        split_page(chosen.write)
    # A model, its package and its copy at the site; then also the .tar.zst and what it unpacks to.
    check_room(chosen.folder, [3 * chosen.size * with_memory, 5 * chosen.ratio_size * with_ratios])
    signal.signal(signal.SIGTERM, _interrupt)
    results: dict[str, Any] = {
        "schema": "airpack.bench/1",
        "date": datetime.now(UTC).date().isoformat(),
        "airpack": airpack.__version__,
        "machine": describe_machine(chosen.folder),
        "memory": None,
        "ratios": None,
    }
    if with_memory:
        with tempfile.TemporaryDirectory(prefix="airpack-bench-", dir=chosen.folder) as folder:
            results["memory"] = measure_memory(Path(folder), chosen.size)
    if with_ratios:
        with tempfile.TemporaryDirectory(prefix="airpack-bench-", dir=chosen.folder) as folder:
            results["ratios"] = measure_ratios(Path(folder), chosen.ratio_size, chosen.rounds)
    lines = report(results)
    print("\n".join(lines))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if chosen.write:
        write_page(chosen.write, lines)
    return FAILED if results["memory"] and not results["memory"]["holds"] else 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave as after Ctrl-C: children end, folders go."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
