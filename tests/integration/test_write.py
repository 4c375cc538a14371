"""airpack write: what lands on media, in which order, and what a full, torn, pulled or lying medium leads to."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airpack.formats.volume import ENTRY, HEADER, REPAIR_MAGIC, Entry, Header
from airpack.formats.words import spoken
from airpack.fsops import Room, failpoints, media
from airpack.types import Digest

STEM = "tool-1.0.0"


@pytest.fixture(scope="module")
def package(bench: Any) -> Path:
    return Path(bench.build("1.0.0", count=1_400_000, volume_size="2MiB"))


@pytest.fixture
def stick(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str = "stick") -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def volume(number: int) -> str:
    return f"{STEM}.{number:04}.airvol"


def count(package: Path) -> int:
    return len(list(package.glob("*.airvol")))


def rooms(monkeypatch: pytest.MonkeyPatch, **changed: dict[str, Any]) -> None:
    """Let folders of these names have other figures than they have."""
    real = media.look_at_room

    def look(folder: Path) -> Room:
        return replace(real(folder), **changed.get(folder.name, {}))

    monkeypatch.setattr("airpack.fsops.look_at_room", look)


@contextmanager
def struck(step: str, name: str, error: int, *, at: int = 1) -> Iterator[None]:
    """Let the `at`-th step of this kind at a file or folder of this name fail."""
    left = at

    def hook(found: str, path: Path, size: int) -> int:
        nonlocal left
        if found == step and path.name == name:
            left -= 1
            if left == 0:
                raise OSError(error, os.strerror(error))
        return size

    with failpoints.striking(hook):
        yield


def failed(result: Any, code: int, kind: str) -> Any:
    error = result.json["error"]
    assert (result.code, error["exit_code"], error["code"]) == (code, code, kind), error["message"]
    return error


# -- as it should be --------------------------------------------------------------------------------------------------


def test_a_medium_gets_every_file_the_head_last_and_is_read_back(
    airpack: Callable[..., Any], package: Path, stick: Callable[..., Path]
) -> None:
    folder, renamed = stick(), []

    def note(step: str, path: Path, size: int) -> int:
        if step == "rename":
            renamed.append(path.name)
        return size

    with failpoints.striking(note):
        found = airpack("write", package, folder, "--json").json
    assert contents(folder) == contents(package)
    assert renamed == [*sorted(path.name for path in package.glob("*.airvol")), f"{STEM}.airpack"]
    (medium,) = found["media"]
    assert medium["read_back"] in {"direct", "dropped"}
    assert (medium["medium"], medium["of"], found["left"]) == (1, 1, [])
    for file in medium["files"]:
        assert file["sha256"] == hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
    assert medium["files"][-1]["name"] == f"{STEM}.airpack"


def test_what_was_written_verifies(airpack: Callable[..., Any], bench: Any, package: Path, stick: Any) -> None:
    folder = stick()
    airpack("write", package / f"{STEM}.airpack", folder)
    assert airpack("verify", folder, "--root", bench.root, "--json").json["ok"] is True


def test_the_label_says_what_is_on_the_medium(
    airpack: Callable[..., Any], package: Path, stick: Callable[..., Path], tmp_path: Path
) -> None:
    folder, file = stick(), tmp_path / "labels.txt"
    done = airpack("write", package, folder, "--label", file)
    digest = Digest.of((package / f"{STEM}.airpack").read_bytes())
    lines = file.read_text().splitlines()
    assert [line.split(maxsplit=1) for line in lines[:-1]] == [
        ["release", "tool@1.0.0"],
        ["medium", "1 of 1"],
        ["volumes", f"no. 1-{count(package)} of {count(package)}"],
        ["head", f"{STEM}.airpack"],
        ["digest", str(digest)],
        ["words", spoken(digest)],
    ]
    assert lines[-1].startswith("written  20")
    assert all(line in done.out for line in lines)
    failed(airpack("write", package, folder, "--label", file, "--json", expect=2), 2, "input")
    assert airpack("write", package, folder, "--label", file, "--force", "--json").code == 0


def test_dry_run_says_which_file_goes_where_and_writes_nothing(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = stick("one"), stick("two")
    rooms(monkeypatch, one={"free": 5 << 20, "device": 1}, two={"device": 2})
    found = airpack("write", package, one, two, "--dry-run", "--json").json
    on_it = [[file["name"] for file in medium["files"]] for medium in found["media"]]
    assert on_it[0][0] == volume(1)
    assert on_it[1][-2:] == [volume(count(package)), f"{STEM}.airpack"]
    assert [medium["of"] for medium in found["media"]] == [2, 2]
    assert [medium["label"] for medium in found["media"]] == [[], []]
    assert names(one) == names(two) == []
    text = airpack("write", package, one, two, "--dry-run").out
    assert "to write" in text
    assert "medium 2 of 2" in text


def test_sending_it_again_keeps_what_is_there(airpack: Callable[..., Any], package: Path, stick: Any) -> None:
    folder = stick()
    airpack("write", package, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = airpack("write", package, folder, "--json").json
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert all(file["kept"] for file in again["media"][0]["files"])
    assert again["media"][0]["bytes"] == 0
    (folder / volume(2)).unlink()
    third = airpack("write", package, folder, "--json").json
    assert [file["name"] for file in third["media"][0]["files"] if not file["kept"]] == [volume(2)]
    assert contents(folder) == contents(package)


def test_other_things_on_a_medium_stay_as_they_are(airpack: Callable[..., Any], package: Path, stick: Any) -> None:
    folder = stick()
    (folder / "holiday.jpg").write_bytes(b"x")
    (folder / ".other.1.part").write_bytes(b"y")
    airpack("write", package, folder)
    assert set(names(folder)) - set(names(package)) == {"holiday.jpg", ".other.1.part"}


def test_progress_names_the_medium_and_the_volume(program: Callable[..., Any], package: Path, stick: Any) -> None:
    folder = stick()
    done = program("write", package, folder, "--json", "--progress")
    lines = [json.loads(line) for line in done.err.splitlines()]
    assert [(line["task"], line["type"]) for line in lines if line["type"] != "progress"] == [
        ("write", "start"),
        ("write", "end"),
        ("read back", "start"),
        ("read back", "end"),
    ]
    total = sum(path.stat().st_size for path in package.iterdir())
    assert {(line["done"], line["total"]) for line in lines if line["type"] == "end"} == {(total, total)}
    assert {(line["item"], line["volume"]) for line in lines if line["type"] == "end"} == {
        (str(folder), f"{STEM}.airpack")
    }


# -- several media, several sittings ----------------------------------------------------------------------------------


def test_too_few_media_are_written_full_and_the_rest_is_named(
    airpack: Callable[..., Any], bench: Any, package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = stick("one"), stick("two")
    rooms(monkeypatch, one={"free": 4 << 20})
    first = airpack("write", package, one, "--json", expect=30)
    error = failed(first, 30, "partial")
    left = first.json["left"]
    assert left == error["context"]["left"] != []
    assert volume(1) not in left
    assert set(names(one)) == set(names(package)) - set(left)
    assert first.json["media"][0]["of"] is None
    assert "1, and more follow" in "\n".join(first.json["media"][0]["label"])
    words = first.json["only"]
    assert f"--only {words} --medium 2" in error["hint"]

    second = airpack("write", package, two, "--only", words, "--medium", "2", "--json").json
    assert second["media"][0]["medium"] == second["media"][0]["of"] == 2
    assert sorted(names(two)) == sorted([*left, f"{STEM}.airpack"])
    for name in left:
        shutil.copy(two / name, one)
    assert airpack("verify", one, "--root", bench.root, "--json").json["ok"] is True


def test_without_json_the_labels_are_printed_before_what_is_left(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stick("one")
    rooms(monkeypatch, one={"free": 4 << 20})
    done = airpack("write", package, folder, expect=30)
    assert "words " in done.out
    assert "found no room" in done.err


def test_where_nothing_fits_not_even_a_head_is_written(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stick("one")
    rooms(monkeypatch, one={"free": 1 << 20})
    found = airpack("write", package, folder, "--json", expect=30).json
    assert len(found["left"]) == count(package)
    assert found["media"] == names(folder) == []


def test_only_takes_numbers_ranges_and_names_and_refuses_others(
    airpack: Callable[..., Any], package: Path, stick: Any
) -> None:
    folder = stick()
    airpack("write", package, folder, "--only", f"1,{volume(3)}")
    assert names(folder) == [volume(1), volume(3), f"{STEM}.airpack"]
    for words in ("0", "1-", "99", "3-2", "p1", "x", "1,,2", "../x", f"{STEM}.airpack"):
        failed(airpack("write", package, folder, "--only", words, "--json", expect=2), 2, "input")


def test_a_volume_that_is_not_here_is_named_unless_others_are_meant(
    airpack: Callable[..., Any], package: Path, carry: Any, stick: Any
) -> None:
    carried, folder = carry(package), stick()
    (carried / volume(2)).unlink()
    error = failed(airpack("write", carried, folder, "--json", expect=30), 30, "partial")
    assert error["context"]["missing"] == [volume(2)]
    assert names(folder) == []
    airpack("write", carried, folder, "--only", "1,3")
    assert names(folder) == [volume(1), volume(3), f"{STEM}.airpack"]


# -- what media are like ----------------------------------------------------------------------------------------------


def test_a_volume_too_long_for_fat_is_named_before_anything_is_written(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FAT of small files, as the kernel would list it."""
    folder = stick("one")
    number = folder.stat().st_dev
    mounts = folder.parent / "mountinfo"
    mounts.write_text(f"36 35 {os.major(number)}:{os.minor(number)} / /m rw - vfat /dev/sdb1 rw\n")
    monkeypatch.setattr(media, "_MOUNTS", mounts)
    monkeypatch.setattr(media, "_LONGEST_FILE", {"vfat": 1_000_000})
    error = failed(airpack("write", package, folder, "--json", expect=20), 20, "storage")
    assert error["context"]["volume"] == volume(1)
    assert "fat32" in error["hint"]
    assert names(folder) == []


