"""Which bytes of which files make up each frame. Pure arithmetic: no disk, no codec.

The stream is all files end to end. Its frames (docs/spec/package.md section 5):

1. a file of `FRAME` bytes or more is cut into frames of `FRAME` bytes from its own start; the last may be shorter;
2. smaller files are gathered, in stream order, into frames of at most `FRAME` bytes; a file is never split for that;
3. an empty file has no frame.

Readers rely on none of this, only on frames that cover the stream in order: a later writer may plan otherwise.
"""

import itertools
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from airpack.formats.package import FileInfo
from airpack.formats.volume import ENTRY, HEADER
from airpack.types import Digest, Limits

FRAME: Final = Limits.CHUNK  # bytes before coding
SMALLEST_VOLUME: Final = 2 << 20  # bytes: the smallest table and one chunk always fit

_SLOTS_PER_MIB = 4  # frames that compress to a quarter still fill a volume
_FEWEST_SLOTS = 64
_MOST_SLOTS = 1 << 18  # a table of 16 MiB, so that memory stays bounded whatever the size of a volume


def is_small(size: int) -> bool:
    """Return whether a file of `size` bytes shares frames with its neighbours."""
    return size < FRAME


def cuts(size: int) -> Iterator[int]:
    """Yield the lengths in bytes of the frames of one large file of `size` bytes, in order."""
    for start in range(0, size, FRAME):
        yield min(FRAME, size - start)


def count_frames(sizes: Iterable[int]) -> int:
    """Return how many frames files of these sizes (bytes, in stream order) need.

    Law: leaving files out never needs more frames, so this bounds a stream whose equal files are stored once.
    """
    frames, gathered = 0, 0
    for size in sizes:
        if not is_small(size):
            frames, gathered = frames + -(-size // FRAME), 0
        elif size and 0 < gathered <= FRAME - size:
            gathered += size
        elif size:
            frames, gathered = frames + 1, size
    return frames


def count_slots(frames_left: int, volume_size: int) -> int:
    """Return how many table entries to reserve in a new volume.

    Args:
        frames_left: Upper bound of the frames still to be written, one chunk each.
        volume_size: Largest length of the volume file in bytes, at least `SMALLEST_VOLUME`.
    """
    cap = min(max(_SLOTS_PER_MIB * (volume_size >> 20), _FEWEST_SLOTS), _MOST_SLOTS)
    return min(frames_left, cap)


def first_chunk(slots: int) -> int:
    """Return where chunks begin in a volume of `slots` table entries, in bytes."""
    return HEADER + slots * ENTRY


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of one file inside one frame.

    Attributes:
        file: Position of the file in the manifest.
        start: First byte, counted in the frame.
        stop: End, counted in the frame.
    """

    file: int
    start: int
    stop: int


class Stream:
    """Where the files of a package lie in its stream, and which of them are wanted.

    Args:
        files: The manifest's files, in stream order.
        wanted: Digests of the files to deliver.
    """

    def __init__(self, files: tuple[FileInfo, ...], wanted: Container[Digest]) -> None:
        ends = itertools.accumulate(file.size for file in files)
        self._ends = list(ends)
        self._wanted = [file.digest in wanted for file in files]
        self.wanted = [number for number, is_wanted in enumerate(self._wanted) if is_wanted]

    @property
    def total(self) -> int:
        """Length of the stream in bytes."""
        return self._ends[-1] if self._ends else 0

    def pieces(self, offset: int, size: int) -> list[Piece]:
        """Return the parts of wanted files in the frame of `size` bytes at `offset` of the stream, in order."""
        found: list[Piece] = []
        stop = offset + size
        file = bisect_right(self._ends, offset)  # the first file that ends beyond `offset`
        while offset < stop:
            end = min(self._ends[file], stop)
            if self._wanted[file] and end > offset:
                found.append(Piece(file, offset - stop + size, end - stop + size))
            offset, file = end, file + 1
        return found
