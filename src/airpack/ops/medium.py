"""What lies on a medium: which file is the head, and which files nobody listed.

A medium may never answer. Whatever asks it here can be interrupted (`fsops.interruptible`).
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from airpack import fsops
from airpack.errors import AirpackError, InputError, NotFoundError, StorageError
from airpack.formats.head import SUFFIX, is_intact
from airpack.formats.package import PackageManifest
from airpack.formats.repair_volume import is_repair_name, stems_of
from airpack.fsops import interruptible
from airpack.transport.spare import SpareState
from airpack.transport.volumes import Media
from airpack.types import Limits, Reporter

_NAMED = 5  # names in one message
_SAID = 10  # notes on what media held


@dataclass(frozen=True, slots=True)
class Presented:
    """A package as it was presented: copies of its head, and the folders that its volumes may lie in.

    Attributes:
        heads: Head files, at least one.
        folders: The folders, in the order in which they were named.
    """

    heads: tuple[Path, ...]
    folders: tuple[Path, ...]

    def read(self) -> bytes:
        """Return the bytes of the head: damaged copies are passed over where a good one is there.

        Raises:
            NotFoundError: It is not there.
            InputError: Several good ones say different things.
            IntegrityError: It is no regular file, or longer than a head may be.
            StorageError: It cannot be read.
        """
        if len(self.heads) == 1:
            return read_head(self.heads[0])
        good: dict[bytes, Path] = {}
        failed: list[AirpackError] = []
        damaged = b""
        for path in self.heads:
            try:
                data = read_head(path)
            except AirpackError as error:
                failed.append(error)
                continue
            if is_intact(data):
                good.setdefault(data, path)
            damaged = damaged or data
        if len(good) > 1:
            some = " and ".join(str(path) for path in list(good.values())[:2])
            hint = "name the head file of the package to take, beside the folders"
            raise InputError(f"the heads {some} are not the same", hint=hint)
        if not good and not damaged:
            raise failed[0]
        return next(iter(good), damaged)  # whoever parses a damaged one says how it is

    def unlisted(self, manifest: PackageManifest) -> list[str]:
        """Return the names in the folders that the package does not list. They are never opened."""
        heads = {head.name for head in self.heads}
        return [name for folder in self.folders for name in _unlisted(folder, heads, manifest)]


def find_package(paths: Sequence[Path]) -> Presented:
    """Return the package that `paths` present together.

    Args:
        paths: Folders and head files, at least one. Where head files are named, the head is among these.

    Raises:
        NotFoundError: No such path, or no head anywhere.
        InputError: Several heads in one folder.
        StorageError: A path cannot be looked at, or a folder not read.
    """
    folders: list[Path] = []
    named: list[Path] = []
    found: list[Path] = []
    for path in dict.fromkeys(path.absolute() for path in paths):
        if interruptible(partial(_is_folder, path)):
            folders.append(path)
            found += _only_head(path)
        else:
            folders.append(path.parent)
            named.append(path)
    if not named and not found:
        raise _no_head(", ".join(str(folder) for folder in folders), folders[0])
    return Presented(tuple(named or found), tuple(dict.fromkeys(folders)))


def find_head(path: Path) -> Path:
    """Return the head file that `path` names, or the only one in the folder that `path` names.

    Raises:
        NotFoundError: No such path, or no head in the folder.
        InputError: Several heads in the folder.
        StorageError: The path cannot be looked at, or the folder not read.
    """
    if not interruptible(lambda: _is_folder(path)):
        return path.absolute()
    heads = _only_head(path)
    if not heads:
        raise _no_head(str(path), path)
    return heads[0]


def _no_head(where: str, path: Path) -> NotFoundError:
    return NotFoundError(
        f"no head in {where}: no file there ends in {SUFFIX}",
        hint="name the folder that holds the package, or bring its head file",
        path=str(path),
    )


def _only_head(path: Path) -> list[Path]:
    """Return the head in a folder, none where there is none."""
    heads = [name for name in names(path) if name.endswith(SUFFIX)]
    if len(heads) > 1:
        some = ", ".join(heads[:_NAMED]) + (", ..." if len(heads) > _NAMED else "")
        raise InputError(f"{path} holds {len(heads)} heads: {some}", hint="name one of these files", path=str(path))
    return [path.absolute() / name for name in heads]


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
    return _unlisted(head.parent, {head.name}, manifest)


def _unlisted(folder: Path, heads: set[str], manifest: PackageManifest) -> list[str]:
    listed, stems = {*heads, *manifest.names}, stems_of(manifest)
    return [name for name in names(folder) if name not in listed and not is_repair_name(name, stems)]


def say_mended(media: Media, reporter: Reporter, spare: SpareState | None = None) -> None:
    """Say what was not as it should be on the media, and kept nothing from going on.

    Args:
        media: The media, read.
        reporter: Is told.
        spare: How the parity volumes are, where that was looked at.
    """
    lines = list(media.notes)
    for position, ranges in media.mended.ranges.items():
        volume, count = media.volumes[position], sum(length for _, length in ranges)
        places = "one place" if len(ranges) == 1 else f"{len(ranges)} places"
        state = f"is damaged in {places}, {count} bytes" if volume.is_there else "is missing"
        lines.append(f"{volume.name} {state}; its bytes were had from another copy, a repair volume or parity")
    if spare is not None:
        lines += [f"parity volume {name} is missing; the package is whole without it" for name in spare.missing]
        lines += [f"parity volume {name} is damaged; the package is whole without it" for name in spare.damaged]
    for line in lines[:_SAID]:
        reporter.note(line)
    if len(lines) > _SAID:
        reporter.note(f"and {len(lines) - _SAID} more of that kind")


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
