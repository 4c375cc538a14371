"""What the unmodified command line does to a site's disk, read from `strace`: SQLite's system calls are among it.

Only calls that change the tree below one folder become operations. A call that would change it in a way that is not
modelled here is an error, never passed over.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CALLS: Final = (
    "openat,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,rename,"
    "renameat,renameat2,link,linkat,unlink,unlinkat,symlink,symlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,"
    "fchmod,chmod,fchmodat"
)
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_LONGEST: Final = 1 << 24  # bytes of a string that strace prints whole
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?:<([^>]*)>)?(.*)$", re.DOTALL)
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$", re.DOTALL)
_WORD = re.compile(
    r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?|(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?|(.+)', re.DOTALL
)


def why_not() -> str:
    """Return why nothing can be traced here, "" where it can."""
    if shutil.which("strace") is None:
        return "no strace here: on Debian, apt-get install strace"
    done = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace cannot trace here: {done.stderr.strip()}" if done.returncode else ""


@dataclass(frozen=True, slots=True)
class Op:
    """One change of the tree, or one sync.

    Attributes:
        kind: create, write, truncate, extend, sync, rename, link, unlink, symlink, mkdir, rmdir or chmod.
        path: Relative to the traced folder, "" for the folder itself.
        other: The new name of a rename or a link; what a symbolic link says.
        data: Bytes written.
        number: Offset of a write, new size, or mode.
    """

    kind: str
    path: str
    other: str = ""
    data: bytes = field(default=b"", repr=False)
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Word:
    """One argument: a string, a descriptor with its path, or anything else as text."""

    text: str
    path: str | None = None
    data: bytes | None = None

    @property
    def number(self) -> int:
        return int(self.text, 0) if not self.text.startswith("0") else int(self.text, 8)


def record(root: Path, command: Sequence[str | Path], output: Path, *, code: int = 0) -> list[Op]:
    """Run `command` under strace, in this repository's folder, and return what it did below `root`.

    Args:
        root: The folder that counts, absolute and without links in it.
        command: Its words.
        output: A file for strace.
        code: The exit code that it must end with.

    Raises:
        OSError: The command ended otherwise.
        ValueError: It did something that is not modelled.
    """
    words = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        str(_LONGEST),
        "-e",
        f"trace={CALLS}",
        "-o",
        str(output),
    ]
    done = subprocess.run([*words, *map(str, command)], capture_output=True, text=True, check=False, cwd=_REPOSITORY)
    if done.returncode != code:
        raise OSError(f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return list(_Reader(root).read(_joined(output.read_text("ascii").splitlines())))


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Yield whole calls: strace cuts those in two during which another thread did something."""
    begun: dict[str, str] = {}
    for line in lines:
        if match := _UNFINISHED.match(line):
            begun[match[1]] = match[2]
        elif match := _RESUMED.match(line):
            yield f"{match[1]} {begun.pop(match[1])}{match[2]}"
        else:
            yield line


