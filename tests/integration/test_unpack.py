"""airpack unpack: exactly the files that a site would get, or none."""

import errno
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from airpack.formats.package import Base, VolumeInfo
from airpack.formats.volume import HEADER, Codec, Entry, emit_table
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


# -- deltas -----------------------------------------------------------------------------------------------------------


@dataclass
class Delta:
    """A package that leaves one file of its release to the site, and takes most of another one from that file."""

    folder: Path
    full: Path
    held: bytes


@pytest.fixture(scope="module")
def delta(bench: Any, airpack: Callable[..., Any], forger: Any) -> Delta:
    """Made by hand: one frame is a range of the base file, the other is stored as it is."""
    spec = bench.spec("2.0.0", check=None)
    held = random.Random(4).randbytes(100_000)
    (spec.parent / "model/weights.safetensors").unlink()
    (spec.parent / "model/held.json").write_bytes(held)
    (spec.parent / "model/new.json").write_bytes(held[1000:51_000] + b"tail")
    full, folder = bench.folder / "full", bench.folder / "delta"
    airpack("build", spec, "-o", full, "--workspace", bench.workspace)
    shutil.copytree(full, folder)
    head = forger.read(folder)
    manifest = forger.manifest(head)
    (new,) = (file for file in manifest.files if file.size == 50_004)
    (old,) = (file for file in manifest.files if file.size == 100_000)
    entries = [
        Entry(hashlib.sha256(held[1000:51_000]).digest(), 0, 0, 50_000, Codec.BASE, base=1, base_offset=1000),
        Entry(hashlib.sha256(b"tail").digest(), 50_000, 4, 4, Codec.RAW),
    ]
    table = emit_table(b"".join(entry.emit() for entry in entries), 4)
    info = VolumeInfo(manifest.volumes[0].name, HEADER + len(table) + 4, 2, 4, Digest.of(table))
    base = Base(Digest.of(b"an older release"), "tool", "1.9.0", (old,))
    made = replace(manifest, files=(new,), volumes=(info,), bases=(base,))
    forger.write(folder, forger.packed(head, made.emit()))
    header = made.header(Digest.of(made.emit()), 0).emit()
    (folder / info.name).write_bytes(header + table + b"tail")
    return Delta(folder, full, held)


def test_a_delta_without_its_base_says_what_it_needs(unpack: Callable[..., Any], delta: Delta, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(delta.held[:-1] + b"x")
    for words in ([], ["--base", tmp_path / "other"]):
        error = failed(unpack(delta.folder, "-o", tmp_path / "out", *words, expect=30), 30, "partial")
        assert "tool@1.9.0" in error["message"]
        assert "--base" in error["hint"]
        assert error["context"]["missing"] == [str(Digest.of(delta.held))]
    assert not (tmp_path / "out").exists()


def test_a_delta_is_unpacked_from_plain_files_wherever_they_lie(
    unpack: Callable[..., Any], delta: Delta, tmp_path: Path
) -> None:
    (tmp_path / "base/deep").mkdir(parents=True)
    (tmp_path / "base/deep/another name").write_bytes(delta.held)
    (tmp_path / "base/link").symlink_to("deep/another name")
    unpack(delta.full, "-o", tmp_path / "full")
    found = unpack(delta.folder, "-o", tmp_path / "out", "--base", tmp_path / "base").json
    assert tree(tmp_path / "out") == tree(tmp_path / "full")
    assert "bases" in [check["name"] for check in found["checks"]]
    assert (tmp_path / "base/deep/another name").read_bytes() == delta.held


def test_a_base_file_is_not_taken_through_a_link(unpack: Callable[..., Any], delta: Delta, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(delta.held)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/link").symlink_to(tmp_path / "real")
    failed(unpack(delta.folder, "-o", tmp_path / "out", "--base", tmp_path / "base", expect=30), 30, "partial")


def test_a_base_file_that_changes_while_it_is_used_leaves_no_file(
    unpack: Callable[..., Any], delta: Delta, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    file = tmp_path / "base/file"
    file.write_bytes(delta.held)

    def change(step: str, path: Path, size: int) -> int:
        if step == "mkdir" and path.name == STAGING:
            file.write_bytes(delta.held[:2000] + b"x" + delta.held[2001:])
        return size

    with failpoints.striking(change):
        failed(unpack(delta.folder, "-o", tmp_path / "out", "--base", tmp_path / "base", expect=10), 10, "integrity")
    assert not (tmp_path / "out").exists()


def test_a_base_folder_that_is_not_there_is_named(unpack: Callable[..., Any], delta: Delta, tmp_path: Path) -> None:
    error = failed(unpack(delta.folder, "-o", tmp_path / "out", "--base", tmp_path / "no", expect=3), 3, "not_found")
    assert str(tmp_path / "no") in error["message"]


def test_write_carries_a_delta_too(airpack: Callable[..., Any], delta: Delta, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    airpack("write", delta.folder, tmp_path / "stick")
    assert sorted(path.name for path in (tmp_path / "stick").iterdir()) == sorted(
        path.name for path in delta.folder.iterdir()
    )


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
