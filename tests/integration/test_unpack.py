"""airpack unpack: exactly the files that a site would get, or none."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.fsops import failpoints
from airpack.types import Digest

STAGING = ".airpack-unpack"


@pytest.fixture(scope="module")
def package(bench: Any, airpack: Callable[..., Any]) -> Path:
    """Several volumes; one content under four paths, executable and not; an empty file twice."""
    spec = bench.spec("1.0.0", count=1_400_000)
    for name in ("a/empty", "b/empty", "copy"):
        path = spec.parent / "tool" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((spec.parent / "tool/check").read_bytes() if name == "copy" else b"")
    shutil.copy(spec.parent / "tool/check", spec.parent / "model/check.txt")
    out = bench.folder / "package"
    airpack("build", spec, "-o", out, "--workspace", bench.workspace, "--volume-size", "2MiB", "--json")
    return Path(out)


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Return path -> (mode, digest) of every file below `folder`; nothing but files and folders may be there."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            assert stat.S_IMODE(status.st_mode) == 0o755, path
        else:
            assert stat.S_ISREG(status.st_mode), path
            assert status.st_nlink == 1, path
            found[path.relative_to(folder).as_posix()] = (
                stat.S_IMODE(status.st_mode),
                str(Digest.of(path.read_bytes())),
            )
    return found


def expected(airpack: Callable[..., Any], package: Path) -> dict[str, tuple[int, str]]:
    files = airpack("inspect", package, "--json").json["files"]
    return {file["path"]: (0o755 if file["executable"] else 0o644, file["digest"]) for file in files}


def failed(result: Any, code: int, kind: str) -> Any:
    error = result.json["error"]
    assert (result.code, error["exit_code"], error["code"]) == (code, code, kind), error["message"]
    return error


@pytest.fixture
def unpack(airpack: Callable[..., Any], bench: Any) -> Callable[..., Any]:
    def run(*words: Any, expect: int = 0) -> Any:
        return airpack("unpack", *words, "--root", bench.root, "--json", expect=expect)

    return run


# -- as it should be --------------------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_release_with_their_modes(
    airpack: Callable[..., Any], unpack: Callable[..., Any], package: Path, tmp_path: Path
) -> None:
    found = unpack(package, "-o", tmp_path / "new/out").json
    wanted = expected(airpack, package)
    assert tree(tmp_path / "new/out") == wanted
    assert len(wanted) == 6
    assert {mode for mode, _ in wanted.values()} == {0o644, 0o755}
    assert found["ok"] is True
    assert (found["files"], found["folder"]) == (len(wanted), str(tmp_path / "new/out"))
    names = [check["name"] for check in found["checks"]]
    assert names == [
        *("head", "channel", "policy", "package", "release", "attestations", "compatibility"),
        *("space", "volumes"),
    ]


def test_they_are_what_the_site_runs(unpack: Callable[..., Any], package: Path, site: Any, tmp_path: Path) -> None:
    unpack(package, "-o", tmp_path / "out")
    site.run("import", package)
    site.run("activate", "tool@1.0.0")
    current = site.folder / "products/tool/current"
    at_site = {path.relative_to(current).as_posix() for path in current.rglob("*") if path.is_file()}
    assert at_site == set(tree(tmp_path / "out"))
    for name in at_site:
        assert (current / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_volumes_may_lie_in_several_folders(
    airpack: Callable[..., Any], unpack: Callable[..., Any], package: Path, carry: Any, tmp_path: Path
) -> None:
    one, two = carry(package), carry(package)
    volumes = sorted(path.name for path in package.glob("*.airvol"))
    for name in volumes:
        ((one if volumes.index(name) % 2 else two) / name).unlink()
    unpack(one, two, "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == expected(airpack, package)


def test_an_empty_folder_is_filled_also_through_a_link(
    airpack: Callable[..., Any], unpack: Callable[..., Any], package: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    unpack(package, "-o", tmp_path / "out")
    assert tree(tmp_path / "disk") == expected(airpack, package)


def test_a_long_name_is_no_longer_while_it_is_written(airpack: Callable[..., Any], bench: Any, tmp_path: Path) -> None:
    spec = bench.spec("1.0.0", "long")
    (spec.parent / "model" / ("n" * 255)).write_bytes(b"{}")
    airpack("build", spec, "-o", tmp_path / "package", "--workspace", bench.workspace)
    airpack("unpack", tmp_path / "package", "-o", tmp_path / "out", "--root", bench.root)
    assert f"model/m/{'n' * 255}" in tree(tmp_path / "out")


# -- what leaves nothing ----------------------------------------------------------------------------------------------


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir()) if out.exists() else []


def test_a_damaged_volume_leaves_no_file_whichever_it_is(
    unpack: Callable[..., Any], package: Path, carry: Any, tmp_path: Path
) -> None:
    for number, name in enumerate(sorted(path.name for path in package.glob("*.airvol"))):
        carried = carry(package)
        data = bytearray((carried / name).read_bytes())
        data[-1] ^= 1
        (carried / name).write_bytes(data)
        done = unpack(carried, "-o", tmp_path / f"out{number}", expect=10)
        failed(done, 10, "integrity")
        assert done.json["ok"] is False
        assert done.json["checks"][-1] == {**done.json["checks"][-1], "name": "volumes", "ok": False}
        assert not (tmp_path / f"out{number}").exists()


def test_a_missing_volume_leaves_no_file(unpack: Callable[..., Any], package: Path, carry: Any, tmp_path: Path) -> None:
    carried = carry(package)
    gone = sorted(carried.glob("*.airvol"))[1]
    gone.unlink()
    error = failed(unpack(carried, "-o", tmp_path / "out", expect=30), 30, "partial")
    assert error["context"]["missing"] == [gone.name]
    assert not (tmp_path / "out").exists()


def test_another_root_is_refused_before_a_folder_is_made(
    airpack: Callable[..., Any], package: Path, new_bench: Any, tmp_path: Path
) -> None:
    other = new_bench()
    done = airpack("unpack", package, "-o", tmp_path / "out", "--root", other.root, "--json", expect=11)
    failed(done, 11, "trust")
    assert not (tmp_path / "out").exists()


def test_expired_metadata_is_refused_at_the_time_that_is_asked_about(
    unpack: Callable[..., Any], package: Path, tmp_path: Path
) -> None:
    failed(unpack(package, "-o", tmp_path / "out", "--at", "2099-01-01", expect=11), 11, "expired")


@pytest.mark.parametrize("there", ["file", "other", "hidden", "staging-link", "staging-file"])
def test_a_folder_that_holds_anything_is_refused_and_left(
    unpack: Callable[..., Any], package: Path, tmp_path: Path, there: str
) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_bytes(b"x")
    else:
        out.mkdir()
        name = {"other": "a", "hidden": ".a"}.get(there, STAGING)
        if there == "staging-link":
            (out / name).symlink_to(tmp_path)
        else:
            (out / name).write_bytes(b"x")
    failed(unpack(package, "-o", out, expect=2), 2, "input")
    assert out.is_file() or len(left(out)) == 1


def test_a_short_disk_is_said_before_anything_is_written(
    unpack: Callable[..., Any], package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airpack.fsops.free_bytes", lambda _: 1_000_000)
    error = failed(unpack(package, "-o", tmp_path / "out", expect=20), 20, "storage")
    assert error["context"]["needed"] > 5_600_000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("step", "suffix"), [("write", ".part"), ("sync", ".part"), ("rename", "check.txt"), ("reserve", ".part")]
)
def test_a_disk_that_fails_half_way_leaves_no_file(
    unpack: Callable[..., Any], package: Path, tmp_path: Path, step: str, suffix: str
) -> None:
    out, count = tmp_path / "out", 0

    def fail(found: str, path: Path, size: int) -> int:
        nonlocal count
        if found == step and path.name.endswith(suffix):
            count += 1
            if count == 2 or suffix != ".part":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return size

    out.mkdir()
    with failpoints.striking(fail):
        failed(unpack(package, "-o", out, expect=20), 20, "storage")
    assert left(out) == []
    unpack(package, "-o", out)


@pytest.mark.parametrize("at", ["write", "sync", "rename"])
def test_a_killed_run_leaves_nothing_under_a_name_and_is_begun_anew(
    airpack: Callable[..., Any], bench: Any, package: Path, tmp_path: Path, at: str
) -> None:
    out = tmp_path / "out"
    code = (
        "import os\nfrom airpack.fsops import failpoints\nfrom airpack.cli.main import main\n"
        "def kill(step, path, size):\n"
        f"    if step == {at!r} and {STAGING!r} in path.parts and (step == 'write' or 'tree' in path.parts):\n"
        "        os._exit(9)\n"
        "    return size\n"
        "with failpoints.striking(kill):\n"
        f"    main(['unpack', {str(package)!r}, '-o', {str(out)!r}, '--root', {str(bench.root)!r}])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 9
    assert left(out) == [STAGING]
    assert stat.S_IMODE((out / STAGING).stat().st_mode) == 0o700
    airpack("unpack", package, "-o", out, "--root", bench.root)
    assert tree(out) == expected(airpack, package)
    assert left(out) == ["model", "runtime"]


def test_two_do_not_unpack_into_one_folder(
    airpack: Callable[..., Any], bench: Any, package: Path, tmp_path: Path
) -> None:
    from airpack import fsops  # noqa: PLC0415, the fixture of the package's name

    out = tmp_path / "out"
    out.mkdir()
    with fsops.writing_to(out):
        done = airpack("unpack", package, "-o", out, "--root", bench.root, "--json", expect=21)
    failed(done, 21, "busy")
    assert left(out) == []
