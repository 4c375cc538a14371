"""One frame: read, hashed, and only then decoded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from airpack.errors import IntegrityError
from airpack.formats.volume import PREFIX, Chunk, Codec, Frame
from airpack.transport import codec
from airpack.transport.damage import Finding, Kind
from airpack.transport.plan import Piece
from airpack.transport.volumes import Media

Bases = Callable[[int, int, int], bytes]
"""Returns bytes of a base file: its number in the manifest from 1, offset and length in bytes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A frame to be read, and which parts of it are wanted.

    Attributes:
        position: The volume's place in the manifest.
        frame: What it must be.
        pieces: The parts of wanted files, none where it is only hashed.
    """

    position: int
    frame: Frame
    pieces: list[Piece]

    @property
    def cost(self) -> int:
        """Bytes that it and what becomes of it occupy, about."""
        frame = self.frame
        base = PREFIX if frame.codec is Codec.PATCH else frame.size if frame.codec.has_base else 0
        return frame.stored + frame.size + base


@dataclass(frozen=True, slots=True)
class Job:
    """A frame as read: what was planned, and its stored bytes; None where some could not be had at all."""

    plan: Plan
    stored: bytearray | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a frame.

    Attributes:
        plan: What was planned.
        data: The frame's bytes; None where they are not wanted, or cannot be had.
        bad: Which of its chunks are not as signed, counted from 0.
        stored: Its stored bytes, where some are bad.
        is_lost: Whether some of its stored bytes could not be had at all.
    """

    plan: Plan
    data: memoryview | None = None
    bad: tuple[int, ...] = ()
    stored: bytearray | None = None
    is_lost: bool = False


class Decoder:
    """Reads, checks and decodes the frames of one package.

    Args:
        media: Its volumes.
        bases: Gives bytes of base files; None where they are not at hand.
    """

    def __init__(self, media: Media, bases: Bases | None) -> None:
        self._media, self._bases = media, bases
        self._base_sizes = [file.size for file in media.manifest.base_files]

    def read(self, plan: Plan) -> Job:
        """Read a frame's stored bytes as the first copy has them, or as rescues do where there is none."""
        if plan.frame.codec is Codec.BASE:
            return Job(plan, bytearray())
        if self._media.volumes[plan.position].is_there:
            return Job(plan, self._media.read(plan.position, plan.frame.chunks))
        found = [self._media.chunk(plan.position, chunk) for chunk in plan.frame.chunks]
        return Job(plan, None if None in found else bytearray().join(part for part in found if part is not None))

    def check(self, job: Job) -> Checked:
        """Compare each chunk's digest, and only then decode the frame.

        Raises:
            IntegrityError: Its chunks are as signed, but it is not what the table says.
        """
        plan, stored = job.plan, job.stored
        if stored is None:
            return Checked(plan, is_lost=True)
        if plan.frame.codec is not Codec.BASE and (bad := _differing(plan.frame, stored)):
            return Checked(plan, bad=bad, stored=stored)
        return Checked(plan, self._decode(plan, stored))

    def mend(self, checked: Checked) -> Checked:
        """Ask other sources for the chunks that are not as signed; where all are had, decode the frame."""
        plan, stored = checked.plan, checked.stored
        if stored is None:
            return checked
        at = 0
        for number, chunk in enumerate(plan.frame.chunks):
            data = self._media.chunk(plan.position, chunk, was_read=True) if number in checked.bad else None
            if data is not None:
                stored[at : at + chunk.stored] = data
            at += chunk.stored
        return self.check(Job(plan, stored))

    def _decode(self, plan: Plan, stored: bytearray) -> memoryview | None:
        """Return the frame in `stored`, each chunk of which has its digest; None where it is not wanted."""
        frame = plan.frame
        if not plan.pieces or (frame.codec.has_base and self._bases is None):
            return None
        try:
            if frame.codec is Codec.BASE:
                return memoryview(self._range(frame))
            return memoryview(codec.decode(frame.codec, stored, frame.size, self._base(frame)))
        except IntegrityError as error:
            raise wrong(self._media, plan.position, f"is not what the table says: {error}", *frame.chunks) from error

    def _range(self, frame: Frame) -> bytes:
        """Return a frame of which nothing is stored."""
        data = self._base(frame)
        if data is None or hashlib.sha256(data).digest() != frame.chunks[0].digest:
            raise IntegrityError("the range of the base file has another digest")
        return data

    def _base(self, frame: Frame) -> bytes | None:
        """Return the bytes of the base file that a frame builds on."""
        if self._bases is None or not frame.codec.has_base:
            return None
        length = frame.size
        if frame.codec is Codec.PATCH:
            length = min(PREFIX, self._base_sizes[frame.base - 1] - frame.base_offset)
        return self._bases(frame.base, frame.base_offset, length)


def wrong(media: Media, position: int, what: str, *chunks: Chunk, hint: str = "") -> IntegrityError:
    """Return the error that neighbouring chunks of a volume are as signed, but wrong; number 0 is the table."""
    volume, info, first, last = media.volumes[position], media.manifest.volumes[position], chunks[0], chunks[-1]
    length = last.offset + last.stored - first.offset
    numbers = f"chunk {first.number}" + (f" to {last.number}" if last is not first else "")
    part = f"{numbers} of {info.entries}" if first.number else "chunk table"
    path = next((copy.path for copy in volume.copies), media.folders[0] / volume.name)
    line = f"volume {path}: {part}, bytes {first.offset} to {first.offset + length}, {what}"
    finding = Finding(position, first.offset, length, Kind.DAMAGED, line, path, volume.name, first.number, hint)
    error = finding.error()
    assert isinstance(error, IntegrityError)
    return error


def _differing(frame: Frame, stored: bytearray) -> tuple[int, ...]:
    """Return which of the frame's chunks do not have their digest, counted from 0."""
    at, view, bad = 0, memoryview(stored), []
    for number, chunk in enumerate(frame.chunks):
        if hashlib.sha256(view[at : at + chunk.stored]).digest() != chunk.digest:
            bad.append(number)
        at += chunk.stored
    return tuple(bad)
