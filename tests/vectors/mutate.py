"""Changes one byte of a good package, or cuts it, and offers it to a site: `./scripts/mutate N [--seed S]`.

1. A byte of any listed file has another value, or any listed file is cut anywhere: the import must end in an airpack
   error, and never in success.
2. The same with a head whose checksum line was made right again, which is what a hostile hand does: an error, or a
   success that brings exactly the signed release, for a referrer's annotations are for other tools and nobody signs
   them.
3. `list`, `status`, `current` and the store are then as before: the catalog's bytes, the links, every stored blob.

The site holds and runs another release, and none of the package's chunks. Each trial is known by the seed and its
number, so that one alone can be run again: `./scripts/mutate 1 --seed S --first NUMBER`.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.vectors.vectors import HERE, ROOT, Vector

from airpack.errors import AirpackError
from airpack.ops.activate import activate
from airpack.ops.import_ import import_package
from airpack.ops.probes import isolation_available
from airpack.ops.site import Site
from airpack.ops.status import releases, row_document, status
from airpack.store.blobs import hash_file
from airpack.types import Digest

PACKAGES: Final = ("plain_ok", "many_ok", "parts_ok")
HELD: Final = "second_ok"
_FRESH: Final = 100  # trials at one site: its log grows with each, and is verified by each
_FULL: Final = 100  # every so manieth trial asks the operations too, not only the files
_SAID: Final = 1000  # trials between two lines of progress
_CUT: Final = 0.15  # share of trials that cut
_EMPTY: set[tuple[str, int]] = set()
_RESEALED: Final = 0.5  # share of trials with a head that make its checksum right


class ViolationError(Exception):
    """What must never be."""


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        package: The vector that is changed.
        file: The file's name.
        at: Which byte, or the length to cut to.
        value: The byte's new value; None to cut.
        resealed: Whether the head's checksum line is made right again.
    """

    package: str
    file: str
    at: int
    value: int | None
    resealed: bool

    @classmethod
    def draw(cls, chance: random.Random, packages: Mapping[str, Mapping[str, bytes]]) -> "Mutation":
        """Return a random change."""
        package = chance.choice(sorted(packages))
        file = chance.choice(sorted(packages[package]))
        data = packages[package][file]
        resealed = file.endswith(".airpack") and chance.random() < _RESEALED
        at = chance.randrange(len(data) - 73 if resealed else len(data))
        value = None if chance.random() < _CUT else (data[at] + chance.randrange(1, 256)) % 256
        return cls(package, file, at, value, resealed)

    def apply(self, data: bytes) -> bytes:
        """Return the changed bytes of the file."""
        text = data[:-73] if self.resealed else data  # a newline, and the line of 72 bytes
        text = text[: self.at] if self.value is None else text[: self.at] + bytes([self.value]) + text[self.at + 1 :]
        if not self.resealed:
            return text
        body = text + b"\n"
        return body + f"{Digest.of(body)}\n".encode()

    @property
    def kind(self) -> str:
        """What was done, for the count."""
        part = "head" if self.file.endswith(".airpack") else "volume"
        return f"{part}, {'cut' if self.value is None else 'byte'}{', checksum made right' if self.resealed else ''}"


