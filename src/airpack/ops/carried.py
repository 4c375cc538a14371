"""What of a package is there to be carried: its volumes, parity and repair volumes, and what each must be.

The head is read and not verified here: whoever carries a package needs no keys. Every other file is held against what
the head says of it.
"""

import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

from airpack import fsops
from airpack.errors import InputError, IntegrityError, NotFoundError, PartialError, StorageError
from airpack.formats import dsse
from airpack.formats import head as heads
from airpack.formats.package import PackageManifest
from airpack.formats.repair_volume import is_repair_name, parse_repair_header, repair_size, stems_of
from airpack.formats.volume import HEADER
from airpack.ops.medium import find_head, names, read_head
from airpack.ops.spread import Item
from airpack.transport import stored
from airpack.types import Digest, Limits

_RANGE = re.compile(r"(p?)([1-9][0-9]{0,4})(?:-p?([1-9][0-9]{0,4}))?")
_NAMED: Final = 20  # names in one message


@dataclass(frozen=True, slots=True)
class Carried:
    """A package as it lies before it is carried.

    Attributes:
        head: The head file.
        data: Its bytes.
        manifest: What it says, its signature not looked at.
        items: The files to be carried beside it, in order.
        layouts: What each file of the package must be, by its name.
        ignored: Names of repair volumes beside it that are of other packages.
    """

    head: Path
    data: bytes
    manifest: PackageManifest
    items: tuple[Item, ...]
    layouts: Mapping[str, Callable[[], stored.Layout]]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        """`product@version`, as the head says."""
        return f"{self.manifest.product}@{self.manifest.version}"

    @property
    def head_item(self) -> Item:
        """The head as a file to be carried."""
        return Item(self.head.name, len(self.data))

    def layout(self, name: str) -> stored.Layout:
        """Return what the file `name` must be."""
        return stored.known(self.data, "head") if name == self.head.name else self.layouts[name]()


def look_at(package: Path, only: str) -> Carried:
    """Return what is there to be carried.

    Args:
        package: The package's folder or its head file. Where repair volumes lie beside the head it is a repair folder:
            volumes that are not in it are not missed.
        only: Which files, as `--only` takes them; empty for all.

    Raises:
        NotFoundError: No head.
        InputError: `only` names what the package has not.
        IntegrityError: The head is damaged, or a file is no regular one or of another size than the head says.
        PartialError: Files are missing.
        StorageError: The folder cannot be read.
    """
    head = find_head(package)
    data = read_head(head)
    envelope = dsse.parse(heads.parse(data).package, "package envelope", limit=Limits.HEAD)
    manifest, payload = PackageManifest.parse(envelope.payload), Digest.of(envelope.payload)
    beside = set(names(head.parent))
    repairs, ignored = _find_repairs(head.parent, sorted(beside), manifest, payload)
    items = {item.name: item for item in (*_volumes(manifest), *repairs)}
    wanted = select(only, manifest, [item.name for item in repairs]) if only else list(items)
    missing = [name for name in wanted if name not in beside]
    if repairs and not only:
        wanted = [name for name in wanted if name in beside]
    elif missing:
        shown = ", ".join(missing[:_NAMED]) + (" and more" if len(missing) > _NAMED else "")
        raise PartialError(
            f"{len(missing)} of {len(wanted)} files are missing in {head.parent}: {shown}",
            hint="put them beside the head file, or name those that are here with --only",
            missing=missing,
        )
    for name in wanted:
        _check_file(head.parent / name, items[name])
    layouts = _layouts(manifest, payload, repairs)
    return Carried(head, data, manifest, tuple(items[name] for name in wanted), layouts, ignored)


