"""The files in which a kernel speaks of its machine, below a root that tests replace.

Machine(Path("/")).text("proc/meminfo")   ->  "MemTotal: ..."; None when it cannot be read
"""

import os
import re
from pathlib import Path
from typing import Final

from airpack import fsops
from airpack.errors import IntegrityError, NotFoundError, StorageError

_BOUND: Final = 8 << 20  # bytes read of one file: /proc/cpuinfo of many processors is the longest
_NAMES: Final = 50_000  # names read of one folder


class Machine:
    """One machine's files.

    Args:
        root: Folder that holds `proc`, `sys`, `etc`, `dev`, `lib`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """Return the text of one file; None when it is not there, may not be read, or is none."""
        data = self.data(path)
        return None if data is None else data.decode("utf-8", "replace")

    def data(self, path: str) -> bytes | None:
        """Return the bytes of one file; None as `text`."""
        if "\0" in path:  # a name that another file gave
            return None
        try:
            return fsops.read_regular(self.root / path, _BOUND)
        except (NotFoundError, StorageError, IntegrityError):
            return None

    def number(self, path: str) -> int | None:
        """Return the whole number in a file; None for `max`, -1, the 2**63 that means no limit, or as `text`."""
        text = (self.text(path) or "").strip()
        return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None

    def names(self, folder: str) -> tuple[str, ...] | None:
        """Return the names in a folder, sorted; None when it is not there or may not be read."""
        try:
            with os.scandir(self.root / folder) as entries:
                return tuple(sorted(entry.name for entry, _ in zip(entries, range(_NAMES), strict=False)))
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Return whether something stands at `path`, whatever it is."""
        return os.path.lexists(self.root / path)
