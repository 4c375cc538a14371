"""Bytes of base files, at any offset: what the frames of a delta build on, where it is made and where it is read.

    with Bases(paths) as bases:
        bases.read(1, 4096, 1 << 20)     # a MiB of the first base file

What the files hold is for the caller to have hashed before; here it is only seen to that they are not written to
meanwhile: their length and their times must stay as they were when they were opened first.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from airpack.errors import IntegrityError, StorageError
from airpack.fsops import close_read, open_regular

_OPEN: Final = 32  # files open at once


@dataclass(slots=True)
class _Opened:
    """An open file, and how many threads read it just now."""

    descriptor: int
    users: int = 0


class Bases:
    """Files known by number, from 1. Any thread may read; a few of them are open at a time.

    Args:
        openers: For each file, in order, what opens it and returns its descriptor: a path, of a regular file that is
            never reached through a link, or a function.
    """

    def __init__(self, openers: Sequence[Path | Callable[[], int]]) -> None:
        self._openers = openers
        self._open: OrderedDict[int, _Opened] = OrderedDict()
        self._states: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; nobody reads them any more."""
        with self._lock:
            while self._open:
                close_read(self._open.popitem()[1].descriptor)

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Return `length` bytes of file `number` at `offset`.

        Raises:
            NotFoundError: The file is not there.
            IntegrityError: It is no regular file, is shorter than that, or was written to since it was opened first.
            StorageError: It cannot be read.
        """
        data = bytearray(length)
        with self._file(number) as descriptor:
            view, done = memoryview(data), 0
            while done < length:
                count = self._read_some(number, descriptor, view[done:], offset + done)
                if not count:
                    raise IntegrityError(f"{self._name(number)} ends before byte {offset + length}")
                done += count
        return bytes(data)

    def _read_some(self, number: int, descriptor: int, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(descriptor, [into], offset)
        except OSError as error:
            raise StorageError(f"cannot read {self._name(number)}: {error.strerror}") from error

    def check(self) -> None:
        """See once more that no file that was read was written to meanwhile.

        Raises:
            IntegrityError: One was.
            NotFoundError: One is not there any more.
            StorageError: One cannot be looked at.
        """
        for number in list(self._states):
            with self._file(number):
                pass

    @contextmanager
    def _file(self, number: int) -> Iterator[int]:
        with self._lock:
            opened = self._open.pop(number, None) or _Opened(self._descriptor(number))
            self._open[number] = opened  # the last to be closed
            opened.users += 1
            self._close_others()
        try:
            self._look(number, opened.descriptor)
            yield opened.descriptor
        finally:
            with self._lock:
                opened.users -= 1

    def _descriptor(self, number: int) -> int:
        opener = self._openers[number - 1]
        return open_regular(opener) if isinstance(opener, Path) else opener()

    def _look(self, number: int, descriptor: int) -> None:
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            raise StorageError(f"cannot look at {self._name(number)}: {error.strerror}") from error
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._states.setdefault(number, state) != state:
            raise IntegrityError(f"{self._name(number)} was written to, or replaced, while it was in use")

    def _close_others(self) -> None:
        idle = [number for number, opened in self._open.items() if not opened.users]
        for number in idle[: max(0, len(self._open) - _OPEN)]:
            close_read(self._open.pop(number).descriptor)

    def _name(self, number: int) -> str:
        opener = self._openers[number - 1]
        return f"base file {opener}" if isinstance(opener, Path) else f"base file {number}"
