"""Files that are written over several runs: parts, which get their name once they are whole, and logs that grow.

Nothing here is durable before its `sync` returned; whoever keeps account of what is, writes that account afterwards.
"""

import os
from pathlib import Path

from airpack.fsops.failpoints import reach
from airpack.fsops.files import _rename, _sync, _translated, _write_at, reserve_space

PART = ".part"


class PartFile:
    """A file that is written at offsets under `NAME.part`, and keeps what is there of an earlier run.

    Args:
        path: The final name. Its folder must exist.
        size: Its length in bytes: as much is reserved where the file is new, so that a full disk shows at once.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART)
        self._size = size
        with _translated("open", self.part):
            reach("create", self.part)
            self._descriptor = _open_part(self.part)
        try:
            with _translated("look at", self.part):
                is_new = os.fstat(self._descriptor).st_size < size
            if is_new:
                reserve_space(self._descriptor, size, self.part)
        except BaseException:
            self.close()
            raise

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write `data` at `offset` bytes from the start."""
        with _translated("write", self.part):
            _write_at(self._descriptor, data, offset, self.part)

    def start_writing(self, offset: int, length: int) -> None:
        """Let the system begin to bring a range to the disk; nothing is waited for."""
        with _translated("write", self.part):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make all that was written durable."""
        with _translated("write", self.part):
            _sync(self._descriptor, self.part)

    def seal(self, mode: int) -> None:
        """Give a whole file its final length and mode, and make all of it durable."""
        with _translated("write", self.part):
            if os.fstat(self._descriptor).st_size != self._size:
                os.ftruncate(self._descriptor, self._size)
            os.fchmod(self._descriptor, mode)
            _sync(self._descriptor, self.part)

    def publish(self) -> None:
        """Give a sealed file its name; the caller syncs the folder."""
        self.close()
        with _translated("rename to", self.path):
            _rename(self.part, self.path)

    def close(self) -> None:
        """Close it; what was written stays."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with _translated("close", self.part):
                os.close(descriptor)


def _open_part(path: Path) -> int:
    """Open a part for writing; one that was sealed and not published is only looked at, and may be read-only."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_WRONLY | os.O_CREAT, 0o600)
    except PermissionError:
        return os.open(path, flags | os.O_RDONLY)


class GrowingFile:
    """A file that records are appended to, one after the other.

    Args:
        path: Its name; made when missing, with mode 0600.
        at: Its length in bytes from now on: what lies beyond is dropped.
    """

    def __init__(self, path: Path, *, at: int) -> None:
        self._path = path
        with _translated("open", path):
            reach("truncate", path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
            os.ftruncate(self._descriptor, at)
        self._at = at

    def append(self, data: bytes) -> None:
        """Append `data`."""
        with _translated("write", self._path):
            _write_at(self._descriptor, data, self._at, self._path)
        self._at += len(data)

    def sync(self) -> None:
        """Make all that was appended durable."""
        with _translated("write", self._path):
            _sync(self._descriptor, self._path)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with _translated("close", self._path):
                os.close(descriptor)
