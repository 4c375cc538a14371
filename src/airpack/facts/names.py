"""Whether names stand in the data of an ELF file, and what they stand beside.

    find_names(elf, ["gemma4", "llama"])   ->  {"llama": 3345125}

A name counts where a NUL ends it, whatever stands before: a linker keeps `bert` as the tail of `modern-bert`. So a name
that is *absent* was never compiled in, as data: refusing for it is sound wherever the maker of the program keeps such
names as data, which each reader checks by names that every build has. A name that is *present* proves nothing.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from airpack.facts.elf import Elf, Segment
from airpack.facts.reader import MalformedError

_NAMES: Final = 4096  # names looked for at once
_NAME: Final = 256  # bytes of one


def find_names(elf: Elf, names: Collection[str]) -> Mapping[str, int]:
    """Return where those of `names` stand that stand in the file's data, each at its first place.

    Args:
        elf: The file.
        names: At most 4096 names, each of at most 256 bytes.

    Raises:
        MalformedError: More or longer names, or the file's segments lie outside it.
        StorageError: It cannot be read.
    """
    missing = {name.encode() + b"\0": name for name in names}
    if len(missing) > _NAMES or any(len(name) > _NAME + 1 or len(name) == 1 for name in missing):
        raise MalformedError(f"more than {_NAMES} names, or names longer than {_NAME} bytes, are looked for", 0)
    found: dict[str, int] = {}
    for at, piece in data_of(elf, overlap=max(map(len, missing), default=0)):
        for name in list(missing):
            here = piece.find(name)
            if here >= 0:
                found[missing.pop(name)] = at + here
        if not missing:
            break
    return found


def search(elf: Elf, pattern: "re.Pattern[bytes]", *, longest: int) -> Iterator[tuple[int, "re.Match[bytes]"]]:
    """Yield the place and the match of each thing of at most `longest` bytes that `pattern` finds in the file's data.

    What lies where two pieces meet may come twice; raises as `find_names`.
    """
    for at, piece in data_of(elf, overlap=longest):
        for match in pattern.finditer(piece):
            elf.reader.step(at)
            yield at + match.start(), match


def data_of(elf: Elf, *, overlap: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of all that is loaded and not run; of everything where data and code lie together."""
    for load in _readable(elf):
        yield from elf.reader.pieces(load.offset, load.offset + load.size, overlap=overlap)


def _readable(elf: Elf) -> list[Segment]:
    data = [load for load in elf.loads if not load.executable]
    return data if any(not load.writable for load in data) else elf.loads
