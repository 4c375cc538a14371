"""The command line with a mistake of order planted in it, which must be caught: `python -m tests.crashes.planted`.

The first argument names the mistake, the others are airpack's own.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from airpack.catalog.catalog import Catalog
from airpack.cli.main import main
from airpack.store.blobs import BlobStore
from airpack.types import Digest


def no_file_sync() -> None:
    """Names are made durable, bytes are not: Nix #1218, zero-length files after a power cut."""
    _sync_only(stat.S_ISDIR)


def no_folder_sync() -> None:
    """Bytes are made durable, names are not: what ext4 mostly hides, and other file systems do not."""
    _sync_only(stat.S_ISREG)


def row_before_blob() -> None:
    """The catalog's row is committed before the blobs have their names."""
    adopt, add_release = BlobStore.adopt, Catalog.add_release
    waiting: list[tuple[BlobStore, list[tuple[Digest, Path]]]] = []

    def later(store: BlobStore, files: Iterable[tuple[Digest, Path]]) -> None:
        waiting.append((store, list(files)))

    def first(catalog: Catalog, *args: Any) -> None:
        add_release(catalog, *args)
        for store, files in waiting:
            adopt(store, files)

    BlobStore.adopt = later  # type: ignore[method-assign, assignment]
    Catalog.add_release = first  # type: ignore[method-assign, assignment]


def _sync_only(wanted: Callable[[int], bool]) -> None:
    real = os.fsync

    def sync(fd: int) -> None:
        if wanted(os.fstat(fd).st_mode):
            real(fd)

    os.fsync = sync  # type: ignore[assignment]


MISTAKES: Final[dict[str, Callable[[], None]]] = {
    "no-file-sync": no_file_sync,
    "no-folder-sync": no_folder_sync,
    "row-before-blob": row_before_blob,
}

if __name__ == "__main__":
    MISTAKES[sys.argv[1]]()
    main(sys.argv[2:])
