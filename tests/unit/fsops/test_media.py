import errno
import fcntl
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack import fsops
from airpack.errors import BusyError, IntegrityError, NotFoundError, StorageError
from airpack.fsops import NewFile, ReadBack, media
from airpack.fsops.failpoints import striking

MOUNTS = "36 35 {device} / /media/a\\040stick rw,nosuid shared:1 - {kind} /dev/sdb1 rw,uid=1000\n"


def mounted(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, *, device: str = "") -> None:
    """Let the kernel's list say that `folder` is on a file system of this kind."""
    number = folder.stat().st_dev
    mounts = folder / "mountinfo"
    mounts.write_text(
        "22 27 0:21 / /proc rw - proc proc rw\nnonsense\n\n"
        + MOUNTS.format(device=device or f"{os.major(number)}:{os.minor(number)}", kind=kind)
    )
    monkeypatch.setattr(media, "_MOUNTS", mounts)


def failing_on(monkeypatch: pytest.MonkeyPatch, name: str, code: int, when: Callable[..., bool]) -> None:
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


class TestRoom:
    @pytest.mark.parametrize(("kind", "longest"), [("vfat", 4294967295), ("msdos", 4294967295), ("exfat", None)])
    def test_the_file_system_is_the_kernels_word_and_fat_has_a_longest_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, longest: int | None
    ) -> None:
        mounted(monkeypatch, tmp_path, kind)
        room = fsops.look_at_room(tmp_path)
        assert (room.file_system, room.longest) == (kind, longest)

    def test_what_the_kernel_does_not_list_has_no_known_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mounted(monkeypatch, tmp_path, "vfat", device="999:999")
        assert fsops.look_at_room(tmp_path).longest is None
        monkeypatch.setattr(media, "_MOUNTS", tmp_path / "none")
        assert fsops.look_at_room(tmp_path).file_system == ""

    def test_space_is_counted_as_the_system_counts_it(self, tmp_path: Path) -> None:
        room = fsops.look_at_room(tmp_path)
        assert abs(room.free - fsops.free_bytes(tmp_path)) < 1 << 30
        assert room.total > room.free > 0
        assert not room.read_only
        assert room.device == tmp_path.stat().st_dev

    def test_a_file_takes_whole_blocks(self, tmp_path: Path) -> None:
        room = fsops.look_at_room(tmp_path)
        assert room.occupied(0) == 0
        assert room.occupied(1) == room.occupied(room.block) == room.block
        assert room.occupied(room.block + 1) == 2 * room.block

    def test_what_is_no_folder_is_not_found(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "none", tmp_path / "file", tmp_path / "file/x"):
            with pytest.raises(NotFoundError):
                fsops.look_at_room(path)
            with pytest.raises(NotFoundError), fsops.writing_to(path):
                pass

    def test_a_medium_that_does_not_answer_is_a_failure_of_storage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failing_on(monkeypatch, "statvfs", errno.EIO, lambda *_: True)
        with pytest.raises(StorageError):
            fsops.look_at_room(tmp_path)


class TestWritingTo:
    def test_two_do_not_write_to_one_folder_and_nothing_is_left_in_it(self, tmp_path: Path) -> None:
        with fsops.writing_to(tmp_path):
            with pytest.raises(BusyError), fsops.writing_to(tmp_path):
                pass
            assert list(tmp_path.iterdir()) == []
        with fsops.writing_to(tmp_path):
            pass

    def test_a_file_system_without_locks_is_written_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unsupported(*_: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "no locks")

        monkeypatch.setattr(fcntl, "flock", unsupported)
        with fsops.writing_to(tmp_path):
            pass


def test_only_torn_parts_of_the_named_files_are_cleared(tmp_path: Path) -> None:
    for name in (".a.airvol.7.part", ".b.airvol.7.part", ".a.airvol.x.part", "a.airvol", ".a.airvol.8.part.old"):
        (tmp_path / name).touch()
    (tmp_path / ".a.airvol.9.part").mkdir()
    fsops.clear_torn(tmp_path, {"a.airvol"})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".a.airvol.8.part.old", ".a.airvol.9.part", ".a.airvol.x.part", ".b.airvol.7.part", "a.airvol"]


