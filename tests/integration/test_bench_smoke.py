"""The bench runs on a few MiB and writes what others can read. No time or ratio is looked at."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("tar", "zstd", "openssl", "sync", "sha256sum")
SMALL = ("--size", "3MiB", "--speed-size", "10MiB", "--other-size", "3MiB", "--rounds", "2")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A runtime tree, so that nothing is fetched."""
    folder = tmp_path / "tree"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib/engine.so").write_bytes(b"engine " * 20_000)
    return folder


def bench(*words: str | Path, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "scripts.benching", "--folder", str(folder), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PATH": os.environ["PATH"] if path is None else path},
        capture_output=True,
        text=True,
        check=False,
    )


def written(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["schema"] == "airpack.bench/2"
    return found


def test_memory_is_measured_for_each_step_and_held_to_the_promise(tmp_path: Path, runtime: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin -->\nlines of last time\n<!-- bench:end -->\nafter\n")
    file = tmp_path / "results.json"
    words = ("--part", "memory", *SMALL, "--runtime", runtime, "--json", file, "--write", page)
    result = bench(*words, folder=tmp_path / "disk", path="")
    assert result.returncode == 0, result.stderr
    memory = written(file)["memory"]
    assert memory["holds"] is True
    assert [part["limit"] >> 20 for part in memory["parts"].values()] == [128, 192]
    for part in memory["parts"].values():
        assert list(part["steps"]) == ["build", "verify", "import"]
        assert all(0 < step["peak"] < part["limit"] for step in part["steps"].values())
        assert all(step["temp"] >= 0 for step in part["steps"].values())
        assert 0 < part["bytes_packed"] < part["bytes_raw"]
    assert "Peak memory under 128.0 MiB, temporary disk under 5%: holds" in result.stdout
    text = page.read_text()
    assert text.startswith("before\n<!-- bench:begin -->\n")
    assert text.endswith("\n<!-- bench:end -->\nafter\n")
    assert result.stdout.strip() in text
    assert "lines of last time" not in text
    assert not any((tmp_path / "disk").iterdir())


def test_a_peak_above_the_promise_ends_with_exit_code_1(tmp_path: Path, runtime: Path) -> None:
    program = (
        "import sys\nfrom scripts.benching import __main__ as bench, memory\n"
        "if __name__ == '__main__':\n    memory.WEIGHTS = 1 << 20\n    sys.exit(bench.main())\n"
    )
    (tmp_path / "program.py").write_text(program)
    words = ["--part", "memory", *SMALL, "--runtime", str(runtime), "--folder", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "Peak memory under 1.0 MiB, temporary disk under 5%: FAILS" in result.stdout


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
def test_speed_compares_both_sides_in_every_round(tmp_path: Path, runtime: Path) -> None:
    file = tmp_path / "results.json"
    result = bench("--part", "speed", *SMALL, "--runtime", runtime, "--json", file, folder=tmp_path / "disk")
    assert result.returncode == 0, result.stderr
    found = written(file)["speed"]
    assert len(found["speed"]) == 4
    assert all(figure > 0 for speed in found["speed"].values() for figure in speed.values())
    assert [len(runs) for runs in found["runs"].values()] == [2] * 6
    assert all(seconds > 0 for seconds in found["ceiling"].values())
    assert all(name in result.stdout for name in found["runs"])
    assert not any((tmp_path / "disk").iterdir())


def test_parity_is_measured_with_and_without_a_lost_volume(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    result = bench("--part", "parity", *SMALL, "--other-size", "24MiB", "--json", file, folder=tmp_path / "disk")
    assert result.returncode == 0, result.stderr
    found = written(file)["parity"]
    assert list(found["imports"]) == ["all there", "one lost"]
    assert "MB per CPU-second" in result.stdout


def test_a_missing_tool_is_named_with_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    result = bench(*SMALL, folder=tmp_path / "disk", path=str(tmp_path / "bin"))
    assert result.returncode == 3
    assert "not found: tar, zstd, openssl, sync, sha256sum" in result.stderr
    assert "apt-get install coreutils openssl tar zstd" in result.stderr


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    result = bench("--part", "memory", "--size", "1024TiB", folder=tmp_path / "disk")
    assert result.returncode == 3
    assert "not enough space" in result.stderr
    assert not any((tmp_path / "disk").iterdir())


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    result = bench("--part", "memory", *SMALL, "--write", page, folder=tmp_path / "disk")
    assert result.returncode == 3
    assert page.read_text() == "mine\n"
