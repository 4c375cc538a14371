import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError, TrustError
from airpack.fsops import NewFile
from airpack.fsops.failpoints import striking

RECORDED = ("open", "fsync", "rename", "link", "unlink", "symlink", "ftruncate", "pwrite", "write", "close")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every call that matters for durability, with the name of what it was made on, in order."""
    made: list[tuple[str, str]] = []

    def name_of(target: Any) -> str:
        return (Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)).name

    def recording(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **options: Any) -> Any:
            made.append((name, name_of(target)))
            return real(target, *rest, **options)

        return call

    for name in RECORDED:
        monkeypatch.setattr(os, name, recording(name, getattr(os, name)))
    return made


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, at: int = 1) -> None:
    """Let the `at`-th call of `os.NAME` fail."""
    real, count = getattr(os, name), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds `old`."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


class TestWriteDurable:
    def test_syncs_the_file_before_its_name_and_the_folder_after(
        self, file: Path, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("secrets.randbits", lambda _: 7)
        fsops.write_durable(file, b"new")
        part = ".file.7.part"
        folder = file.parent.name
        assert [call for call in calls if call[0] != "open"] == [
            ("write", part),
            ("fsync", part),
            ("close", part),
            ("rename", part),
            ("fsync", folder),
            ("close", folder),
        ]
        assert file.read_bytes() == b"new"

    def test_a_name_that_must_be_new_is_linked_never_renamed(
        self, tmp_path: Path, calls: list[tuple[str, str]]
    ) -> None:
        fsops.write_durable(tmp_path / "file", b"new", replace=False)
        kinds = [name for name, _ in calls if name != "open"]
        assert kinds == ["write", "fsync", "close", "link", "unlink", "fsync", "close"]

    @pytest.mark.parametrize("mode", [0o444, 0o600, 0o755])
    def test_gives_the_mode_whatever_the_umask(self, tmp_path: Path, mode: int) -> None:
        before = os.umask(0o077)
        try:
            fsops.write_durable(tmp_path / "file", b"", mode=mode)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode

    def test_nobody_else_can_read_it_before_it_is_whole(self, tmp_path: Path) -> None:
        with NewFile(tmp_path / "file", mode=0o644):
            (part,) = tmp_path.iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600

    @pytest.mark.parametrize(
        ("step", "code"),
        [
            ("open", errno.EROFS),
            ("write", errno.ENOSPC),
            ("write", errno.EIO),
            ("fchmod", errno.EPERM),
            ("fsync", errno.EIO),
            ("close", errno.EDQUOT),
            ("rename", errno.EACCES),
        ],
    )
    def test_a_failure_before_the_name_leaves_the_old_file_and_nothing_else(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
    ) -> None:
        failing(monkeypatch, step, code)
        with pytest.raises(StorageError, match=os.strerror(code)):
            fsops.write_durable(file, b"new")
        assert names(file.parent) == ["file"]
        assert file.read_bytes() == b"old"

    def test_a_folder_that_cannot_be_synced_is_no_success(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        failing(monkeypatch, "fsync", errno.EIO, at=2)
        with pytest.raises(StorageError, match="cannot sync folder"):
            fsops.write_durable(file, b"new")
        assert names(file.parent) == ["file"]

    def test_a_failed_sync_is_not_tried_again(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The kernel may have dropped the pages: a second fsync would succeed over lost bytes."""
        tried = []

        def broken(descriptor: int) -> None:
            tried.append(descriptor)
            raise OSError(errno.EIO, "I/O error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError):
            fsops.write_durable(file, b"new")
        assert len(tried) == 1

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_said_with_what_helps(self, file: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        failing(monkeypatch, "write", code)
        with pytest.raises(StorageError) as caught:
            fsops.write_durable(file, b"new")
        assert caught.value.message == f"cannot write {file}: {os.strerror(code)}"
        assert "free some space" in caught.value.hint
        assert caught.value.context == {"path": str(file)}
        assert isinstance(caught.value.__cause__, OSError)

    def test_short_writes_are_continued(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:2])))
        fsops.write_durable(tmp_path / "file", b"0123456")
        assert (tmp_path / "file").read_bytes() == b"0123456"

    def test_without_replace_an_existing_file_stays(self, file: Path) -> None:
        with pytest.raises(StorageError, match="File exists"):
            fsops.write_durable(file, b"new", replace=False)
        assert names(file.parent) == ["file"]
        assert file.read_bytes() == b"old"

    @pytest.mark.parametrize("kind", ["link", "file"])
    def test_what_stands_in_the_place_of_the_temporary_file_is_not_written_through(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setattr("secrets.randbits", lambda _: 7)
        planted = tmp_path / ".new.7.part"
        planted.symlink_to(file) if kind == "link" else planted.write_bytes(b"somebody else's")
        with pytest.raises(StorageError):
            fsops.write_durable(tmp_path / "new", b"x")
        assert file.read_bytes() == b"old"

    def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(self, file: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(file)
        fsops.write_durable(link, b"new")
        assert (link.is_symlink(), link.read_bytes(), file.read_bytes()) == (False, b"new", b"old")

    def test_what_a_killed_process_left_is_in_nobody_s_way(self, tmp_path: Path) -> None:
        (tmp_path / ".file.7.part").write_bytes(b"a longer rest of the last try")
        fsops.write_durable(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"
        fsops.clear_temporary(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_missing_folder_is_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot create"):
            fsops.write_durable(tmp_path / "no" / "file", b"")


class TestNewFile:
    def test_without_commit_nothing_is_left(self, file: Path) -> None:
        with NewFile(file) as new:
            new.write(b"new")
        assert names(file.parent) == ["file"]
        assert file.read_bytes() == b"old"

    def test_an_exception_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupted() -> None:
            with NewFile(tmp_path / "file") as new:
                new.write(b"new")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == []

    def test_is_not_there_before_commit(self, tmp_path: Path) -> None:
        with NewFile(tmp_path / "file") as new:
            new.write(b"new")
            assert not (tmp_path / "file").exists()
            new.commit()
            assert (tmp_path / "file").exists()

    def test_discard_after_commit_does_nothing(self, tmp_path: Path) -> None:
        new = NewFile(tmp_path / "file")
        new.commit()
        new.discard()
        assert names(tmp_path) == ["file"]

    def test_writes_anywhere(self, tmp_path: Path) -> None:
        with NewFile(tmp_path / "file") as new:
            new.seek(4)
            new.write(b"45")
            new.write_at(b"0123", 0)
            new.write(b"67")
            new.commit()
        assert (tmp_path / "file").read_bytes() == b"01234567"

    def test_a_parked_file_holds_no_descriptor_and_goes_on(self, tmp_path: Path) -> None:
        before = descriptors()
        with NewFile(tmp_path / "file") as new:
            new.write(b"xxxx")
            new.park()
            assert descriptors() == before
            new.resume()
            new.write(b"01")
            new.commit()
        assert (tmp_path / "file").read_bytes() == b"01xx"

    def test_a_parked_file_is_discarded_too(self, tmp_path: Path) -> None:
        with NewFile(tmp_path / "file") as new:
            new.park()
        assert names(tmp_path) == []

    def test_keeps_no_descriptor(self, tmp_path: Path) -> None:
        before = descriptors()
        NewFile(tmp_path / "a").discard()
        with NewFile(tmp_path / "b") as new:
            new.commit()
        assert descriptors() == before

    def test_the_disk_is_asked_to_begin_before_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        begun: list[tuple[int, int]] = []
        monkeypatch.setattr("airpack.fsops.files._AHEAD", 10)
        monkeypatch.setattr(os, "posix_fadvise", lambda _, start, length, __: begun.append((start, length)))
        with NewFile(tmp_path / "x") as new:
            new.seek(100)
            for size in (9, 4, 2, 30, 9):
                new.write(bytes(size))
            new.write_at(b"head", 0)
            new.commit()

        assert begun == [(100, 13), (113, 32)]

    def test_a_file_system_that_takes_no_advice_is_written_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr("airpack.fsops.files._AHEAD", 10)
        monkeypatch.setattr(os, "posix_fadvise", refuse)
        with NewFile(tmp_path / "x") as new:
            new.write(b"twenty bytes of data")
            new.commit()

        assert (tmp_path / "x").read_bytes() == b"twenty bytes of data"

    def test_reserving_shows_a_full_disk_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        failing(monkeypatch, "posix_fallocate", errno.ENOSPC)
        with NewFile(tmp_path / "file") as new, pytest.raises(StorageError, match="reserve space") as caught:
            new.reserve(10)
        assert "free some space" in caught.value.hint
        assert names(tmp_path) == []

    @pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
    def test_where_nothing_can_be_reserved_it_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        failing(monkeypatch, "posix_fallocate", code)
        with NewFile(tmp_path / "file") as new:
            new.reserve(10)
            new.write(b"x")
            new.commit()
        assert (tmp_path / "file").read_bytes() == b"x"

    def test_a_temporary_file_that_cannot_be_removed_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        new = NewFile(tmp_path / "file")
        failing(monkeypatch, "unlink", errno.EROFS)
        with pytest.raises(StorageError, match="cannot discard"):
            new.discard()


class TestAppendDurable:
    def test_appends_at_the_place_given_and_drops_what_lies_beyond(self, file: Path) -> None:
        fsops.append_durable(file, b"LD", at=1)
        assert file.read_bytes() == b"oLD"
        fsops.append_durable(file, b"", at=2)
        assert file.read_bytes() == b"oL"

    def test_is_synced_and_so_is_the_folder_of_a_new_file(self, tmp_path: Path, calls: list[tuple[str, str]]) -> None:
        fsops.append_durable(tmp_path / "log", b"x", at=0, mode=0o600)
        assert [call for call in calls if call[0] in {"pwrite", "fsync"}] == [
            ("pwrite", "log"),
            ("fsync", "log"),
            ("fsync", tmp_path.name),
        ]
        assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600

    def test_short_writes_are_continued(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:2]), at))
        fsops.append_durable(file, b"0123456", at=3)
        assert file.read_bytes() == b"old0123456"

    @pytest.mark.parametrize("step", ["ftruncate", "pwrite", "fsync"])
    def test_a_failure_is_no_success(self, file: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        failing(monkeypatch, step, errno.EIO)
        with pytest.raises(StorageError, match="cannot append to"):
            fsops.append_durable(file, b"x", at=3)

    def test_a_link_is_not_followed(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(file)
        with pytest.raises(StorageError):
            fsops.append_durable(tmp_path / "link", b"x", at=0)
        assert file.read_bytes() == b"old"


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Everything that is no regular file."""
    paths = {name: tmp_path / name for name in ("link", "loose", "fifo", "socket", "folder")}
    (tmp_path / "target").write_bytes(b"secret")
    paths["link"].symlink_to(tmp_path / "target")
    paths["loose"].symlink_to(tmp_path / "nothing")
    os.mkfifo(paths["fifo"])
    paths["folder"].mkdir()
    paths["device"] = Path("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        yield paths


class TestRead:
    def test_returns_all_bytes_up_to_the_limit(self, file: Path) -> None:
        assert fsops.read_regular(file, 3) == b"old"
        assert fsops.read_regular(file, 100) == b"old"

    def test_longer_than_the_limit_is_refused(self, file: Path) -> None:
        with pytest.raises(IntegrityError, match="longer than the 2 bytes"):
            fsops.read_regular(file, 2)

    def test_the_start_is_read_whatever_the_length(self, file: Path) -> None:
        assert fsops.read_start(file, 2) == b"ol"
        assert fsops.read_start(file, 9) == b"old"

    @pytest.mark.parametrize("kind", ["link", "loose", "fifo", "socket", "folder", "device"])
    def test_what_is_no_regular_file_is_refused_at_once(self, odd: dict[str, Path], kind: str) -> None:
        with pytest.raises(IntegrityError, match="not a regular file"):
            fsops.read_regular(odd[kind], 10)
        with pytest.raises(IntegrityError, match="not a regular file"):
            fsops.read_start(odd[kind], 10)

    def test_a_refused_file_holds_no_descriptor(self, odd: dict[str, Path]) -> None:
        before = descriptors()
        for path in odd.values():
            with pytest.raises(IntegrityError):
                fsops.open_regular(path)
        assert descriptors() == before

    def test_what_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError) as caught:
            fsops.read_regular(tmp_path / "no", 1)
        assert caught.value.context == {"path": str(tmp_path / "no")}

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
    def test_what_cannot_be_opened_was_not_checked(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        failing(monkeypatch, "open", code)
        with pytest.raises(StorageError, match=os.strerror(code)):
            fsops.read_regular(file, 10)

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
    def test_a_private_file_of_its_owner_alone_is_read(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        assert fsops.read_private(file, 3) == b"old"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
    def test_a_private_file_that_others_reach_is_refused(self, file: Path, mode: int) -> None:
        file.chmod(mode)
        with pytest.raises(TrustError, match=f"has mode 0{mode:o}") as caught:
            fsops.read_private(file, 3)
        assert caught.value.hint == f"chmod 600 {file}"

    def test_a_private_file_is_bounded_and_regular_as_any_other(self, file: Path, odd: dict[str, Path]) -> None:
        file.chmod(0o600)
        with pytest.raises(IntegrityError, match="longer"):
            fsops.read_private(file, 2)
        with pytest.raises(IntegrityError, match="not a regular file"):
            fsops.read_private(odd["link"], 10)


class TestMakeDir:
    def test_syncs_the_folder_above_each_new_one(self, tmp_path: Path, calls: list[tuple[str, str]]) -> None:
        fsops.make_dir(tmp_path / "a/b")
        assert [call for call in calls if call[0] == "fsync"] == [("fsync", tmp_path.name), ("fsync", "a")]

    def test_gives_the_mode_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            fsops.make_dir(tmp_path / "a/b", 0o750)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o750

    def test_an_existing_one_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir(mode=0o700)
        fsops.make_dir(tmp_path / "a", 0o755)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700

    def test_one_that_another_process_makes_meanwhile_will_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Path.mkdir

        def beaten(self: Path, mode: int = 0o777) -> None:
            real(self, mode)
            real(self, mode)

        monkeypatch.setattr(Path, "mkdir", beaten)
        fsops.make_dir(tmp_path / "a")
        assert (tmp_path / "a").is_dir()

    def test_a_file_in_its_place_is_a_failure(self, file: Path) -> None:
        with pytest.raises(StorageError, match="cannot create folder"):
            fsops.make_dir(file)
        with pytest.raises(StorageError, match="cannot create folder"):
            fsops.make_dir(file / "below")

    def test_a_sealed_folder_has_its_mode_and_is_synced(self, tmp_path: Path, calls: list[tuple[str, str]]) -> None:
        (tmp_path / "a").mkdir()
        fsops.seal_dir(tmp_path / "a", 0o555)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o555
        assert ("fsync", "a") in calls


class TestMoveAndLink:
    def test_both_folders_of_a_rename_are_synced(self, file: Path, calls: list[tuple[str, str]]) -> None:
        other = file.parent / "other"
        other.mkdir()
        fsops.rename_durable(file, other / "new")
        assert [call for call in calls if call[0] in {"rename", "fsync"}] == [
            ("rename", "file"),
            ("fsync", "other"),
            ("fsync", file.parent.name),
        ]

    def test_publishing_gives_name_and_mode(self, file: Path) -> None:
        fsops.publish(file, file.with_name("new"), mode=0o444)
        assert names(file.parent) == ["new"]
        assert stat.S_IMODE(file.with_name("new").stat().st_mode) == 0o444

    def test_a_link_shares_the_bytes_and_never_replaces(self, file: Path) -> None:
        fsops.link_file(file, file.with_name("b"))
        assert file.samefile(file.with_name("b"))
        with pytest.raises(StorageError, match="File exists"):
            fsops.link_file(file, file.with_name("b"))

    def test_a_copy_is_synced_with_its_mode_and_never_replaces(self, file: Path, calls: list[tuple[str, str]]) -> None:
        fsops.copy_in(file, file.with_name("b"), mode=0o555)
        assert ("fsync", "b") in calls
        assert file.with_name("b").read_bytes() == b"old"
        assert stat.S_IMODE(file.with_name("b").stat().st_mode) == 0o555
        with pytest.raises(StorageError, match="File exists"):
            fsops.copy_in(file, file.with_name("b"), mode=0o555)

    def test_syncing_a_file_never_follows_a_link(self, file: Path) -> None:
        fsops.sync_file(file)
        file.with_name("link").symlink_to(file)
        with pytest.raises(StorageError, match="cannot sync"):
            fsops.sync_file(file.with_name("link"))


class TestSwapLink:
    def test_the_link_says_the_old_or_the_new_at_every_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = tmp_path / "current"
        fsops.swap_link(link, "1")
        seen = []
        for name in ("symlink", "rename", "fsync", "unlink"):
            real = getattr(os, name)

            def looking(*arguments: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
                seen.append(link.readlink().name)
                result = real(*arguments, **options)
                seen.append(link.readlink().name)
                return result

            monkeypatch.setattr(os, name, looking)
        fsops.swap_link(link, "2")
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == ("1", "2")
        assert names(tmp_path) == ["current"]

    def test_is_durable(self, tmp_path: Path, calls: list[tuple[str, str]]) -> None:
        fsops.swap_link(tmp_path / "current", "1")
        assert [name for name, _ in calls if name in {"symlink", "rename", "fsync"}] == ["symlink", "rename", "fsync"]

    def test_a_failure_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fsops.swap_link(tmp_path / "current", "1")
        failing(monkeypatch, "rename", errno.EIO)
        with pytest.raises(StorageError, match="cannot switch"):
            fsops.swap_link(tmp_path / "current", "2")
        assert (tmp_path / "current").readlink() == Path("1")

    def test_what_a_killed_process_left_does_not_hinder(self, tmp_path: Path) -> None:
        (tmp_path / f".current.{os.getpid()}.part").symlink_to("elsewhere")
        fsops.swap_link(tmp_path / "current", "2")
        assert (tmp_path / "current").readlink() == Path("2")


class TestRemove:
    def test_a_removed_file_is_durably_gone(self, file: Path, calls: list[tuple[str, str]]) -> None:
        fsops.remove_file(file)
        assert not file.exists()
        assert [name for name, _ in calls if name == "fsync"] == ["fsync"]

    @pytest.mark.parametrize("path", ["no", "no/such/folder"])
    def test_a_file_that_is_not_there_is_no_failure(self, tmp_path: Path, path: str) -> None:
        fsops.remove_file(tmp_path / path)
        assert names(tmp_path) == []

    def test_a_removed_link_leaves_its_target(self, file: Path) -> None:
        file.with_name("link").symlink_to(file)
        fsops.remove_file(file.with_name("link"))
        assert names(file.parent) == ["file"]

    def test_links_in_a_tree_are_removed_never_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir(mode=0o755)
        (outside / "kept").write_bytes(b"kept")
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / "deep/folder").symlink_to(outside)
        (tree / "file").symlink_to(outside / "kept")
        fsops.remove_tree(tree)
        assert names(tmp_path) == ["outside"]
        assert names(outside) == ["kept"]
        assert stat.S_IMODE(outside.stat().st_mode) == 0o755

    def test_a_link_to_a_tree_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "link").symlink_to("tree")
        fsops.remove_tree(tmp_path / "link")
        assert names(tmp_path) == ["link", "tree"]

    def test_a_tree_that_is_not_there_is_no_failure(self, tmp_path: Path) -> None:
        fsops.remove_tree(tmp_path / "no/tree")
        assert names(tmp_path) == []

    def test_read_only_trees_are_removed(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / "deep/file").write_bytes(b"x")
        (tree / "deep/file").chmod(0o444)
        (tree / "deep").chmod(0o555)
        tree.chmod(0o555)
        fsops.remove_tree(tree)
        assert names(tmp_path) == []

    def test_a_tree_that_cannot_be_removed_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()

        def broken(_step: str, _path: Path, _size: int) -> int:
            raise OSError(errno.EIO, "I/O error")

        with striking(broken), pytest.raises(StorageError, match="cannot remove"):
            fsops.remove_tree(tmp_path / "tree")

    def test_links_in_a_tree_are_removed_and_what_they_lead_to_stays(self, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept/file").write_bytes(b"x")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/folder").symlink_to(tmp_path / "kept")
        (tmp_path / "tree/file").symlink_to(tmp_path / "kept/file")
        fsops.remove_tree(tmp_path / "tree")
        assert names(tmp_path) == ["kept"]
        assert (tmp_path / "kept/file").read_bytes() == b"x"


class TestClearTemporary:
    def test_what_a_killed_write_left_is_removed(self, tmp_path: Path) -> None:
        program = (
            "import os, sys, signal, pathlib; from airpack.fsops import NewFile\n"
            "new = NewFile(pathlib.Path(sys.argv[1])); new.write(b'x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], check=False)
        (left,) = tmp_path.iterdir()
        assert fsops.is_temporary(left)
        fsops.clear_temporary(tmp_path)
        assert names(tmp_path) == []

    def test_a_link_that_was_not_switched_is_removed_and_its_target_stays(self, file: Path) -> None:
        file.with_name(".current.17.part").symlink_to(file)
        fsops.clear_temporary(file.parent)
        assert names(file.parent) == ["file"]

    @pytest.mark.parametrize("name", ["file", ".part", "a.1.part", ".a.part", ".a.x.part", ".a.1.part.bak", "..1.part"])
    def test_other_names_stay(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"")
        fsops.clear_temporary(tmp_path)
        assert names(tmp_path) == [name]

    def test_folders_stay(self, tmp_path: Path) -> None:
        (tmp_path / ".a.1.part").mkdir()
        fsops.clear_temporary(tmp_path)
        assert names(tmp_path) == [".a.1.part"]

    def test_a_folder_that_is_not_there_is_no_failure(self, tmp_path: Path) -> None:
        fsops.clear_temporary(tmp_path / "no")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(st.text("abc. 1", min_size=1, max_size=8).filter(lambda name: name.strip(".")))
    def test_every_unfinished_file_is_known_by_its_name(self, tmp_path: Path, name: str) -> None:
        with NewFile(tmp_path / name):
            (left,) = tmp_path.iterdir()
            assert fsops.is_temporary(left)


def test_free_space_is_that_of_the_file_system(tmp_path: Path) -> None:
    assert 0 < fsops.free_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total
    with pytest.raises(StorageError, match="cannot look at free space"):
        fsops.free_bytes(tmp_path / "no")


@pytest.mark.parametrize("code", [errno.EIO, errno.EAGAIN, errno.ENOTCONN])
def test_a_medium_that_cannot_be_read_or_looked_at_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").write_bytes(b"x")
    for name in ("read", "fstat"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(StorageError):
                fsops.read_regular(tmp_path / "file", 10)
    assert fsops.read_regular(tmp_path / "file", 10) == b"x"


def test_a_medium_that_complains_when_it_is_put_down_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def complain(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.ENOTCONN, "gone")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "close", complain)
    assert fsops.read_regular(tmp_path / "file", 10) == b"x"
