"""Every state that a power cut may leave of a traced command, after ALICE (Pillai et al., OSDI 2014).

Names and bytes reach the disk when they are synced, and before that in any order or not at all:

- an entry of a folder (a name made, moved away, replaced or removed) is durable once that folder is synced; of the
  entries that are not, any subset may be there. A rename within a folder is one entry, between two folders it is two.
- bytes of a file are durable once it is synced. Of those that are not, none, half, all, or only the last write may be
  there; its length and its mode go with them.

States are taken before each sync and at the end: what may be left at other moments may be left then too. Two states
that show the same tree count once. What lies in the quarantine of a refresh or a probe is left out: recovery removes it
unseen. ext4 allows far less than this; a command that holds here holds on file systems that do not order names.
"""

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.crashes.trace import Op

_ALL: Final = 13  # unsynced entries up to which all subsets are taken
_DRAWN: Final = 256  # subsets drawn where there are more, beside those that lack or have at most two entries
_PRODUCT: Final = 81  # combinations of bytes up to which all are taken
_UNSEEN: Final = ("ingest/trust-", "ingest/probe-")


@dataclass(slots=True, eq=False)
class File:
    """A file: its bytes on disk, and what was done to them since the last sync."""

    durable: bytes = b""
    mode: int = 0o644
    live: bytes = b""
    live_mode: int = 0o644
    pending: list[Op] = field(default_factory=list)

    def do(self, op: Op) -> None:
        """Apply a write, a truncate, an extend or a chmod to the live bytes."""
        if op.kind == "chmod":
            self.live_mode = op.number
            if not self.pending:
                self.mode = op.number  # a mode alone changes no bytes
            return
        self.live = _done(self.live, op)
        self.pending.append(op)

    def sync(self) -> None:
        """Make the live bytes durable."""
        self.durable, self.mode, self.pending = self.live, self.live_mode, []

    def choices(self) -> list[tuple[bytes, int]]:
        """Return the bytes and modes that a power cut may leave, each once, the durable ones first."""
        if not self.pending:
            return [(self.durable, self.mode)]
        half, last = self.durable, _done(self.durable, self.pending[-1])
        middle = len(self.pending) // 2
        for op in self.pending[:middle]:
            half = _done(half, op)
        torn = self.pending[middle]
        half = _done(half, Op(torn.kind, torn.path, data=torn.data[: len(torn.data) // 2], number=torn.number))
        return list(
            dict.fromkeys(
                [(self.durable, self.mode), (half, self.mode), (last, self.mode), (self.live, self.live_mode)]
            )
        )


def _done(data: bytes, op: Op) -> bytes:
    if op.kind == "write":
        data = data.ljust(op.number, b"\0")
        return data[: op.number] + op.data + data[op.number + len(op.data) :]
    if op.kind == "truncate":
        return data[: op.number].ljust(op.number, b"\0")
    return data.ljust(op.number, b"\0")


@dataclass(slots=True, eq=False)
class Folder:
    """A folder: its entries on disk, and those that were changed since the last sync."""

    durable: "dict[str, Node]" = field(default_factory=dict)
    live: "dict[str, Node]" = field(default_factory=dict)
    pending: "list[Change]" = field(default_factory=list)

    def change(self, *entries: "tuple[str, Node | None]") -> None:
        """Change entries, together: a name and what it is now, None for nothing."""
        for name, node in entries:
            _put(self.live, name, node)
        self.pending.append(entries)

    def sync(self) -> None:
        """Make the live entries durable."""
        self.durable, self.pending = dict(self.live), []


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link and what it says."""

    target: str


Node = File | Folder | Link
Change = tuple[tuple[str, Node | None], ...]
Tree = dict[str, tuple[str, bytes, int]]
"""Path -> kind (`file`, `folder`, `link`), bytes (of a link: what it says), mode."""


def _put(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def load(root: Path) -> Folder:
    """Return a tree as it lies on the disk, all of it durable."""
    folder = Folder()
    for path in root.iterdir():
        if path.is_symlink():
            folder.live[path.name] = Link(str(path.readlink()))
        elif path.is_dir():
            folder.live[path.name] = load(path)
        else:
            data, mode = path.read_bytes(), path.stat().st_mode & 0o7777
            folder.live[path.name] = File(data, mode, data, mode)
    folder.sync()
    return folder


class Replay:
    """Does the operations of a trace to a tree in memory."""

    def __init__(self, root: Folder) -> None:
        self.root = root

    def do(self, op: Op) -> None:
        """Do one operation.

        Raises:
            ValueError: It does not fit the tree: the trace is not of this tree.
        """
        getattr(self, f"_{op.kind}")(op)

    def _folder(self, path: str) -> tuple[Folder, str]:
        """Return the folder of `path` and the last part."""
        head, _, name = path.rpartition("/")
        node = self._node(head)
        if not isinstance(node, Folder):
            raise ValueError(f"{head} is no folder")  # noqa: TRY004, the trace is wrong, no argument
        return node, name

    def _node(self, path: str) -> Node:
        node: Node = self.root
        for part in path.split("/") if path else ():
            if not isinstance(node, Folder) or part not in node.live:
                raise ValueError(f"no {path}")
            node = node.live[part]
        return node

    def _file(self, path: str) -> File:
        node = self._node(path)
        if not isinstance(node, File):
            raise ValueError(f"{path} is no file")  # noqa: TRY004, as above
        return node

    def _create(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        if name not in folder.live:
            folder.change((name, File(mode=op.number, live_mode=op.number)))

    def _bytes(self, op: Op) -> None:
        self._file(op.path).do(op)

    _write = _truncate = _extend = _bytes

    def _chmod(self, op: Op) -> None:
        node = self._node(op.path)
        if isinstance(node, File):
            node.do(op)

    def _copy(self, op: Op) -> None:
        data = self._file(op.other).live
        target = self._file(op.path)
        at = len(target.live)
        target.do(Op("write", op.path, data=data[at : at + op.number], number=at))

    def _sync(self, op: Op) -> None:
        node = self._node(op.path)
        if not isinstance(node, Link):
            node.sync()

    def _mkdir(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        folder.change((name, Folder()))

    def _symlink(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        folder.change((name, Link(op.other)))

    def _link(self, op: Op) -> None:
        folder, name = self._folder(op.other)
        folder.change((name, self._node(op.path)))

    def _unlink(self, op: Op) -> None:
        folder, name = self._folder(op.path)
        folder.change((name, None))

    _rmdir = _unlink

    def _rename(self, op: Op) -> None:
        node = self._node(op.path)
        (source, before), (target, after) = self._folder(op.path), self._folder(op.other)
        if source is target:
            source.change((before, None), (after, node))
        else:
            target.change((after, node))
            source.change((before, None))


@dataclass(slots=True)
class Census:
    """What was enumerated.

    Attributes:
        moments: Places in the trace at which states were taken.
        states: Distinct states.
        drawn: Moments at which there were too many for all of them, so that some were drawn.
    """

    moments: int = 0
    states: int = 0
    drawn: int = 0


def enumerate_states(root: Folder, ops: Sequence[Op], census: Census, seed: int = 0) -> Iterator[tuple[int, Tree]]:
    """Yield the number of operations that were done, and a tree that a power cut may leave then; each tree once.

    Args:
        root: The tree before the first operation; changed.
        ops: The trace.
        census: Counted up.
        seed: For the draws, where there are too many.
    """
    replay, seen, dice = Replay(root), set[bytes](), random.Random(seed)
    for number, op in enumerate([*ops, None]):
        if op is None or op.kind == "sync":
            census.moments += 1
            for tree in _left(root, dice, census):
                mark = _mark(tree)
                if mark not in seen:
                    seen.add(mark)
                    census.states += 1
                    yield number, tree
        if op is not None:
            replay.do(op)


def _mark(tree: Tree) -> bytes:
    hasher = hashlib.sha256()
    for path in sorted(tree):
        kind, data, mode = tree[path]
        hasher.update(f"{path}\0{kind}\0{mode}\0{len(data)}\0".encode())
        hasher.update(data)
    return hasher.digest()


def _left(root: Folder, dice: random.Random, census: Census) -> Iterator[Tree]:
    """Yield what a power cut may leave now."""
    changes = [(folder, number) for folder in _seen_folders(root) for number in range(len(folder.pending))]
    subsets, drawn = _subsets(len(changes), dice)
    census.drawn += drawn
    for subset in subsets:
        kept: dict[Folder, list[int]] = {}
        for index in subset:
            folder, number = changes[index]
            kept.setdefault(folder, []).append(number)
        files: dict[str, File] = {}
        tree: Tree = {}
        _show(root, "", kept, files, tree)
        yield from _with_bytes(tree, files, dice)


def _seen_folders(folder: Folder, path: str = "") -> Iterator[Folder]:
    """Yield the folders that some state may show, the folder itself first; each once."""
    found: dict[Folder, None] = {}

    def walk(one: Folder, place: str) -> None:
        if one in found or place.startswith(_UNSEEN):
            return
        found[one] = None
        for name, node in _entries(one):
            if isinstance(node, Folder):
                walk(node, f"{place}/{name}" if place else name)

    walk(folder, path)
    return iter(found)


def _entries(folder: Folder) -> Iterator[tuple[str, Node]]:
    yield from folder.durable.items()
    for change in folder.pending:
        yield from ((name, node) for name, node in change if node is not None)


def _subsets(count: int, dice: random.Random) -> tuple[Iterable[tuple[int, ...]], bool]:
    """Return subsets of `count` entries, each as sorted numbers, and whether there were too many for all."""
    everything = tuple(range(count))
    if count <= _ALL:
        return itertools.chain.from_iterable(
            itertools.combinations(everything, size) for size in range(count + 1)
        ), False
    few = [part for size in range(3) for part in itertools.combinations(everything, size)]
    most = [tuple(index for index in everything if index not in part) for part in few]
    draws = [tuple(index for index in everything if dice.getrandbits(1)) for _ in range(_DRAWN)]
    return dict.fromkeys([*few, *most, *draws]), True


def _show(folder: Folder, path: str, kept: dict[Folder, list[int]], files: dict[str, File], tree: Tree) -> None:
    entries = dict(folder.durable)
    for number in kept.get(folder, ()):
        for name, node in folder.pending[number]:
            _put(entries, name, node)
    for name, node in entries.items():
        place = f"{path}/{name}" if path else name
        if place.startswith(_UNSEEN):
            continue
        if isinstance(node, Folder):
            tree[place] = ("folder", b"", 0)
            _show(node, place, kept, files, tree)
        elif isinstance(node, Link):
            tree[place] = ("link", os.fsencode(node.target), 0)
        else:
            files[place] = node


def _with_bytes(tree: Tree, files: dict[str, File], dice: random.Random) -> Iterator[Tree]:
    """Yield the tree with each choice of the files' unsynced bytes; two names of one file show the same."""
    distinct = list(dict.fromkeys(file for file in files.values() if file.pending))
    options = [file.choices() for file in distinct]
    total = 1
    for choices in options:
        total *= len(choices)
    picks: Iterable[tuple[tuple[bytes, int], ...]]
    if total <= _PRODUCT:
        picks = itertools.product(*options)
    else:
        picks = [tuple(dice.choice(choices) for choices in options) for _ in range(_PRODUCT)]
        picks += [tuple(choices[end] for choices in options) for end in (0, -1)]
    for pick in picks:
        chosen = dict(zip(distinct, pick, strict=True))
        shown = dict(tree)
        for place, file in files.items():
            data, mode = chosen.get(file, (file.durable, file.mode))
            shown[place] = ("file", data, mode)
        yield shown


def lay_out(tree: Tree, place: Path, template: Path, copy: Callable[[Path, Path], Path]) -> Path:
    """Make `tree` at `place`, from a copy of `template`, which it mostly is, and return `place`.

    Args:
        tree: What to make.
        place: Where; not there yet.
        template: The tree before the trace.
        copy: Copies a tree.
    """
    copy(template, place)
    before = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*"), reverse=True)}
    for name, path in before.items():
        if name not in tree or _kind(path) != tree[name][0]:
            path.rmdir() if _kind(path) == "folder" else path.unlink()
    for name in sorted(tree):
        kind, data, mode = tree[name]
        path = place / name
        if kind == "folder":
            path.mkdir(exist_ok=True)
        elif kind == "link":
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(data))
        elif not path.exists() or path.read_bytes() != data or path.stat().st_mode & 0o7777 != mode:
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            path.chmod(mode)
    return place


def _kind(path: Path) -> str:
    return "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
