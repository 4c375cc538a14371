"""Open files of a medium: regular ones, read-only, a bounded number at a time, shared by several threads."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from airpack.fsops import close_read, open_regular

_MOST: Final = 300  # a group of parity is 256 volumes, read side by side


class OpenFiles:
    """Descriptors of the files that were read last; what was closed is opened again when it is asked for."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._idle: OrderedDict[Path, list[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def use(self, path: Path) -> Iterator[int]:
        """Lend a descriptor of the file at `path`, to one thread at a time.

        Nothing waits for a medium while the lock is held, so that one that hangs stops only those who read it.

        Raises:
            NotFoundError: There is no such file.
            IntegrityError: It is no regular file.
            StorageError: It cannot be opened.
        """
        descriptor = self._take(path)
        if descriptor is None:
            descriptor = open_regular(path)
        try:
            yield descriptor
        finally:
            for spare in self._give(path, descriptor):
                close_read(spare)

    def _take(self, path: Path) -> int | None:
        with self._lock:
            idle = self._idle.get(path)
            return idle.pop() if idle else None

    def _give(self, path: Path, descriptor: int) -> list[int]:
        """Take a descriptor back; return those to close."""
        with self._lock:
            if self._closed:
                return [descriptor]
            self._idle.setdefault(path, []).append(descriptor)
            self._idle.move_to_end(path)
            if len(self._idle) <= self._most:
                return []
            return self._idle.popitem(last=False)[1]

    def close(self) -> None:
        """Close every descriptor; those on loan are closed when they come back."""
        with self._lock:
            self._closed = True
            spare = [descriptor for idle in self._idle.values() for descriptor in idle]
            self._idle.clear()
        for descriptor in spare:
            close_read(descriptor)


def read_into(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill `into` from `offset` of a file and return how many bytes there were: fewer at its end.

    Raises:
        OSError: The medium fails.
    """
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
