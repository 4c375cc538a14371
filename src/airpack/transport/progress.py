"""Which frames of a package were verified before, so that none is read from a medium twice."""

from collections.abc import Iterator


class Progress:
    """Verified frames, by volume and chunk, and the ranges of the stream that they cover.

    A frame is here once each of its chunks had its signed digest and every wanted byte of it was written.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self._counts: dict[int, int] = {}
        self._spans: list[tuple[int, int]] = []

    def add(self, position: int, chunk: int, parts: int, offset: int, size: int) -> None:
        """Add a frame; one that is here already changes nothing.

        Args:
            position: The volume's place in the manifest, from 0.
            chunk: Number of its first chunk, from 1.
            parts: How many chunks it has.
            offset: Where it begins in the stream, in bytes.
            size: Its length once decoded, in bytes.
        """
        if self.has(position, chunk):
            return
        bits = self._chunks.setdefault(position, bytearray())
        last = chunk + parts - 1
        bits.extend(bytes(max(0, last // 8 + 1 - len(bits))))
        for number in range(chunk, last + 1):
            bits[number // 8] |= 1 << number % 8
        self._counts[position] = self._counts.get(position, 0) + parts
        if self._spans and self._spans[-1][1] == offset:
            self._spans[-1] = self._spans[-1][0], offset + size
        else:
            self._spans.append((offset, offset + size))

    def has(self, position: int, chunk: int) -> bool:
        """Return whether the frame that begins with `chunk` of the volume at `position` is here."""
        bits = self._chunks.get(position, b"")
        return chunk // 8 < len(bits) and bool(bits[chunk // 8] >> chunk % 8 & 1)

    def count(self, position: int) -> int:
        """Return how many chunks of the volume at `position` are here."""
        return self._counts.get(position, 0)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield start and stop of the ranges of the stream that are here, in no order, none twice."""
        yield from self._spans