class TestReading:
    @pytest.mark.parametrize("size", [0, 1, 512, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001])
    def test_the_bytes_come_back_whatever_their_number(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "file"
        fsops.write_durable(path, random.Random(size).randbytes(size))
        assert b"".join(bytes(block) for block in ReadBack(path).blocks()) == path.read_bytes()
        assert b"".join(bytes(block) for block in fsops.read_blocks(path)) == path.read_bytes()

    @pytest.mark.parametrize("refused", ["open", "preadv", "second preadv"])
    def test_where_o_direct_is_not_to_be_had_the_rest_is_read_plainly_and_said_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(random.Random(1).randbytes(3 << 20))
        seen: list[int] = []

        def direct(descriptor: int, *_: Any) -> bool:
            is_direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
            seen.extend([1] * is_direct)
            return is_direct and (refused == "preadv" or len(seen) > 1)

        if refused == "open":
            failing_on(monkeypatch, "open", errno.EINVAL, lambda _, flags, *__: bool(flags & os.O_DIRECT))
        else:
            failing_on(monkeypatch, "preadv", errno.EINVAL, direct)
        reading = ReadBack(path)
        assert b"".join(bytes(block) for block in reading.blocks()) == path.read_bytes()
        assert not reading.direct

    def test_direct_reads_begin_at_a_page_of_memory(self) -> None:
        assert media._BLOCK % mmap.PAGESIZE == 0

    def test_links_and_devices_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "target").write_bytes(b"x")
        (tmp_path / "link").symlink_to("target")
        for path in (tmp_path / "link", Path("/dev/zero")):
            with pytest.raises(IntegrityError):
                list(ReadBack(path).blocks())
            with pytest.raises(IntegrityError):
                list(fsops.read_blocks(path))

    def test_an_error_of_the_medium_is_one_of_storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_bytes(b"x")
        failing_on(monkeypatch, "preadv", errno.EIO, lambda *_: True)
        with pytest.raises(StorageError):
            list(ReadBack(tmp_path / "file").blocks())
        with pytest.raises(StorageError):
            list(fsops.read_blocks(tmp_path / "file"))


class TestForeignFiles:
    def test_a_file_system_without_modes_and_folder_syncs_takes_a_foreign_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failing_on(monkeypatch, "fchmod", errno.EPERM, lambda *_: True)
        failing_on(monkeypatch, "fsync", errno.EINVAL, lambda file: Path(f"/proc/self/fd/{file}").is_dir())
        with NewFile(tmp_path / "file", foreign=True) as new:
            new.write(b"abc")
            new.commit()
        assert (tmp_path / "file").read_bytes() == b"abc"
        with pytest.raises(StorageError), NewFile(tmp_path / "own") as new:
            new.commit()
        assert not (tmp_path / "own").exists()

    def test_a_file_that_does_not_sync_is_an_error_foreign_or_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failing_on(monkeypatch, "fsync", errno.EINVAL, lambda *_: True)
        with pytest.raises(StorageError), NewFile(tmp_path / "file", foreign=True) as new:
            new.commit()
        assert list(tmp_path.iterdir()) == []

    def test_a_push_is_a_sync_that_leaves_the_file_open(self, tmp_path: Path) -> None:
        steps: list[str] = []

        def note(step: str, _: Path, size: int) -> int:
            steps.append(step)
            return size

        with striking(note), NewFile(tmp_path / "file", foreign=True) as new:
            new.write(b"abc")
            new.push()
            new.write(b"def")
            new.commit()
        assert steps == ["create", "write", "sync", "write", "sync", "rename", "sync"]
        assert (tmp_path / "file").read_bytes() == b"abcdef"
