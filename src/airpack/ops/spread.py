"""Which file of a package goes to which medium. Pure: rooms in, a plan out.

1. Data volumes go in order, each to the first medium that has room for it.
2. Parity volumes follow: where there is a choice, to a medium without a data volume of their group, and there beside as
   few others of it as possible, so that a lost medium takes as little of a group as can be.
3. Repair volumes go as data volumes do.
4. Every medium keeps room for the head, and some for the file system.

What finds no room is left for another sitting. What no medium here could ever take is an error: it would be left for
ever.
"""

from collections.abc import Iterable, Sequence
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
    rooms = _Rooms(places, head)
    data = [item for item in missing if not item.is_parity]
    parity = [item for item in missing if item.is_parity]
    return [*rooms.fill(data, by_group=False), *rooms.fill(parity, by_group=True)]


class _Rooms:
    """What is still free; media on one device share it."""

    def __init__(self, places: Sequence[Place], head: int) -> None:
        self._places = places
        self._free: dict[int, int] = {place.room.device: place.room.free for place in places}
        for place in places:
            self._free[place.room.device] -= _beside(place.room, head)

    def fill(self, items: Iterable[Item], *, by_group: bool) -> list[Item]:
        """Place `items` and return those that find no room."""
        left = []
        for item in items:
            fitting = [place for place in self._places if self._has_room(place.room, item)]
            if not fitting:
                left.append(item)
                continue
            place = min(fitting, key=lambda place: _crowd(place, item)) if by_group else fitting[0]
            self._free[place.room.device] -= place.room.occupied(item.size)
            place.added.append(item)
        return left

    def _has_room(self, room: Room, item: Item) -> bool:
        return _takes(room, item) and room.occupied(item.size) <= self._free[room.device]


def _crowd(place: Place, item: Item) -> tuple[bool, int]:
    """Return how much of the item's group is at a place already: any data volume, and how many parity volumes."""
    group = [other for other in place.items if other.group == item.group]
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
