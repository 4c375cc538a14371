"""Which file of a package goes to which medium. Pure: rooms in, a plan out.

1. Data volumes go in order, each to the first medium that has room for it. Repair volumes do the same.
2. Parity volumes follow: where there is a choice, to a medium without a data volume of their group, and there beside as
   few others of it as possible.
3. Where the media suffice for it, none gets more volumes of a group than the group has parity volumes: then any one of
   the media may be lost. Where they do not, rules 1 and 2 alone hold, and no medium is filled for nothing.
4. Every medium keeps room for the head, and some for the file system.

What finds no room is left for another sitting. What no medium here could ever take is an error: it would be left for
ever.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from airpack.errors import StorageError
from airpack.fsops import Room

_SPARE: Final = 1 << 20  # bytes of a medium: names, and what the file system notes beside them


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be carried beside the head.

    Attributes:
        name: Its name.
        size: Its length in bytes.
        group: Number of its parity group; -1 for none.
        is_parity: Whether it is a parity volume.
    """

    name: str
    size: int
    group: int = -1
    is_parity: bool = False


@dataclass(slots=True)
class Place:
    """A medium in the plan.

    Attributes:
        folder: Where it is mounted.
        room: What it takes.
        kept: What lies on it already, byte for byte.
        added: What is to be written to it.
    """

    folder: Path
    room: Room
    kept: list[Item] = field(default_factory=list)
    added: list[Item] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """All that it will hold beside the head."""
        return [*self.kept, *self.added]


def spread(items: Sequence[Item], places: Sequence[Place], *, head: int) -> list[Item]:
    """Give each item that is not kept anywhere a place, and return those that find none now.

    Args:
        items: All files, in order.
        places: The media, `kept` filled in; `added` is filled here.
        head: Length of the head in bytes.

    Raises:
        StorageError: A file is too long for every medium here, or larger than every one of them.
    """
    kept = {item for place in places for item in place.kept}
    missing = [item for item in items if item not in kept]
    for item in missing:
        _check_ever(item, places, head)
    parity = Counter(item.group for item in items if item.is_parity)
    apart = _Rooms(places, head, most=parity)
    left_apart = apart.fill(missing)
    together = _Rooms(places, head, most={})
    left = together.fill(missing)
    rooms, left = (apart, left_apart) if parity and len(left_apart) <= len(left) else (together, left)
    for place, added in zip(places, rooms.added, strict=True):
        place.added += added
    return left


def survives_one(items: Sequence[Item], places: Sequence[Place]) -> bool:
    """Return whether any one of the media may be lost: parity then rebuilds what was on it."""
    parity = Counter(item.group for item in items if item.is_parity)
    held = {item for place in places for item in place.items}
    return held.issuperset(items) and all(
        count <= parity[group]
        for place in places
        for group, count in Counter(item.group for item in place.items).items()
    )


class _Rooms:
    """One try at a plan: what is still free, where media on one device share it, and what was placed.

    Attributes:
        added: What is placed on each of the media.

    Args:
        most: Volumes of a group that one medium may get; groups that are not named may crowd.
    """

    def __init__(self, places: Sequence[Place], head: int, *, most: Mapping[int, int]) -> None:
        self.added: list[list[Item]] = [[] for _ in places]
        self._places, self._most = places, most
        self._free: dict[int, int] = {place.room.device: place.room.free for place in places}
        for place in places:
            self._free[place.room.device] -= _beside(place.room, head)

    def fill(self, items: Sequence[Item]) -> list[Item]:
        """Place `items`, data volumes first, and return those that find no room."""
        in_order = sorted(items, key=lambda item: item.is_parity)
        return [item for item in in_order if not self._place(item)]

    def _place(self, item: Item) -> bool:
        fitting = [number for number, place in enumerate(self._places) if self._has_room(number, place.room, item)]
        if not fitting:
            return False
        number = min(fitting, key=lambda number: self._crowd(number, item)) if item.is_parity else fitting[0]
        room = self._places[number].room
        self._free[room.device] -= room.occupied(item.size)
        self.added[number].append(item)
        return True

    def _has_room(self, number: int, room: Room, item: Item) -> bool:
        if not _takes(room, item) or room.occupied(item.size) > self._free[room.device]:
            return False
        return item.group not in self._most or len(self._group(number, item)) < self._most[item.group]

    def _group(self, number: int, item: Item) -> list[Item]:
        there = (*self._places[number].kept, *self.added[number])
        return [other for other in there if other.group == item.group]

    def _crowd(self, number: int, item: Item) -> tuple[bool, int]:
        """Return how much of the item's group is at a place: any data volume, and how many volumes."""
        group = self._group(number, item)
        return any(not other.is_parity for other in group), len(group)


def _beside(room: Room, head: int) -> int:
    return room.occupied(head) + _SPARE


def _takes(room: Room, item: Item) -> bool:
    return room.longest is None or item.size <= room.longest


def _check_ever(item: Item, places: Sequence[Place], head: int) -> None:
    """Refuse an item that none of the media could take, even when empty."""
    taking = [place for place in places if _takes(place.room, item)]
    if not taking:
        folder, room = places[0].folder, places[0].room
        raise StorageError(
            f"{item.name} has {item.size} bytes; {room.file_system} in {folder} takes files of at most {room.longest}, "
            "and no folder was given that takes longer ones",
            hint="give a medium with another file system (exFAT, ext4), or build again with --volume-size fat32",
            volume=item.name,
            size=item.size,
            longest=room.longest,
        )
    most = max(place.room.total - _beside(place.room, head) for place in taking)
    if item.size > most:
        raise StorageError(
            f"{item.name} has {item.size} bytes; the largest medium here has room for {max(most, 0)} beside the head",
            hint="give a larger medium, or build again with a smaller --volume-size",
            volume=item.name,
            size=item.size,
        )
