"""Durable writes, bounded reads of regular files, links and folders. Errors of the system become `StorageError`."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from airpack.errors import IntegrityError, NotFoundError, StorageError, TrustError
from airpack.fsops.failpoints import reach

_PIECE = 1 << 20  # bytes asked for at once
_AHEAD = 32 << 20  # bytes written that the disk is asked to begin with
_FULL = {errno.ENOSPC, errno.EDQUOT}
_SPARE_SHARE = 0.03  # of what is written
_SPARE = 16 << 20  # bytes, however little is written
_NO_MODES = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.part\Z", re.DOTALL)


@contextmanager
def _translated(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space and run the same command again" if error.errno in _FULL else ""
        reason = error.strerror or str(error)
        raise StorageError(f"cannot {what} {path}: {reason}", hint=hint, path=str(path)) from error


@contextmanager
def _tolerated(codes: frozenset[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise


def sync_dir(folder: Path, *, foreign: bool = False) -> None:
    """Make the names in `folder` durable; where `foreign`, a file system that cannot sync folders is let be."""
    with _translated("sync folder", folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with _tolerated(_NO_FOLDER_SYNC if foreign else frozenset()):
                _sync(descriptor, folder)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that somebody else wrote durable."""
    with _translated("sync", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _sync(descriptor, path)
        finally:
            os.close(descriptor)


def seal_dir(folder: Path, mode: int) -> None:
    """Give `folder` its final mode and make the names in it durable."""
    with _translated("seal folder", folder):
        reach("chmod", folder)
        folder.chmod(mode)
    sync_dir(folder)


def make_dir(folder: Path, mode: int = 0o755) -> None:
    """Create `folder` and its missing parents durably; nothing happens when it exists."""
    with _translated("create folder", folder):
        if folder.is_dir():
            return
        if folder.parent != folder:
            make_dir(folder.parent)
        reach("mkdir", folder)
        try:
            folder.mkdir(mode=mode)
        except FileExistsError:
            if not folder.is_dir():
                raise
        folder.chmod(mode)
    sync_dir(folder.parent)


def make_dirs(parent: Path, names: Iterable[str]) -> None:
    """Create the folders `names` in the folder `parent`, durable together; those that exist stay."""
    with _translated("create folders in", parent):
        for name in names:
            reach("mkdir", parent / name)
            (parent / name).mkdir(exist_ok=True)
            (parent / name).chmod(0o755)
    sync_dir(parent)


class NewFile:
    """A file that appears under its name only once all of it is durable.

    Used as a context manager: leaving it without `commit` (or by an exception) removes the temporary file.

    Args:
        path: The final name. Its folder must exist; the temporary name lies beside it.
        mode: Permission bits of the final file.
        replace: Whether an existing file may be replaced.
        foreign: The file system may be one without permissions, or without synced folders (a stick, a share): it then
            keeps the bits that it gives, and the folder's sync is left out.
    """

    def __init__(self, path: Path, *, mode: int = 0o644, replace: bool = True, foreign: bool = False) -> None:
        self.path = path
        self._temporary = _temporary(path)
        self._mode, self._foreign = mode, foreign
        self._replace = replace
        self._committed = False
        self._waiting = 0  # bytes written since the disk was asked to begin
        with _translated("create", path):
            reach("create", path)
            self._descriptor = os.open(
                self._temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`."""
        with _translated("write", self.path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view[: reach("write", self.path, len(view))]) :]
        self._begin_writing(len(data))

    def _begin_writing(self, size: int) -> None:
        """Have the disk begin with what was written, so that the sync at the end waits only for the rest.

        Linux takes this advice so, and keeps the pages that are not on disk yet; whoever ignores it syncs later.
        """
        self._waiting += size
        if self._waiting >= _AHEAD:
            with suppress(OSError):
                end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
                os.posix_fadvise(self._descriptor, end - self._waiting, self._waiting, os.POSIX_FADV_DONTNEED)
            self._waiting = 0

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write `data` at `offset` bytes from the start."""
        with _translated("write", self.path):
            _write_at(self._descriptor, data, offset, self.path)

    def seek(self, offset: int) -> None:
        """Continue `write` at `offset` bytes from the start."""
        with _translated("seek in", self.path):
            os.lseek(self._descriptor, offset, os.SEEK_SET)

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes on disk, so that a full disk shows now and not half-way."""
        reserve_space(self._descriptor, size, self.path)

    def push(self) -> None:
        """Make what was written so far durable and let its memory go, so that progress is the disk's own."""
        with _translated("write", self.path):
            _sync(self._descriptor, self.path)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def park(self) -> None:
        """Sync and close the temporary file until `resume`, so that thousands can wait for their commit at once."""
        with _translated("write", self.path):
            _sync(self._descriptor, self.path)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def resume(self) -> None:
        """Open a parked file again; `write` continues at its start."""
        with _translated("open again", self.path):
            self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_read(self) -> int:
        """Open what was written so far for reading, parked or not; the caller closes it with `close_read`."""
        with _translated("open again", self.path):
            return os.open(self._temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def commit(self, *, sync_folder: bool = True) -> None:
        """fsync, close, rename to the final name, fsync the folder.

        Args:
            sync_folder: False where the caller syncs the folder once, after many files.

        Raises:
            StorageError: Any step failed, or the name exists and `replace` is false.
        """
        with _translated("write", self.path):
            with _tolerated(_NO_MODES if self._foreign else frozenset()):
                os.fchmod(self._descriptor, self._mode)
            _sync(self._descriptor, self.path)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            if self._replace:
                _rename(self._temporary, self.path)
            else:
                reach("link", self.path)
                os.link(self._temporary, self.path)
                _unlink(self._temporary)
        self._committed = True
        if sync_folder:
            sync_dir(self.path.parent, foreign=self._foreign)

    def discard(self) -> None:
        """Close and remove what was not committed; nothing happens after `commit`."""
        with _translated("discard", self._temporary):
            try:
                if self._descriptor >= 0:
                    descriptor, self._descriptor = self._descriptor, -1
                    os.close(descriptor)
            finally:
                if not self._committed:
                    reach("unlink", self._temporary)
                    self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def reserve_space(descriptor: int, size: int, path: Path) -> None:
    """Reserve `size` bytes for an open file; file systems that cannot are left to fail at the write."""
    if size == 0:
        return
    try:
        reach("reserve", path)
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            with _translated("reserve space for", path):
                raise


def write_durable(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True, foreign: bool = False) -> None:
    """Write `data` to `path` so that after return a power cut leaves either all of it or, before, the old file.

    Arguments are those of `NewFile`.

    Raises:
        StorageError: Disk full, I/O error, or the name exists and `replace` is false.
    """
    with NewFile(path, mode=mode, replace=replace, foreign=foreign) as new:
        new.write(data)
        new.commit()


def append_durable(path: Path, data: bytes, *, at: int, mode: int = 0o644) -> None:
    """Append `data` to `path` durably, at `at` bytes, dropping whatever an earlier crash left beyond.

    Raises:
        StorageError: Disk full or I/O error.
    """
    fresh = not path.exists()
    with _translated("append to", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            reach("truncate", path)
            os.ftruncate(descriptor, at)
            _write_at(descriptor, data, at, path)
            _sync(descriptor, path)
        finally:
            os.close(descriptor)
    if fresh:
        sync_dir(path.parent)


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; links, devices and pipes are refused.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is a link, a folder, a device or a pipe.
        StorageError: It cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}", path=str(path)) from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise IntegrityError(
                f"{path} is not a regular file; links, devices and pipes are never followed", path=str(path)
            ) from error
        raise StorageError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        with _translated("look at", path):
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except StorageError:
        close_read(descriptor)
        raise
    if not is_regular:
        close_read(descriptor)
        raise IntegrityError(
            f"{path} is not a regular file; links, devices and pipes are never followed", path=str(path)
        )
    return descriptor


def close_read(descriptor: int) -> None:
    """Close what was only read: a medium that was taken away may complain now, and nothing is lost by it."""
    with suppress(OSError):
        os.close(descriptor)


def read_regular(path: Path, limit: int) -> bytes:
    """Return all bytes of the regular file `path`, at most `limit`.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: Not a regular file, or longer than `limit` bytes.
        StorageError: It cannot be read.
    """
    return _read(path, open_regular(path), limit)


def read_private(path: Path, limit: int) -> bytes:
    """Return all bytes of a file that only its owner may reach: a private key.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: Not a regular file, or longer than `limit` bytes.
        TrustError: Its mode lets others reach it.
        StorageError: It cannot be read.
    """
    descriptor = open_regular(path)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & 0o077:
        os.close(descriptor)
        raise TrustError(
            f"private key {path} has mode {mode:04o}; others than its owner must not reach it",
            hint=f"chmod 600 {path}",
            path=str(path),
        )
    return _read(path, descriptor, limit)


def _read(path: Path, descriptor: int, limit: int) -> bytes:
    data = _read_most(path, descriptor, limit + 1)
    if len(data) > limit:
        raise IntegrityError(f"{path} is longer than the {limit} bytes that are read", path=str(path))
    return data


def _read_most(path: Path, descriptor: int, count: int) -> bytes:
    """Return the next `count` bytes, fewer at the end of the file, and close the descriptor.

    Not through Python's streams: those take "try again", which a regular file has no reason to say, for its end.
    """
    data = bytearray()
    try:
        with _translated("read", path):
            while len(data) < count and (piece := os.read(descriptor, min(count - len(data), _PIECE))):
                data += piece
    finally:
        close_read(descriptor)
    return bytes(data)


def read_start(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of the regular file `path`, fewer when it is shorter.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: Not a regular file.
        StorageError: It cannot be read.
    """
    return _read_most(path, open_regular(path), count)


def rename_durable(source: Path, target: Path) -> None:
    """Rename `source` to `target` (same file system) and make both folders durable."""
    with _translated("rename to", target):
        _rename(source, target)
    sync_dir(target.parent)
    if source.parent != target.parent:
        sync_dir(source.parent)


def publish(source: Path, target: Path, *, mode: int) -> None:
    """Give a file that is already synced its final name and mode; the caller syncs the folder afterwards."""
    with _translated("publish", target):
        source.chmod(mode)
        _rename(source, target)


def link_file(source: Path, target: Path) -> None:
    """Hard-link `source` as `target`; the caller syncs the folder once all links stand."""
    with _translated("link", target):
        reach("link", target)
        os.link(source, target)


def copy_in(source: Path, target: Path, *, mode: int) -> None:
    """Copy `source` to the new file `target` with `mode`, synced; the caller syncs the folder."""
    with _translated("copy to", target), source.open("rb") as reader, target.open("xb") as writer:
        reach("write", target)
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fchmod(writer.fileno(), mode)
        _sync(writer.fileno(), target)


def swap_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` to `target` in one atomic step, durably."""
    temporary = _temporary(link)
    with _translated("switch", link):
        reach("symlink", temporary)
        os.symlink(target, temporary)
        _rename(temporary, link)
    sync_dir(link.parent)


def remove_file(path: Path) -> None:
    """Remove `path` durably; nothing happens when it is not there."""
    with _translated("remove", path):
        try:
            _unlink(path)
        except FileNotFoundError:
            return
    sync_dir(path.parent)


def clear_temporary(folder: Path) -> None:
    """Remove what killed processes left in `folder`: files and links that never got their final name.

    The caller holds the lock under which `folder` is written, so that none of them is still being written.
    """
    with _translated("clear", folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_temporary(path) and not stat.S_ISDIR(path.lstat().st_mode):
                _unlink(path)


def is_temporary(path: Path) -> bool:
    """Return whether `path` has the name of a file that has not got its final one yet."""
    return _TEMPORARY.match(path.name) is not None


def _temporary(path: Path) -> Path:
    """Return a name beside `path` that nobody can guess, for a file that is then made and never opened."""
    return path.with_name(f".{path.name}.{secrets.randbits(64)}.part")


def remove_tree(folder: Path) -> None:
    """Remove `folder` with everything in it, read-only parts too; links are removed, never followed."""
    if not folder.is_dir() or folder.is_symlink():
        return
    with _translated("remove", folder):
        for parent, _, _ in os.walk(folder):
            os.chmod(parent, 0o700)
        for parent, folders, files, descriptor in os.fwalk(folder, topdown=False):
            for name in files:
                reach("unlink", Path(parent, name))
                os.unlink(name, dir_fd=descriptor)
            for name in folders:
                reach("rmdir", Path(parent, name))
                _remove_entry(name, descriptor)
        reach("rmdir", folder)
        os.rmdir(folder)
    sync_dir(folder.parent)


def _remove_entry(name: str, folder: int) -> None:
    """Remove what a walk lists among folders: an empty folder, or a link to one."""
    try:
        os.rmdir(name, dir_fd=folder)
    except NotADirectoryError:
        os.unlink(name, dir_fd=folder)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user can still write on the file system of `folder`."""
    with _translated("look at free space of", folder):
        return shutil.disk_usage(folder).free


def spare_bytes(size: int) -> int:
    """Return the bytes that a file system is left for its own needs where `size` bytes are written."""
    return int(_SPARE_SHARE * size) + _SPARE


def _sync(descriptor: int, path: Path) -> None:
    reach("sync", path)
    os.fsync(descriptor)


def _rename(source: Path, target: Path) -> None:
    reach("rename", target)
    os.rename(source, target)


def _unlink(path: Path) -> None:
    reach("unlink", path)
    os.unlink(path)


def _write_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int, path: Path) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view[: reach("write", path, len(view))], offset)
        view, offset = view[done:], offset + done
