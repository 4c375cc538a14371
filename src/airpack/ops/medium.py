"""What lies on a medium: which file is the head, and which files nobody listed.

A medium may never answer. Whatever asks it here can be interrupted (`fsops.interruptible`).
"""

import os
import stat
from pathlib import Path

from airpack import fsops
from airpack.errors import InputError, NotFoundError, StorageError
from airpack.formats.head import SUFFIX
from airpack.formats.package import PackageManifest
from airpack.fsops import interruptible
from airpack.types import Limits

_NAMED = 5  # names in one message


def find_head(path: Path) -> Path:
    """Return the head file that `path` names, or the only one in the folder that `path` names.

    Raises:
        NotFoundError: No such path, or no head in the folder.
        InputError: Several heads in the folder.
        StorageError: The path cannot be looked at, or the folder not read.
    """
    if not interruptible(lambda: _is_folder(path)):
        return path.absolute()
    heads = [name for name in names(path) if name.endswith(SUFFIX)]
    if not heads:
        raise NotFoundError(
            f"no head in {path}: no file there ends in {SUFFIX}",
            hint="name the folder that holds the package, or bring its head file",
            path=str(path),
        )
    if len(heads) > 1:
        some = ", ".join(heads[:_NAMED]) + (", ..." if len(heads) > _NAMED else "")
        raise InputError(f"{path} holds {len(heads)} heads: {some}", hint="name one of these files", path=str(path))
    return path.absolute() / heads[0]


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no file or folder {path}", path=str(path)) from error
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror}", path=str(path)) from error


def read_head(path: Path) -> bytes:
    """Return the bytes of the head at `path`, read once.

    Raises:
        NotFoundError: It is not there.
        IntegrityError: It is no regular file, or longer than a head may be.
        StorageError: It cannot be read.
    """
    return interruptible(lambda: fsops.read_regular(path, Limits.HEAD))


def unlisted(head: Path, manifest: PackageManifest) -> list[str]:
    """Return the names beside the head that the package does not list. They are never opened."""
    listed = {head.name, *manifest.names}
    return [name for name in names(head.parent) if name not in listed]


def names(folder: Path) -> list[str]:
    """Return the names in `folder`, sorted.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        # Names only: nothing on a medium is opened unasked.
        return interruptible(lambda: sorted(os.listdir(folder)))  # noqa: PTH208
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}", path=str(folder)) from error
