"""The bench runs on a few MiB and writes what others can read. No time or ratio is looked at."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench.py"
TOOLS = ("tar", "zstd", "openssl", "sync")
SMALL = ("--size", "3MiB", "--ratio-size", "2MiB", "--rounds", "2")


def bench(*words: str, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, str(BENCH), "--folder", str(folder), *words],
        env={**os.environ, "PATH": os.environ["PATH"] if path is None else path},
        capture_output=True,
        text=True,
        check=False,
    )


def written(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["schema"] == "airpack.bench/1"
    return found


def test_memory_is_measured_for_each_step_and_held_to_the_promise(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin -->\nlines of last time\n<!-- bench:end -->\nafter\n")
    file = tmp_path / "results.json"
    result = bench(
        "--part", "memory", *SMALL, "--json", str(file), "--write", str(page), folder=tmp_path / "disk", path=""
    )
    assert result.returncode == 0, result.stderr
    memory = written(file)["memory"]
    assert list(memory["steps"]) == ["build", "verify", "import"]
    assert all(0 < step["peak"] < memory["limit"] == 256 << 20 for step in memory["steps"].values())
    assert all(step["temp"] >= 0 for step in memory["steps"].values())
    assert 3 << 20 <= memory["bytes_raw"] < 4 << 20
    assert 0 < memory["bytes_packed"] < memory["bytes_raw"]
    assert memory["holds"] is True
    assert "Peak memory under 256.0 MiB: holds" in result.stdout
    text = page.read_text()
    assert text.startswith("before\n<!-- bench:begin -->\n")
    assert text.endswith("\n<!-- bench:end -->\nafter\n")
    assert result.stdout.strip() in text
    assert "lines of last time" not in text
    assert not any((tmp_path / "disk").iterdir())


def test_a_peak_above_the_promise_ends_with_exit_code_1(tmp_path: Path) -> None:
    program = "import sys, bench; bench.PROMISE = 1 << 20; sys.exit(bench.main())"
    words = ["--part", "memory", *SMALL, "--folder", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": str(BENCH.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "Peak memory under 1.0 MiB: FAILS" in result.stdout


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
def test_ratios_compare_both_sides_in_every_round(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    result = bench("--part", "ratios", *SMALL, "--json", str(file), folder=tmp_path / "disk")
    assert result.returncode == 0, result.stderr
    ratios = written(file)["ratios"]
    assert list(ratios["speed"]) == ["airpack build", "airpack import"]
    assert all(figure > 0 for speed in ratios["speed"].values() for figure in speed.values())
    assert [len(runs) for runs in ratios["runs"].values()] == [2, 2, 2, 2]
    assert all(name in result.stdout for name in ratios["runs"])
    assert not any((tmp_path / "disk").iterdir())


def test_a_missing_tool_is_named_with_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    result = bench(*SMALL, folder=tmp_path / "disk", path=str(tmp_path / "bin"))
    assert result.returncode == 3
    assert "not found: tar, zstd, openssl, sync" in result.stderr
    assert "apt-get install coreutils openssl tar zstd" in result.stderr


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    result = bench("--part", "memory", "--size", "1024TiB", folder=tmp_path / "disk")
    assert result.returncode == 3
    assert "not enough space" in result.stderr
    assert not any((tmp_path / "disk").iterdir())


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    result = bench("--part", "memory", *SMALL, "--write", str(page), folder=tmp_path / "disk")
    assert result.returncode == 3
    assert page.read_text() == "mine\n"
