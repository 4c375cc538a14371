"""Programs to be shut off, and a look at what is left of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import PolicyError
from airpack.ops.probes import isolation
from airpack.ops.probes.isolation import Job, Mode, Outcome


def _job(release: Path, code: str, arguments: Sequence[str], options: dict[str, Any]) -> Job:
    words = (isolation.interpreter(), "-I", "-S", "-B", "-c", code, *arguments)
    return Job(command=lambda _: words, release=release, **({"memory": 512 << 20, "timeout": 30.0} | options))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of one file; beside it lies what the program must not see."""
    folder = tmp_path / "generation"
    folder.mkdir()
    (folder / "file").write_text("content")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def run(release: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Run Python code in a mode; a mode that this machine does not offer skips the test and says why."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def runner(mode: Mode, code: str, *arguments: str, **options: Any) -> Outcome:
        if mode != "none":
            try:
                isolation.run_job(_job(release, "", (), {}), mode=mode, scratch=scratch)
            except PolicyError as error:
                pytest.skip(f"this machine does not isolate in mode {mode}: {error.context['reason']}")
        outcome = isolation.run_job(_job(release, code, arguments, options), mode=mode, scratch=scratch)
        assert list(scratch.iterdir()) == [], "nothing is left in the scratch folder"
        return outcome

    return runner


@pytest.fixture
def gone() -> Callable[[str], bool]:
    """Say whether no process with `marker` among its arguments is left, soon."""

    def check(marker: str) -> bool:
        if not Path("/proc/self").exists():
            pytest.skip("there is no /proc here to look for processes in")
        for _ in range(200):
            if not any(marker.encode() in _arguments(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
                return True
            time.sleep(0.05)
        return False

    return check


def _arguments(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
