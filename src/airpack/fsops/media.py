"""What a mounted medium takes, and reading back from it what was written.

The kernel says which file system a folder is on (`/proc/self/mountinfo`). Of those that people carry, FAT has a longest
file; the others have none that matters here. What the kernel does not say is left unlimited: a file that is too long
then fails while it is written.

Reading back goes past the page cache with O_DIRECT where the file system has that; elsewhere the file's pages are
dropped first, as far as the kernel lets them go. Neither reaches past the device's own memory: only taking the medium
out and putting it in again does.
"""

import errno
import fcntl
import mmap
import os
import re
import stat
from collections.abc import Container, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from airpack.errors import BusyError, NotFoundError, StorageError
from airpack.formats.sizes import FAT_FILE
from airpack.fsops.failpoints import reach
from airpack.fsops.files import close_read, open_regular

_MOUNTS = Path("/proc/self/mountinfo")
_LONGEST_FILE: Final = {"vfat": FAT_FILE, "msdos": FAT_FILE, "umsdos": FAT_FILE}
_TORN = re.compile(r"\.(.+)\.[0-9]+\.part", re.DOTALL)  # as `NewFile` calls them
_BLOCK: Final = 1 << 20  # bytes read at once; a multiple of every sector
_UNALIGNED: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Room:
    """What the file system of a folder is, and what it takes.

    Attributes:
        device: Its number: folders with the same one share their space.
        file_system: As the kernel calls it (`vfat`, `exfat`, `ext4`); empty where it does not say.
        free: Bytes that this user can still write.
        total: All its bytes.
        block: Bytes by which files grow.
        longest: The longest file it takes, in bytes; None where no limit is known.
        read_only: Whether it is mounted for reading only.
    """

    device: int
    file_system: str
    free: int
    total: int
    block: int
    longest: int | None
    read_only: bool

    def occupied(self, size: int) -> int:
        """Return what a file of `size` bytes takes away from `free`, in bytes."""
        return -(-size // self.block) * self.block


def look_at_room(folder: Path) -> Room:
    """Return what `folder` has room for.

    Raises:
        NotFoundError: It is no folder.
        StorageError: It cannot be looked at.
    """
    try:
        status, figures = os.stat(folder), os.statvfs(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no folder {folder}", path=str(folder)) from error
    except OSError as error:
        raise StorageError(f"cannot look at {folder}: {error.strerror}", path=str(folder)) from error
    if not stat.S_ISDIR(status.st_mode):
        raise NotFoundError(f"{folder} is no folder", path=str(folder))
    kind = _file_system(status.st_dev)
    return Room(
        device=status.st_dev,
        file_system=kind,
        free=figures.f_bavail * figures.f_frsize,
        total=figures.f_blocks * figures.f_frsize,
        block=max(figures.f_bsize, figures.f_frsize, 1),
        longest=_LONGEST_FILE.get(kind),
        read_only=bool(figures.f_flag & os.ST_RDONLY),
    )


def _file_system(device: int) -> str:
    """Return the type of the file system with number `device` (proc(5), mountinfo); empty where it is not found."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError, UnicodeDecodeError):
        for line in _MOUNTS.read_text("utf-8", errors="replace").splitlines():
            mount, _, source = line.partition(" - ")
            fields = mount.split()
            if len(fields) > 2 and fields[2] == number and source:  # noqa: PLR2004, mount id, parent id, device
                return source.split()[0]
    return ""


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Keep other airpacks from writing to `folder` while the context lasts; nothing is left in it.

    File systems without locks are written all the same.

    Raises:
        NotFoundError: It is no folder.
        BusyError: Another process writes to it.
        StorageError: It cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no folder {folder}", path=str(folder)) from error
    except OSError as error:
        raise StorageError(f"cannot open {folder}: {error.strerror}", path=str(folder)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another airpack writes to {folder}",
                hint="wait until it has finished and run the same command again",
                path=str(folder),
            ) from error
        except OSError:
            pass
        yield
    finally:
        close_read(descriptor)


def clear_torn(folder: Path, names: Container[str]) -> None:
    """Remove what killed writers left in `folder` of files called `names`: parts that never got their final name.

    The caller holds `writing_to(folder)`, so that none of them is still being written.

    Raises:
        StorageError: The folder cannot be read, or a part not removed.
    """
    try:
        for path in folder.iterdir():
            match = _TORN.fullmatch(path.name)
            if match and match[1] in names and stat.S_ISREG(path.lstat().st_mode):
                reach("unlink", path)
                path.unlink()
    except OSError as error:
        raise StorageError(f"cannot clear {folder}: {error.strerror}", path=str(folder)) from error


class ReadBack:
    """Reads a regular file, block by block, from its device rather than from memory.

    Attributes:
        direct: Whether everything so far came past the page cache; known once `blocks` has ended.

    Args:
        path: The file; whoever wrote it has synced it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.direct = True

    def blocks(self) -> Generator[memoryview, None, None]:
        """Yield the file's bytes; each block is only valid until the next one is asked for.

        Raises:
            NotFoundError: It is not there.
            IntegrityError: It is no regular file.
            StorageError: It cannot be read.
        """
        plain = open_regular(self.path)
        try:
            _drop(plain)
            offset, buffer = 0, memoryview(mmap.mmap(-1, _BLOCK))  # as O_DIRECT wants it: it begins at a page
            for block in self._direct(buffer):
                offset += len(block)
                yield block
            while count := _read(plain, buffer, offset, self.path):
                self.direct = False
                offset += count
                yield buffer[:count]
        finally:
            close_read(plain)

    def _direct(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield what O_DIRECT reads, until the end or until it cannot."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno in _UNALIGNED:
                return
            raise _unreadable(self.path, error) from error
        offset = 0
        try:
            while offset % _BLOCK == 0:  # a short read ends it: what may follow does not begin at a sector
                try:
                    count = os.preadv(descriptor, [buffer], offset)
                except OSError as error:
                    if error.errno in _UNALIGNED:
                        return
                    raise _unreadable(self.path, error) from error
                if count == 0:
                    return
                offset += count
                yield buffer[:count]
        finally:
            close_read(descriptor)


def read_blocks(path: Path) -> Generator[memoryview, None, None]:
    """Yield the bytes of a regular file; each block is only valid until the next one is asked for.

    Raises:
        NotFoundError: It is not there.
        IntegrityError: It is no regular file.
        StorageError: It cannot be read.
    """
    descriptor, offset, buffer = open_regular(path), 0, memoryview(bytearray(_BLOCK))
    try:
        while count := _read(descriptor, buffer, offset, path):
            offset += count
            yield buffer[:count]
    finally:
        close_read(descriptor)


def _read(descriptor: int, buffer: memoryview, offset: int, path: Path) -> int:
    try:
        return os.preadv(descriptor, [buffer], offset)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot read {path}: {error.strerror}", path=str(path))


def _drop(descriptor: int) -> None:
    """Let the page cache of a file go, as far as the kernel does so: what is dirty stays, so it is synced before."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
