"""Write: a package to media that are mounted, or to folders that a one-way transfer empties.

    source looked at → media looked at, what lies there compared → a place for each file → medium by medium:
        each file copied under a temporary name, every part of it compared with its package, synced, renamed
        → the head, last → all of it read back from the device and compared again → its label

1. Nothing is written before everything has its place: free space, longest file, names that are taken.
2. A file that is there with equal bytes stays, so that a run that was cut short goes on, and a second one changes
   nothing. One with other bytes is refused, unless it is to be replaced.
3. A medium whose head is there has all that this run put on it: it comes last.
4. What the medium gives back otherwise than it was written is removed, the head before it.
5. Nothing else on a medium is opened or changed. Names are flat.

The package is compared with its own manifest, which catches a damaged source; whether the manifest is signed by the
right people is for `verify` and for the site to say.
"""

import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from airpack import fsops
from airpack.errors import CancelledError, InputError, IntegrityError, NotFoundError, PartialError, StorageError
from airpack.formats.repair_volume import SUFFIX as REPAIR_SUFFIX
from airpack.formats.times import emit_time
from airpack.formats.words import spoken
from airpack.fsops import NewFile, ReadBack, Room
from airpack.ops.carried import Carried, compact, look_at
from airpack.ops.medium import names
from airpack.ops.spread import Item, Place, spread, survives_one
from airpack.transport.stored import Check
from airpack.types import Digest, Reporter, Silent