class Range:
    """A site and media in a folder of its own, where mutations are tried.

    Attributes:
        packages: Vector -> file name -> bytes, of what is changed.
        site: The site that it is offered to, made anew now and then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = Vector.load(HERE / HELD).now
        self.packages = {name: Vector.load(HERE / name).files() for name in PACKAGES}
        for name in (*PACKAGES, HELD):
            Vector.load(HERE / name).lay_out(folder / name)
        self._make_template()
        self.site = self._open("template")
        self._renew()

    def _make_template(self) -> None:
        Site.create(self._folder / "template", root=ROOT.read_bytes(), minimum={})
        if not isolation_available():
            policy = self._folder / "template/policy.toml"
            policy.write_text(policy.read_text().replace("allow_unisolated = false", "allow_unisolated = true"))
        site = self._open("template")
        import_package(site, [self._folder / HELD])
        activate(site, "tool@1.1.0")
        site.catalog.close()

    def _open(self, name: str) -> Site:
        site = Site.open(self._folder / name)
        site.now = lambda: self._now
        return site

    def _renew(self) -> None:
        """Begin with a fresh site."""
        if (self._folder / "site").exists():
            self.site.catalog.close()
            for parent, _, _ in os.walk(self._folder / "site"):
                Path(parent).chmod(0o700)
            shutil.rmtree(self._folder / "site")
        shutil.copytree(self._folder / "template", self._folder / "site", symlinks=True)
        self.site, self._trials = self._open("site"), 0
        self._before = visible_files(self.site.root)
        self._asked = asked(self.site)

    def control(self) -> None:
        """See that the packages are imported as long as nobody changes them."""
        for name in PACKAGES:
            import_package(self.site, [self._folder / name])
            self._renew()

    def attempt(self, mutation: Mutation) -> str:
        """Offer the changed package and return the error's code, `same release` for a success that rule 2 allows.

        Raises:
            ViolationError: A rule does not hold.
        """
        if self._trials >= _FRESH:
            self._renew()
        self._trials += 1
        medium, data = self._folder / mutation.package, self.packages[mutation.package][mutation.file]
        (medium / mutation.file).write_bytes(mutation.apply(data))
        try:
            import_package(self.site, [medium])
        except AirpackError as error:
            if error.exit_code == AirpackError.exit_code:
                raise ViolationError(f"an error without a class of its own: {error.message}") from error
            code = error.code
        except Exception as error:
            raise ViolationError(f"{type(error).__name__}: {error}") from error
        else:
            self._check_success(mutation)
            self._renew()
            return "same release"
        finally:
            (medium / mutation.file).write_bytes(data)
        self._check_unchanged()
        return code

    def _check_success(self, mutation: Mutation) -> None:
        expected = Vector.load(HERE / mutation.package).expect["import"]
        held = [row for row in releases(self.site) if f"{row.product}@{row.version}" == expected["name"]]
        if not mutation.resealed or [str(row.digest) for row in held] != [expected["release"]]:
            raise ViolationError("it was imported")
        for blob in (self.site.root / "store").rglob("*"):
            if blob.is_file() and hash_file(blob)[0].hex != blob.name:
                raise ViolationError(f"the store holds {blob.name} with other bytes")

    def _check_unchanged(self) -> None:
        if visible_files(self.site.root) != self._before:
            raise ViolationError("something visible changed")
        if self._trials % _FULL == 0 and asked(self.site) != self._asked:
            raise ViolationError("list or status says something else")


def visible_files(root: Path) -> dict[str, Any]:
    """Return the files that a refusal leaves as they are: catalog, links, store, generations, receipts."""
    found: dict[str, Any] = {"catalog": (root / "catalog.db").read_bytes()}
    for name in ("store", "generations", "evidence/receipts", "products"):
        _look(root / name, found)
    return found


def _look(folder: Path, found: dict[str, Any]) -> None:
    """Add what stands below `folder`. A folder without names in it is not opened: its time says that it still is."""
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            target = str(Path(entry.path).readlink()) if entry.is_symlink() else ""
            found[entry.path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_nlink, target)
            if entry.is_dir(follow_symlinks=False) and (entry.path, status.st_mtime_ns) not in _EMPTY:
                before = len(found)
                _look(Path(entry.path), found)
                if len(found) == before:
                    _EMPTY.add((entry.path, status.st_mtime_ns))


def asked(site: Site) -> tuple[Any, ...]:
    """Return what `list` and `status` say; how many records there are, and how fresh the channel is, may change."""
    return [row_document(row) for row in releases(site)], status(site).document()["products"]


@contextmanager
def quick() -> Iterator[None]:
    """Leave out what only a power cut would show: this is about hostile bytes."""
    with patch.object(os, "fsync", lambda _descriptor: None):
        yield


def chance(seed: int, number: int) -> random.Random:
    """Return the randomness of one trial."""
    return random.Random(f"{seed}/{number}")


def run(count: int, seed: int, first: int = 0) -> int:
    """Run `count` trials from `first` on, or until Ctrl-C; print the count of each end, and return the exit code."""
    ends: Counter[tuple[str, str]] = Counter()
    violations, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="airpack-mutate-") as folder, quick(), suppress(KeyboardInterrupt):
        place = Range(Path(folder))
        place.control()
        for number in range(first, first + count):
            mutation = Mutation.draw(chance(seed, number), place.packages)
            try:
                ends[mutation.kind, place.attempt(mutation)] += 1
            except ViolationError as error:
                violations += 1
                print(
                    f"VIOLATION: {error}\n  {mutation}\n  ./scripts/mutate 1 --seed {seed} --first {number}", flush=True
                )
                place = Range(Path(tempfile.mkdtemp(dir=folder)))
            if (number + 1 - first) % _SAID == 0:
                print(f"{number + 1 - first} of {count}, {time.monotonic() - began:.0f} s", flush=True)
    for (kind, end), times in sorted(ends.items()):
        print(f"{times:8}  {kind}: {end}")
    seconds = time.monotonic() - began
    print(f"{ends.total() + violations} trials, seed {seed}, {seconds:.0f} s, {violations} violations")
    return 1 if violations else 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=1000, help="how many trials")
    parser.add_argument("--seed", type=int, default=1, help="what they are drawn from")
    parser.add_argument("--first", type=int, default=0, help="number of the first one: each is drawn alone")
    words = parser.parse_args()
    return run(words.count, words.seed, words.first)


if __name__ == "__main__":
    sys.exit(main())
