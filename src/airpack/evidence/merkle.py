"""The Merkle tree of the evidence log: RFC 6962 section 2.1, with SHA-256.

    leaf  = SHA-256(0x00 || record)
    node  = SHA-256(0x01 || left || right)
    root of no records = SHA-256 of nothing

The left subtree of n records holds the largest power of two smaller than n. Two views of the same tree: `Frontier`, the
few hashes needed to go on appending (what an incremental export carries), and `Tree`, which has every level and makes
proofs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HASH: Final = 32  # bytes
EMPTY_ROOT: Final = hashlib.sha256().digest()


def leaf_hash(record: bytes) -> bytes:
    """Return the 32-byte hash of a leaf whose content is `record`."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of the node above `left` and `right`."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """The compact range of the first `size` leaves: the roots of its perfect subtrees.

    Law: appending leaves m to n-1 to the frontier of m leaves gives the frontier of n leaves.

    Attributes:
        size: Number of leaves.
        hashes: One 32-byte hash for each one bit of `size`, the largest subtree first.

    Raises:
        ValueError: The number or length of the hashes does not fit `size`.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise ValueError(f"{len(self.hashes)} hashes are not the compact range of {self.size} leaves")
        if any(len(digest) != HASH for digest in self.hashes):
            raise ValueError(f"a hash of a compact range has {HASH} bytes")

    def append(self, leaf: bytes) -> "Frontier":
        """Return the frontier with the leaf hash `leaf` added; O(log size)."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> "Frontier":
        """Return the frontier with all leaf hashes `leaves` added, in order."""
        hashes, size = list(self.hashes), self.size
        for leaf in leaves:
            index, above = size, leaf
            while index & 1:
                index, above = index >> 1, node_hash(hashes.pop(), above)
            hashes.append(above)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """Return the 32-byte root of the tree."""
        if not self.hashes:
            return EMPTY_ROOT
        result = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            result = node_hash(left, result)
        return result


class Tree:
    """Every perfect subtree over `leaves`, for roots and proofs at any size up to theirs; about 64 bytes a leaf.

    Args:
        leaves: Leaf hashes, 32 bytes each, in order.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = list(leaves)
        self.size = len(level)
        self._levels = [level]  # _levels[k][i] is the root of the leaves from i * 2**k up to (i + 1) * 2**k
        while len(level) > 1:
            level = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
            self._levels.append(level)

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` leaves.

        Raises:
            ValueError: There are fewer leaves.
        """
        self._check(size <= self.size, size)
        return self._range(0, size) if size else EMPTY_ROOT

    def frontier(self, size: int) -> Frontier:
        """Return the compact range of the first `size` leaves.

        Raises:
            ValueError: There are fewer leaves.
        """
        self._check(size <= self.size, size)
        hashes, start = [], 0
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                hashes.append(self._levels[level][start >> level])
                start += 1 << level
        return Frontier(size, tuple(hashes))

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the audit path of leaf `index` (0-based) in the tree of `size` leaves: RFC 6962 section 2.1.1.

        Raises:
            ValueError: There is no such leaf.
        """
        self._check(0 <= index < size <= self.size, size)
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of `old` leaves is a prefix of that of `size`: RFC 6962 section 2.1.2.

        Raises:
            ValueError: `old` exceeds `size`, or `size` the leaves there are.
        """
        self._check(0 <= old <= size <= self.size, size)
        path: list[bytes] = []
        if old in {0, size}:
            return ()
        start, end, whole = 0, size, True  # `whole`: the old root is still among what the verifier knows
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._range(start, end))
        return tuple(reversed(path))

    def _check(self, holds: bool, size: int) -> None:
        if not holds:
            raise ValueError(f"the tree has {self.size} leaves; no such range below {size}")

    def _range(self, start: int, end: int) -> bytes:
        """Return the root over the leaves `start` up to `end`; `start` is aligned to the power of two at or above."""
        count = end - start
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._levels[level][start >> level]
        middle = start + _split(count)
        return node_hash(self._range(start, middle), self._range(middle, end))


def _split(count: int) -> int:
    """Return the largest power of two smaller than `count` (at least 2)."""
    return 1 << (count - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether `path` proves that the leaf hash `leaf` is number `index` of the `size` leaves under `root`.

    The iterative form of RFC 6962 section 2.1.1, written out in RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    position, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and result == root


def verify_consistency(old: int, size: int, old_root: bytes, root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether `path` proves that `old_root` over `old` leaves is a prefix of `root` over `size` leaves.

    The iterative form of RFC 6962 section 2.1.2, written out in RFC 9162 section 2.1.4.2. Nothing is a prefix of
    everything, and a tree of itself: both with an empty path.
    """
    if not 0 <= old <= size:
        return False
    if old == size:
        return not path and old_root == root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path) if old & (old - 1) else [old_root, *path]
    if not hashes:
        return False
    position, last = old - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and first == old_root and second == root