def select(only: str, manifest: PackageManifest, repairs: Sequence[str]) -> list[str]:
    """Return the names that `only` means, in the package's order.

    Args:
        only: `3,5-7,p1`: numbers of data volumes, of parity volumes with a `p`, and names of any file.
        manifest: The package manifest.
        repairs: Names of the repair volumes that are here.

    Raises:
        InputError: A number or name that the package has not.
    """
    data = [info.name for info in manifest.volumes]
    parity = [info.name for _, info in stored.parity_volumes(manifest)]
    chosen: set[str] = set()
    for word in only.split(","):
        if word in {*data, *parity, *repairs}:
            chosen.add(word)
            continue
        match = _RANGE.fullmatch(word)
        if match is None:
            raise InputError(f"--only {word!r}: expected numbers, ranges or names", hint="for example --only 3,5-7,p1")
        of = parity if match[1] else data
        first, last = int(match[2]), int(match[3] or match[2])
        if not first <= last <= len(of):
            kind = "parity volumes" if match[1] else "volumes"
            raise InputError(f"--only {word!r}: the package has {len(of)} {kind}")
        chosen |= set(of[first - 1 : last])
    return [name for name in (*data, *parity, *repairs) if name in chosen]


def compact(chosen: Iterable[str], manifest: PackageManifest) -> list[str]:
    """Return the words that select exactly the files named `chosen`: `3`, `5-7`, `p1`, names of repair volumes."""
    left = set(chosen)
    words = []
    for mark, of in (
        ("", [info.name for info in manifest.volumes]),
        ("p", [info.name for _, info in stored.parity_volumes(manifest)]),
    ):
        numbers = [number for number, name in enumerate(of, 1) if name in left]
        words += [_range(mark, run) for run in _runs(numbers)]
        left -= set(of)
    return [*words, *sorted(left)]


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """Return ascending numbers as runs without gaps."""
    return [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]


def _range(mark: str, run: list[int]) -> str:
    return f"{mark}{run[0]}" if len(run) == 1 else f"{mark}{run[0]}-{mark}{run[-1]}"


def _volumes(manifest: PackageManifest) -> list[Item]:
    groups = [number for number, group in enumerate(manifest.parity) for _ in range(group.count)]
    groups = groups or [-1] * len(manifest.volumes)
    items = [Item(info.name, info.size, group) for info, group in zip(manifest.volumes, groups, strict=True)]
    for number, group in enumerate(manifest.parity):
        items += [Item(info.name, info.size, number, is_parity=True) for info in group.volumes]
    return items


def _layouts(
    manifest: PackageManifest, payload: Digest, repairs: Iterable[Item]
) -> dict[str, Callable[[], stored.Layout]]:
    made: dict[str, Callable[[], stored.Layout]] = {}
    for position, info in enumerate(manifest.volumes):
        made[info.name] = partial(stored.data_volume, manifest, payload, position)
    for position, (_, parity) in enumerate(stored.parity_volumes(manifest)):
        made[parity.name] = partial(stored.parity_volume, manifest, payload, position)
    for item in repairs:
        made[item.name] = partial(stored.repair_volume, manifest, payload, item.size)
    return made


def _find_repairs(
    folder: Path, beside: Iterable[str], manifest: PackageManifest, payload: Digest
) -> tuple[list[Item], tuple[str, ...]]:
    """Return the repair volumes of this package in `folder`, and the names of those of others."""
    found, others, stems = [], [], stems_of(manifest)
    for name in beside:
        if not is_repair_name(name, stems):
            continue
        try:
            header = parse_repair_header(fsops.read_start(folder / name, HEADER), manifest, payload, what=name)
        except IntegrityError:
            others.append(name)
            continue
        found.append(Item(name, repair_size(header)))
    return found, tuple(others)


def _check_file(path: Path, item: Item) -> None:
    """Refuse a source of another size before anything is written."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {path}", path=str(path)) from error
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror}", path=str(path)) from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(
            f"{path} is not a regular file; links, devices and pipes are never followed", path=str(path)
        )
    if status.st_size != item.size:
        raise IntegrityError(
            f"{path} has {status.st_size} bytes, expected {item.size}: it is damaged, or of another package",
            hint="bring it again from where the package was built",
            path=str(path),
            expected=item.size,
            found=status.st_size,
        )