_PUSHED: Final = 64 << 20  # bytes between two syncs of a file: progress is then the medium's, not memory's
_GRACE: Final = 2.0  # seconds that a copy has to clean up after Ctrl-C; a medium that hangs is left behind
_PULLED: Final = (
    "put the medium in again, or name another folder in its place, and run the same command again: what is written "
    "whole is kept"
)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file on a medium.

    Attributes:
        name: Its name.
        size: Its length in bytes.
        digest: SHA-256 of all its bytes; None where it is only planned.
        kept: Whether it lay there before.
    """

    name: str
    size: int
    digest: Digest | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Medium:
    """One medium as written, or as planned.

    Attributes:
        folder: Where it is mounted.
        number: Which of the package's media it is, from 1.
        count: How many there are; None as long as some are still to be written.
        room: What it took.
        files: What it holds of the package, the head last.
        read_back: `direct` past the page cache, `dropped` after that was told to let go, `no` without comparison.
        label: What to write on it, in lines; empty where nothing was written.
    """

    folder: Path
    number: int
    count: int | None
    room: Room
    files: tuple[WrittenFile, ...]
    read_back: str
    label: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "folder": str(self.folder),
            "medium": self.number,
            "of": self.count,
            "file_system": self.room.file_system or None,
            "free": self.room.free,
            "bytes": sum(file.size for file in self.files if not file.kept),
            "files": [
                {
                    "name": file.name,
                    "size": file.size,
                    "sha256": file.digest.hex if file.digest else None,
                    "kept": file.kept,
                }
                for file in self.files
            ],
            "read_back": self.read_back,
            "label": list(self.label),
        }


@dataclass(frozen=True, slots=True)
class Written:
    """What a run came to.

    Attributes:
        head: The package's head.
        digest: Its SHA-256.
        name: `product@version`, as the head says.
        media: Every medium that holds something of the package.
        survives_one: Whether any one of the media may be lost: parity then rebuilds what was on it.
        left: Names of files that found no room.
        only: The same, as `--only` takes it; empty for none.
        dry_run: Whether nothing was written.
        ignored: Names beside the head that are not of this package.
    """

    head: Path
    digest: Digest
    name: str
    media: tuple[Medium, ...]
    survives_one: bool
    left: tuple[str, ...]
    only: str
    dry_run: bool
    ignored: tuple[str, ...]

    @property
    def next_medium(self) -> int:
        """The number of the next medium to be written."""
        return self.media[-1].number + 1 if self.media else 1

    def document(self) -> dict[str, Any]:
        """Return the JSON keys that scripts rely on."""
        product, _, version = self.name.partition("@")
        return {
            "product": product,
            "version": version,
            "head": str(self.head),
            "head_digest": str(self.digest),
            "words": spoken(self.digest),
            "dry_run": self.dry_run,
            "media": [medium.document() for medium in self.media],
            "survives_one": self.survives_one,
            "left": list(self.left),
            "only": self.only,
            "next_medium": self.next_medium if self.left else None,
            "ignored": list(self.ignored),
        }


@dataclass(frozen=True, slots=True)
class Options:
    """How to write.

    Attributes:
        only: Which volumes, as `--only` takes them; empty for all.
        first: Number of the first medium.
        replace: Whether a file with other bytes under the same name is replaced.
        read_back: Whether what was written is read again and compared.
        dry_run: Look at everything and write nothing.
        label: A file to write the labels to; None for none.
    """

    only: str = ""
    first: int = 1
    replace: bool = False
    read_back: bool = True
    dry_run: bool = False
    label: Path | None = None


def write_package(
    package: Path,
    folders: Sequence[Path],
    *,
    options: Options,
    now: datetime,
    reporter: Reporter | None = None,
) -> Written:
    """Write the package at `package` to the media mounted at `folders`.

    Args:
        package: Its folder or its head file; a repair folder too.
        folders: Existing folders, at least one, each a medium.
        options: How.
        now: For the labels.
        reporter: Receives progress.

    Raises:
        InputError: A folder twice, one that is the package's own, a bad `only`, a name that is taken, or an existing
            file for the labels.
        NotFoundError: No head, or no such folder.
        IntegrityError: The source is damaged.
        StorageError: A medium is full, read-only, gone, takes no file that long, or gives back other bytes.
        BusyError: Another airpack writes to one of them.
        PartialError: Not all volumes are here; or not all found room: the others are written, and `document` says what
            a call without failure returns.
    """
    if options.label is not None and os.path.lexists(options.label) and not options.replace:
        raise InputError(f"{options.label} exists", hint="choose another name, or give --force to replace it")
    stop, ended = threading.Event(), threading.Event()

    def run() -> Written:
        try:
            return _Run(package, folders, options=options, now=now, reporter=reporter or Silent(), stop=stop).run()
        finally:
            ended.set()

    try:
        written = fsops.interruptible(run)
    finally:
        stop.set()
        ended.wait(_GRACE)
    if options.label is not None and not options.dry_run:
        text = "\n\n".join("\n".join(medium.label) for medium in written.media) + "\n"
        fsops.write_durable(options.label.absolute(), text.encode(), foreign=True)
    if written.left:
        raise _unfinished(written)
    return written


def _unfinished(written: Written) -> PartialError:
    verb = "would find" if written.dry_run else "found"
    error = PartialError(
        f"{len(written.left)} files {verb} no room: {written.only}",
        hint=f"put in another medium, then airpack write {shlex.quote(str(written.head))} DIR --only {written.only} "
        f"--medium {written.next_medium}",
        left=list(written.left),
        only=written.only,
        next_medium=written.next_medium,
    )
    error.document = written.document()
    return error


class _Run:
    """One run under way, in a thread of its own."""

    def __init__(
        self,
        package: Path,
        folders: Sequence[Path],
        *,
        options: Options,
        now: datetime,
        reporter: Reporter,
        stop: threading.Event,
    ) -> None:
        self._package, self._folders, self._options = package, folders, options
        self._now, self._reporter, self._stop = now, reporter, stop
        self._digests: dict[tuple[Path, str], Digest] = {}
        self._kept_heads: set[Path] = set()
        self._buffered: set[Path] = set()  # media of which something was read back through the page cache

    def run(self) -> Written:
        """Look, plan, write."""
        source, dry_run = look_at(self._package, self._options.only), self._options.dry_run
        folders = _distinct(self._folders, source)
        with ExitStack() as stack:
            if not dry_run:
                for folder in folders:
                    stack.enter_context(fsops.writing_to(folder))
                    fsops.clear_torn(folder, {source.head.name, *source.layouts})
            places = [_place(folder, dry_run=dry_run) for folder in folders]
            self._compare(source, places)
            left = spread(source.items, places, head=len(source.data))
            used = [place for place in places if place.items] or ([] if source.items else places[:1])
            for place in used if not dry_run else ():
                self._write(source, place)
        count = None if left else self._options.first - 1 + len(used)
        return Written(
            head=source.head,
            digest=Digest.of(source.data),
            name=source.name,
            media=tuple(
                self._medium(source, place, number, count) for number, place in enumerate(used, self._options.first)
            ),
            survives_one=survives_one(source.items, places),
            left=tuple(item.name for item in left),
            only=",".join(compact([item.name for item in left], source.manifest)),
            dry_run=self._options.dry_run,
            ignored=source.ignored,
        )

    def _compare(self, source: Carried, places: Sequence[Place]) -> None:
        """Find what lies on the media already, byte for byte; refuse other files under its names."""
        found = []
        for place in places:
            there = set(names(place.folder))
            found += [(place, item) for item in (*source.items, source.head_item) if item.name in there]
        if not found:
            return
        self._reporter.start("compare", sum(item.size for _, item in found))
        try:
            for place, item in found:
                with _on_medium(place.folder):
                    self._compare_one(source, place, item)
        finally:
            self._reporter.finish()

    def _compare_one(self, source: Carried, place: Place, item: Item) -> None:
        path = place.folder / item.name
        try:
            self._check_back(source, path)
        except IntegrityError as error:
            if self._options.replace:
                return
            raise InputError(
                f"there is another file under the name {path}: {error.message}",
                hint="it may be another package's, or damaged: give another folder, or --force to replace it",
                path=str(path),
            ) from error
        if item.name == source.head.name:
            self._kept_heads.add(place.folder)
        else:
            place.kept.append(item)

    def _write(self, source: Carried, place: Place) -> None:
        """Write one medium, the head last, and read back what was written."""
        folder, head = place.folder, source.head_item
        added = [*place.added, *([] if folder in self._kept_heads else [head])]
        size = sum(item.size for item in added)
        with _on_medium(folder):
            self._reporter.start("write", size)
            try:
                for item in added:
                    self._copy(source, folder, item)
            finally:
                self._reporter.finish()
            if not self._options.read_back or not added:
                return
            self._reporter.start("read back", size)
            try:
                for item in added:
                    self._read_back(source, folder, item, added)
            finally:
                self._reporter.finish()

    def _copy(self, source: Carried, folder: Path, item: Item) -> None:
        """Copy one file, every part of it compared with its package on the way."""
        target, check, pending = folder / item.name, Check(source.layout(item.name), item.name), 0
        with NewFile(target, foreign=True) as new:
            for block in fsops.read_blocks(source.head.parent / item.name):
                self._go_on()
                check.feed(block)
                new.write(block)
                pending += len(block)
                if pending >= _PUSHED:
                    new.push()
                    pending = 0
                self._reporter.advance(len(block), str(folder), item.name)
            self._digests[folder, item.name] = check.done()
            new.commit()

    def _read_back(self, source: Carried, folder: Path, item: Item, added: Sequence[Item]) -> None:
        """Compare what a medium gives back; what is not as written goes, the head before it."""
        path = folder / item.name
        try:
            self._check_back(source, path)
        except NotFoundError as error:
            raise StorageError(
                f"{path} is gone before it was read back",
                hint="a transfer folder that is emptied as it fills wants --no-read-back",
                path=str(path),
            ) from error
        except IntegrityError as error:
            for name in {source.head.name, item.name} & {other.name for other in added}:
                fsops.remove_file(folder / name)
            raise StorageError(
                f"{folder} gives back other bytes than were written: {error.message}",
                hint="do not use this medium; give another folder and run the same command again",
                path=str(path),
                **{key: value for key, value in error.context.items() if key != "path"},
            ) from error

    def _check_back(self, source: Carried, path: Path) -> None:
        check, reading = Check(source.layout(path.name), path.name), ReadBack(path)
        for block in reading.blocks():
            self._go_on()
            check.feed(block)
            self._reporter.advance(len(block), str(path.parent), path.name)
        self._digests[path.parent, path.name] = check.done()
        if not reading.direct:
            self._buffered.add(path.parent)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise CancelledError("cancelled")

    def _medium(self, source: Carried, place: Place, number: int, count: int | None) -> Medium:
        folder, head = place.folder, source.head_item
        files = [(item, item in place.kept) for item in source.items if item in place.items]
        files.append((head, folder in self._kept_heads))
        return Medium(
            folder=folder,
            number=number,
            count=count,
            room=place.room,
            files=tuple(
                WrittenFile(item.name, item.size, self._digests.get((folder, item.name)), kept) for item, kept in files
            ),
            read_back=self._how_read_back(folder),
            label=()
            if self._options.dry_run
            else _label(source, [item.name for item in place.items], number, count, self._now),
        )

    def _how_read_back(self, folder: Path) -> str:
        if self._options.dry_run or not self._options.read_back:
            return "no"
        return "dropped" if folder in self._buffered else "direct"


def _distinct(folders: Sequence[Path], source: Carried) -> list[Path]:
    """Return the media's folders; none twice, and none the package's own."""
    found, seen = [], {source.head.parent.resolve(): "the package's own folder"}
    for folder in folders:
        real = folder.resolve()
        if real in seen:
            raise InputError(f"{folder} is {seen[real]}", hint="give each medium once", path=str(folder.absolute()))
        seen[real] = "given twice"
        found.append(folder.absolute())
    return found


def _place(folder: Path, *, dry_run: bool) -> Place:
    room = fsops.look_at_room(folder)
    if room.read_only and not dry_run:
        raise StorageError(
            f"{folder} is mounted for reading only", hint="mount it for writing, or give another", path=str(folder)
        )
    return Place(folder, room)


@contextmanager
def _on_medium(folder: Path) -> Iterator[None]:
    """Say what helps where a medium fails; what fails elsewhere passes."""
    try:
        yield
    except StorageError as error:
        place = Path(str(error.context.get("path", "")))
        if not error.hint and folder in {place, place.parent}:
            error.hint = _PULLED
        raise


def _label(source: Carried, on_it: Sequence[str], number: int, count: int | None, now: datetime) -> tuple[str, ...]:
    """Return what to write on a medium, for those who will look for it in a drawer."""
    manifest, digest = source.manifest, Digest.of(source.data)
    words = compact(on_it, manifest)
    repairs = [word for word in words if word.endswith(REPAIR_SUFFIX)]
    volumes = [word for word in words if word[0].isdecimal() and word not in repairs]
    parity = [word for word in words if word not in {*volumes, *repairs}]
    parity_count = sum(len(group.volumes) for group in manifest.parity)
    rows = [
        ("release", source.name),
        ("medium", f"{number} of {count}" if count else f"{number}, and more follow"),
        ("volumes", f"no. {', '.join(volumes)} of {len(manifest.volumes)}" if volumes else "none"),
        *([("parity", f"no. {', '.join(parity)} of p{parity_count}")] if parity else []),
        *(("repair", name) for name in repairs),
        ("head", source.head.name),
        ("digest", str(digest)),
        ("words", spoken(digest)),
        ("written", emit_time(now)),
    ]
    return tuple(f"{name:<8} {text}" for name, text in rows)