def test_a_medium_mounted_for_reading_is_said_to_be(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stick("one")
    rooms(monkeypatch, one={"read_only": True})
    error = failed(airpack("write", package, folder, "--json", expect=20), 20, "storage")
    assert "reading only" in error["message"]


@pytest.mark.parametrize(
    ("step", "code"),
    [("write", errno.ENOSPC), ("write", errno.EIO), ("sync", errno.EIO), ("rename", errno.ENODEV)],
)
def test_a_medium_that_fails_half_way_is_gone_on_with(
    airpack: Callable[..., Any], package: Path, stick: Any, step: str, code: int
) -> None:
    folder = stick()
    with struck(step, volume(2), code):
        error = failed(airpack("write", package, folder, "--json", expect=20), 20, "storage")
    assert "same command again" in error["hint"]
    assert names(folder) == [volume(1)]
    again = airpack("write", package, folder, "--json").json
    assert [file["name"] for file in again["media"][0]["files"] if file["kept"]] == [volume(1)]
    assert contents(folder) == contents(package)


def test_a_torn_part_of_a_killed_run_is_cleared_and_written_anew(
    program: Callable[..., Any], package: Path, stick: Any
) -> None:
    folder = stick()
    (folder / volume(1)).write_bytes((package / volume(1)).read_bytes())
    (folder / f".{volume(2)}.123456.part").write_bytes((package / volume(2)).read_bytes()[:1000])
    program("write", package, folder)
    assert contents(folder) == contents(package)


@pytest.mark.parametrize("number", [1, 3, None])
def test_a_medium_that_gives_back_other_bytes_is_said_to_and_keeps_no_head(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    folder = stick()
    name = f"{STEM}.airpack" if number is None else volume(number)
    with monkeypatch.context() as patch:
        lying(patch, folder / name)
        error = failed(airpack("write", package, folder, "--json", expect=20), 20, "storage")
    assert "gives back other bytes" in error["message"]
    assert name in error["message"]
    assert "do not use this medium" in error["hint"]
    assert set(names(folder)) == set(names(package)) - {f"{STEM}.airpack", name}
    airpack("write", package, folder)
    assert contents(folder) == contents(package)


def lying(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Flip a bit in what is read back of `path`, whichever way it is read."""
    real = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int, *more: Any) -> int:
        size = real(descriptor, buffers, offset, *more)
        if size and offset == 0 and Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            buffers[0][size // 2] ^= 8
        return size

    patch.setattr(os, "preadv", preadv)


def test_the_read_back_asks_the_device_and_not_the_page_cache(
    airpack: Callable[..., Any], package: Path, stick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is synced, then dropped or read with O_DIRECT; what is kept is read so as well."""
    folder, real, direct = stick(), os.preadv, set()
    dropped: set[str] = set()
    advise = os.posix_fadvise

    def preadv(descriptor: int, *rest: Any) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            direct.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        return real(descriptor, *rest)

    def fadvise(descriptor: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        dropped.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        advise(descriptor, start, length, advice)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    for _ in range(2):
        found = airpack("write", package, folder, "--json").json["media"][0]
        assert dropped >= set(names(package))
        assert (found["read_back"] == "direct") is (direct >= set(names(package)))
        direct.clear()
        dropped.clear()


def test_a_transfer_folder_may_empty_as_it_fills(airpack: Callable[..., Any], package: Path, stick: Any) -> None:
    folder, taken = stick(), []

    def take(step: str, path: Path, size: int) -> int:
        if step == "sync" and path == folder:  # the rename before it is done
            for file in folder.iterdir():
                taken.append(file.name)
                file.unlink()
        return size

    with failpoints.striking(take):
        error = failed(airpack("write", package, folder, "--json", expect=20), 20, "storage")
        assert "--no-read-back" in error["hint"]
        taken.clear()
        found = airpack("write", package, folder, "--no-read-back", "--json").json
    assert taken == [*sorted(path.name for path in package.glob("*.airvol")), f"{STEM}.airpack"]
    assert found["media"][0]["read_back"] == "no"


def test_a_write_is_stopped_at_once_and_leaves_no_part(package: Path, stick: Any, program: Any) -> None:
    """Ctrl-C while the first volume is being copied, slowly."""
    folder = stick()
    code = (
        "import time\nfrom airpack.fsops import failpoints\nfrom airpack.cli.main import main\n"
        "def slow(step, path, size):\n"
        "    if step == 'write' and path.suffix == '.airvol':\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(0.2)\n"
        "    return size\n"
        "with failpoints.striking(slow):\n"
        f"    main(['write', {str(package)!r}, {str(folder)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 30
    assert not list(folder.glob(".*.part"))
    assert f"{STEM}.airpack" not in names(folder)
    program("write", package, folder)


# -- what must not be written over, or from ---------------------------------------------------------------------------


def test_another_file_under_a_name_is_refused_before_anything_is_written_and_replaced_by_force(
    airpack: Callable[..., Any], package: Path, stick: Any
) -> None:
    folder = stick()
    wrong = bytearray((package / volume(2)).read_bytes())
    wrong[-1] ^= 1
    (folder / volume(2)).write_bytes(wrong)
    error = failed(airpack("write", package, folder, "--json", expect=2), 2, "input")
    assert "chunk" in error["message"]
    assert "--force" in error["hint"]
    assert contents(folder) == {volume(2): bytes(wrong)}
    airpack("write", package, folder, "--force")
    assert contents(folder) == contents(package)


def test_a_link_under_a_name_is_replaced_and_never_followed(
    airpack: Callable[..., Any], package: Path, stick: Any, tmp_path: Path
) -> None:
    folder, target = stick(), tmp_path / "target"
    target.write_bytes(b"precious")
    (folder / volume(1)).symlink_to(target)
    failed(airpack("write", package, folder, "--json", expect=2), 2, "input")
    airpack("write", package, folder, "--force")
    assert target.read_bytes() == b"precious"
    assert not (folder / volume(1)).is_symlink()
    assert contents(folder) == contents(package)


def test_a_renewed_head_replaces_the_old_one_by_force_alone(
    airpack: Callable[..., Any], bench: Any, package: Path, carry: Any, stick: Any
) -> None:
    carried, folder = carry(package), stick()
    airpack("write", carried, folder)
    airpack("publish", carried, "--workspace", bench.workspace)
    failed(airpack("write", carried, folder, "--json", expect=2), 2, "input")
    found = airpack("write", carried, folder, "--force", "--json").json
    assert [file["name"] for file in found["media"][0]["files"] if not file["kept"]] == [f"{STEM}.airpack"]
    assert contents(folder) == contents(carried)


@pytest.mark.parametrize("at", [10, 200, -1])
def test_a_damaged_source_is_named_and_does_not_reach_the_medium(
    airpack: Callable[..., Any], package: Path, carry: Any, stick: Any, at: int
) -> None:
    carried, folder = carry(package), stick()
    data = bytearray((carried / volume(2)).read_bytes())
    data[at] ^= 1
    (carried / volume(2)).write_bytes(data)
    error = failed(airpack("write", carried, folder, "--json", expect=10), 10, "integrity")
    assert volume(2) in error["message"]
    assert names(folder) == [volume(1)]


def test_a_source_of_another_size_is_refused_before_anything_is_written(
    airpack: Callable[..., Any], package: Path, carry: Any, stick: Any
) -> None:
    carried, folder = carry(package), stick()
    with (carried / volume(3)).open("ab") as stream:
        stream.write(b"x")
    failed(airpack("write", carried, folder, "--json", expect=10), 10, "integrity")
    assert names(folder) == []


def test_folders_that_cannot_be_media_are_refused(
    airpack: Callable[..., Any], package: Path, stick: Any, tmp_path: Path
) -> None:
    folder = stick()
    failed(airpack("write", package, folder, folder, "--json", expect=2), 2, "input")
    failed(airpack("write", package, package, "--json", expect=2), 2, "input")
    failed(airpack("write", package, tmp_path / "none", "--json", expect=3), 3, "not_found")
    assert not (tmp_path / "none").exists()
    with media.writing_to(folder):
        failed(airpack("write", package, folder, "--json", expect=21), 21, "busy")
    assert names(folder) == []


# -- parity and repair ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_parity(bench: Any, airpack: Callable[..., Any]) -> Path:
    out = bench.folder / "parity"
    spec = bench.spec("1.0.0", count=1_400_000)
    words = ("--workspace", bench.workspace, "--volume-size", "2500KiB", "--parity", "1", "--json")
    airpack("build", spec, "-o", out, *words)
    return Path(out)


def test_parity_goes_to_a_medium_of_its_own_and_is_compared_too(
    airpack: Callable[..., Any], with_parity: Path, carry: Any, stick: Any
) -> None:
    carried, one, two = carry(with_parity), stick("one"), stick("two")
    found = airpack("write", carried, one, two, "--json").json
    parity = f"{STEM}.p01.airvol"
    assert names(two) == [f"{STEM}.airpack", parity]
    assert parity not in names(one)
    assert "parity   no. p1 of p1" in found["media"][1]["label"]
    assert "volumes  none" in found["media"][1]["label"]
    assert found["survives_one"] is False
    data = bytearray((carried / parity).read_bytes())
    data[HEADER + 100_000] ^= 1
    (carried / parity).write_bytes(data)
    (two / parity).unlink()
    error = failed(airpack("write", carried, two, "--only", "p1", "--json", expect=10), 10, "integrity")
    assert "row 1 of" in error["message"]


def test_with_media_enough_any_one_of_them_may_be_lost(
    airpack: Callable[..., Any], bench: Any, with_parity: Path, stick: Any
) -> None:
    sticks = [stick(str(number)) for number in range(count(with_parity))]
    found = airpack("write", with_parity, *sticks, "--json").json
    assert found["survives_one"] is True
    assert [len(medium["files"]) for medium in found["media"]] == [2] * len(sticks)
    for lost in sticks:
        others = [folder for folder in sticks if folder != lost]
        assert airpack("verify", *others, "--root", bench.root, "--json").json["ok"] is True
    assert "may be lost" in airpack("write", with_parity, *sticks).out


def repair_volume(carried: Path, forger: Any, number: int) -> Path:
    """Put a repair volume with the first chunk of a volume beside the head of a package."""
    head = forger.read(carried)
    manifest = forger.manifest(head)
    info = manifest.volumes[number - 1]
    data = (carried / info.name).read_bytes()
    table = data[HEADER : HEADER + info.slots * ENTRY]
    first = Entry.parse(table[:ENTRY], what="").stored
    bitmap = bytes([1]).ljust(-(-info.entries // 8), b"\0")
    package = Header.parse(data[:HEADER], what="").package
    header = Header(package, number, len(manifest.volumes), info.entries, info.slots, first, magic=REPAIR_MAGIC)
    path = carried / f"{STEM}.{number:04}.01.airfix"
    path.write_bytes(header.emit() + table + bitmap + data[HEADER + len(table) :][:first])
    return path


def test_a_repair_folder_is_written_as_it_is(
    airpack: Callable[..., Any], package: Path, carry: Any, forger: Any, stick: Any
) -> None:
    carried, folder = carry(package), stick()
    fix = repair_volume(carried, forger, 2)
    foreign = f"{STEM}.0003.01.airfix"
    (carried / foreign).write_bytes(b"x" * 500)
    for number in range(2, count(package) + 1):
        (carried / volume(number)).unlink()
    found = airpack("write", carried, folder, "--json").json
    assert names(folder) == [volume(1), fix.name, f"{STEM}.airpack"]
    assert found["ignored"] == [foreign]
    assert f"repair   {fix.name}" in found["media"][0]["label"]
    data = bytearray(fix.read_bytes())
    data[-1] ^= 1
    fix.write_bytes(data)
    (folder / fix.name).unlink()
    failed(airpack("write", carried, folder, "--json", expect=10), 10, "integrity")
