"""Facts: what a file, or each file of a folder, is by its bytes, and what runtime they are together, if one.

Needs no workspace and no site, changes nothing.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airpack import fsops
from airpack.errors import IncompatibleError, InputError, IntegrityError, StorageError
from airpack.facts.model import fit_together, read_facts
from airpack.facts.runtime import runtime_facts, tells
from airpack.formats.facts import Facts, ModelFacts, Problem, clip
from airpack.formats.runtimefacts import RuntimeFacts
from airpack.types import Limits

SCHEMA: Final = "airpack.facts-report/1"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found at a path.

    Attributes:
        path: The file or folder.
        facts: What is there, file by file.
        runtime: What runtime that is; None where it is none, or cannot be read as one.
        unread: Why it cannot be read as one, if so.
    """

    path: Path
    facts: ModelFacts
    runtime: RuntimeFacts | None = None
    unread: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that is wrong, each with its path; of a file that is no model, what it lacks as part of a runtime."""
        own = self.facts.all_problems
        said = {item.path for item in own}
        runtime = () if self.runtime is None else self.runtime.all_problems
        return (*own, *(item for item in runtime if item.path not in said), *self.unread)

    def document(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "schema": SCHEMA,
            "ok": not self.problems,
            "path": str(self.path),
            "files": self.facts.document()["files"],
            "problems": [{"path": item.path, "reason": item.reason, "at": item.at} for item in self.problems],
            "runtime": None if self.runtime is None else self.runtime.to_dict(),
        }

    def check(self) -> None:
        """Refuse what is not what it says, or could not be read: it is unknown.

        Raises:
            IncompatibleError: There is a problem.
        """
        if self.problems:
            first, more = self.problems[0], len(self.problems) - 1
            error = IncompatibleError(
                f"{first.path}: {first.reason}" + (f", and {more} more" if more else ""),
                hint="fetch or export it again; what cannot be read is unknown, and unknown refuses",
            )
            error.document = self.document()
            raise error


def find_facts(path: Path) -> Found:
    """Return what the file at `path`, or each file below the folder at `path`, is, and what is wrong with it.

    Where one is native code, a wheel, or part of a Python project, all are read as a runtime too.
    `path` itself may be a link; below it none is followed, as none is packed.

    Raises:
        NotFoundError: There is nothing.
        InputError: It is neither a regular file nor a folder, or holds too many files.
        StorageError: It cannot be read.
    """
    path = path.absolute()
    real = _real(path)
    if not _is_folder(real):
        try:
            return _with_runtime(path, real, ModelFacts((_facts(real, path.name),)))
        except IntegrityError as error:
            raise InputError(f"{path} is neither a file nor a folder", path=str(path)) from error
    found: list[Facts] = []
    for file in sorted(_walk(real)):
        if len(found) == Limits.FILES:
            raise InputError(f"{path} holds more than {Limits.FILES} files", path=str(path))
        found.append(_below(file, file.relative_to(real).as_posix()))
    files = tuple(found)
    return _with_runtime(path, real, ModelFacts(files, fit_together(files)))


def _with_runtime(path: Path, real: Path, facts: ModelFacts) -> Found:
    """Return what was found, with what runtime the files are together."""
    if not any(tells(file.path, file.format) for file in facts.files):
        return Found(path, facts)
    try:
        return Found(path, facts, runtime_facts(real))
    except (InputError, IntegrityError) as error:  # a wheel that is none, or is not what it says: unknown, and said so
        name = "." if _is_folder(real) else path.name
        return Found(path, facts, unread=(Problem(clip(error.message, 1000), None, name),))


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise StorageError(f"cannot look at {path}: {error}", path=str(path)) from error


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False  # opening it says so
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror}", path=str(path)) from error


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise StorageError(f"cannot read folder {error.filename}: {error.strerror}", path=str(error.filename))

    for parent, folders, files in os.walk(folder, onerror=fail):
        for name in files + [name for name in folders if Path(parent, name).is_symlink()]:
            yield Path(parent, name)


def _below(path: Path, name: str) -> Facts:
    """Return the facts of a file in a folder; of what is no regular file, that it is none."""
    try:
        return _facts(path, name)
    except IntegrityError:
        return Facts(name, 0, "data", problems=(Problem("a link or a device, which is never packed"),))


def _facts(path: Path, name: str) -> Facts:
    descriptor = fsops.open_regular(path)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            return read_facts(name, stream, os.fstat(descriptor).st_size)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
