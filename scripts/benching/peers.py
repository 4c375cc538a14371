"""What others ship when a model changes: restic, casync, borg and `zstd --patch-from`, where they are installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from scripts.benching.measure import bytes_in

PYTHON: Final = sys.executable
PROGRAMS: Final = {"restic": "restic", "casync": "casync", "borg": "borgbackup", "zstd": "zstd"}  # to Debian package
LACKS: Final = {
    "restic": "a repository, not a package: no signatures by others, no rules about what may be activated, no volumes",
    "casync": "chunks and an index: no signatures, no volumes",
    "borg": "a repository, as restic",
    "zstd --patch-from": "files of up to 2 GiB, the base whole in memory; no signatures, no digests, no tree",
}
_SECRET: Final = {"RESTIC_PASSWORD": "bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


def missing() -> dict[str, str]:
    """Return the programs that are not here, and how to get them."""
    return {
        program: f"on Debian, apt-get install {package}"
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    }


def tried(words: Sequence[str | Path], folder: Path) -> str:
    """Run a program; return why it failed, empty when it did not."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **_SECRET, "BORG_BASE_DIR": str(folder), "RESTIC_CACHE_DIR": str(folder / "restic-cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def deltas(folder: Path, old: Path, new: Path) -> dict[str, int]:
    """Return the bytes that each program that is here adds for `new` to what it holds of `old`."""
    absent = missing()
    ways: Mapping[str, tuple[str, Callable[[Path, Path, Path], int]]] = {
        "restic": ("restic", _restic),
        "casync": ("casync", _casync),
        "borg": ("borg", _borg),
        "zstd --patch-from": ("zstd", _patch),
    }
    found = {}
    for name, (program, way) in ways.items():
        if program not in absent:
            work = folder / "peer"
            work.mkdir()
            found[name] = way(work, old, new)
            shutil.rmtree(work)
    return found


def _grown(store: Path, folder: Path, first: Sequence[str | Path], second: Sequence[str | Path]) -> int:
    """Return how much `store` grows by the second command."""
    _do(first, folder)
    before = bytes_in(store)
    _do(second, folder)
    return bytes_in(store) - before


def _do(words: Sequence[str | Path], folder: Path) -> None:
    why = tried(words, folder)
    if why:
        raise RuntimeError(f"{words[0]} failed: {why}")


def _restic(work: Path, old: Path, new: Path) -> int:
    repository = work / "store"
    _do(["restic", "init", "-q", "-r", repository], work)
    backup: list[str | Path] = ["restic", "backup", "-q", "-r", repository, "--compression", "max"]
    return _grown(repository, work, [*backup, old], [*backup, new])


def _casync(work: Path, old: Path, new: Path) -> int:
    make: list[str | Path] = ["casync", "make", "--store", work / "store"]
    return _grown(work / "store", work, [*make, work / "old.caidx", old], [*make, work / "new.caidx", new])


def _borg(work: Path, old: Path, new: Path) -> int:
    _do(["borg", "init", "-e", "none", work / "store"], work)
    create: list[str | Path] = ["borg", "create", "-C", "zstd,3"]
    store = work / "store"
    return _grown(store, work, [*create, f"{store}::old", old], [*create, f"{store}::new", new])


def _patch(work: Path, old: Path, new: Path) -> int:
    (source,), (target,) = (list(folder.iterdir()) for folder in (old, new))
    _do(["zstd", "-q", "-3", "--long=30", f"--patch-from={source}", target, "-o", work / "patch"], work)
    return bytes_in(work / "patch")
