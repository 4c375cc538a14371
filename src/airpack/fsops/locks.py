"""Advisory locks that the kernel releases when their holder dies."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from airpack.errors import BusyError, StorageError


class Lock:
    """An `flock` on a file, held while the context lasts.

    Args:
        path: The lock file; created when missing.
        shared: A shared lock rather than an exclusive one.

    Raises:
        BusyError: Somebody else holds it.
        StorageError: It cannot be opened, or the file system knows no locks.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open lock {self._path}: {error.strerror}", path=str(self._path)) from error
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BusyError(
                f"another airpack process holds {self._path}",
                hint="wait until it has finished and run the same command again",
                path=str(self._path),
            ) from error
        except OSError as error:
            os.close(self._descriptor)
            raise StorageError(f"cannot lock {self._path}: {error.strerror}", path=str(self._path)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