class _Reader:
    """Turns calls into operations; follows file offsets, and contents as far as they are copied in the kernel."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._offsets: dict[tuple[str, str], int] = {}  # (descriptor, path) -> where the next write goes

    def read(self, lines: Iterator[str]) -> Iterator[Op]:
        for line in lines:
            match = _CALL.match(line)
            if match is None or match[4] == "?" or int(match[4]) < 0:
                continue  # a signal, an exit, or a call that failed
            words = [_word(text) for text in match[3].split(", ")]
            if any(self._below(word) is not None for word in words):
                yield from self._op(match[2], words, int(match[4]), line)

    def _below(self, word: _Word) -> str | None:
        """Return a word's path relative to the root, None where it lies elsewhere."""
        path = word.path if word.path is not None else os.fsdecode(word.data) if word.data is not None else None
        if path is None or not (path == self._root or path.startswith(self._root + "/")):
            return None
        return path[len(self._root) + 1 :]

    def _place(self, folder: _Word | None, name: _Word) -> str | None:
        """Return the path that a call names, by itself or below an open folder, relative to the root; None outside."""
        assert name.data is not None
        text = os.fsdecode(name.data)
        if not text.startswith("/") and folder is not None and folder.path is not None:
            text = f"{folder.path}/{text}"
        return self._below(_Word("", path=os.path.normpath(text)))

    def _op(self, call: str, words: list[_Word], result: int, line: str) -> Iterator[Op]:
        if call == "openat":
            return self._opened(words, result)
        if call in _NAMED:
            return self._named(call, words, line)
        if call in {"lseek", "write", "pwrite64", "sendfile"}:
            return self._moved(call, words, result, line)
        place, number = self._below(words[0]) or "", words[1].number if len(words) > 1 else 0
        if call == "fallocate":
            return iter([Op("extend", place, number=words[2].number + words[3].number)])
        if call not in _PLAIN:
            raise ValueError(f"not modelled: {line[:300]}")
        return iter([Op(_PLAIN[call], place, number=number)])

    def _moved(self, call: str, words: list[_Word], result: int, line: str) -> Iterator[Op]:
        """Yield what a call writes, at the offset that it or the calls before it say."""
        place = self._below(words[0])
        if place is None:
            return  # something of the folder is copied out of it
        key = (words[0].text, words[0].path or "")
        if call == "lseek":
            self._offsets[key] = result
        elif call == "pwrite64":
            yield Op("write", place, data=(words[1].data or b"")[:result], number=words[3].number)
        elif call == "sendfile":
            yield Op("copy", place, self._below(words[1]) or _outside(words[1], line), number=result)
        else:
            at = self._offsets.get(key, 0)
            self._offsets[key] = at + result
            yield Op("write", place, data=(words[1].data or b"")[:result], number=at)

    def _opened(self, words: list[_Word], descriptor: int) -> Iterator[Op]:
        place, flags = self._place(words[0], words[1]), words[2].text.split("|")
        if place is None:
            return
        self._offsets[str(descriptor), f"{self._root}/{place}"] = 0
        if "O_CREAT" in flags:
            yield Op("create", place, number=words[3].number)
        if "O_TRUNC" in flags:
            yield Op("truncate", place)

    def _named(self, call: str, words: list[_Word], line: str) -> Iterator[Op]:
        """Yield the operation of a call that takes names, with open folders before them or not."""
        base = call.removesuffix("2").removesuffix("at")
        at = call != base
        if base == "symlink":
            assert words[0].data is not None
            places, other = [self._place(words[1] if at else None, words[-1])], os.fsdecode(words[0].data)
        elif base in {"rename", "link"}:
            names = ((words[0], words[1]), (words[2], words[3])) if at else ((None, words[0]), (None, words[1]))
            places = [self._place(*name) for name in names]
            other = places[1] or ""
        else:
            places, other = [self._place(words[0] if at else None, words[1 if at else 0])], ""
        inside = [place for place in places if place is not None]
        if len(inside) != len(places) and inside:
            raise ValueError(f"a name leads out of the traced folder: {line[:300]}")
        if inside:
            removed = at and base == "unlink" and words[2].text == "AT_REMOVEDIR"
            mode = words[2 if at else 1].number if base in {"chmod", "fchmod"} else 0
            yield Op("rmdir" if removed else "chmod" if mode else base, inside[0], other, number=mode)


_PLAIN: Final = {"ftruncate": "truncate", "fsync": "sync", "fdatasync": "sync", "fchmod": "chmod"}
_NAMED: Final = frozenset(
    {
        *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "symlink", "symlinkat"),
        *("mkdir", "mkdirat", "rmdir", "chmod", "fchmodat"),
    }
)


def _outside(word: _Word, line: str) -> str:
    raise ValueError(f"bytes come from outside the traced folder by the kernel alone: {word.path} in {line[:200]}")


def _word(text: str) -> _Word:
    match = _WORD.fullmatch(text)
    if match is None:
        return _Word("")
    if match[1] is not None:
        if match[2]:
            raise ValueError("strace cut a string short")
        return _Word("", data=bytes.fromhex(match[1].replace("\\x", "")))
    if match[3] is not None:
        return _Word(match[3], path=os.fsdecode(bytes.fromhex(match[4].replace("\\x", ""))))
    return _Word(match[5])


def count(ops: Sequence[Op]) -> Mapping[str, int]:
    """Return kind -> how many."""
    kinds = sorted({op.kind for op in ops})
    return {kind: sum(op.kind == kind for op in ops) for kind in kinds}
