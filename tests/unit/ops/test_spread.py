import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import StorageError
from airpack.formats.sizes import FAT_FILE
from airpack.fsops import Room
from airpack.ops.spread import Item, Place, spread, survives_one

MIB = 1 << 20
HEAD = 3 * MIB
BESIDE = 4 * MIB  # the head, and what the file system notes


def place(
    name: str, free: int, *, total: int | None = None, device: int | None = None, longest: int | None = None
) -> Place:
    number = sum(name.encode()) if device is None else device
    return Place(Path(name), Room(number, "vfat", free, total or free, 4096, longest, read_only=False))


def volumes(count: int, size: int = MIB, group: int = -1) -> list[Item]:
    return [Item(f"p.{number:04}.airvol", size, group) for number in range(1, count + 1)]


def parity(count: int, size: int = MIB, group: int = 0) -> list[Item]:
    return [Item(f"p.p{number:02}.airvol", size, group, is_parity=True) for number in range(1, count + 1)]


def names(found: Place) -> list[str]:
    return [item.name for item in found.added]


def test_volumes_go_in_order_to_the_first_medium_with_room() -> None:
    one, two = place("one", BESIDE + 2 * MIB), place("two", BESIDE + 9 * MIB)
    assert spread(volumes(4), [one, two], head=HEAD) == []
    assert names(one) == ["p.0001.airvol", "p.0002.airvol"]
    assert names(two) == ["p.0003.airvol", "p.0004.airvol"]


def test_a_shorter_last_volume_fills_what_is_left_of_an_earlier_medium() -> None:
    one, two = place("one", BESIDE + 3 * MIB), place("two", BESIDE + 9 * MIB)
    items = [*volumes(2, 2 * MIB), Item("p.0003.airvol", MIB)]
    assert spread(items, [one, two], head=HEAD) == []
    assert names(one) == ["p.0001.airvol", "p.0003.airvol"]


def test_room_is_kept_for_the_head_and_counted_in_blocks() -> None:
    for free, left in ((BESIDE + MIB, 0), (BESIDE + MIB - 1, 1)):
        assert len(spread(volumes(1), [place("one", free, total=1 << 40)], head=HEAD)) == left
    one = place("one", BESIDE + 4096 * 3)
    assert len(spread(volumes(4, 4095), [one], head=HEAD)) == 1


def test_folders_on_one_device_share_its_space() -> None:
    places = [place("one", 2 * BESIDE + 2 * MIB, device=1), place("two", 2 * BESIDE + 2 * MIB, device=1)]
    assert len(spread(volumes(3), places, head=HEAD)) == 1


def test_what_finds_no_room_now_is_left_for_later() -> None:
    one = place("one", BESIDE + 2 * MIB)
    assert [item.name for item in spread(volumes(3), [one], head=HEAD)] == ["p.0003.airvol"]
    full = place("full", 0, total=1 << 40)
    assert len(spread(volumes(3), [full], head=HEAD)) == 3


def test_what_lies_there_already_takes_no_place_again() -> None:
    one, two = place("one", BESIDE), place("two", BESIDE + MIB)
    items = volumes(2)
    one.kept.append(items[0])
    assert spread(items, [one, two], head=HEAD) == []
    assert (names(one), names(two)) == ([], ["p.0002.airvol"])
    assert one.items == items[:1]


def test_parity_goes_where_no_volume_of_its_group_is() -> None:
    places = [place(name, BESIDE + 9 * MIB) for name in ("one", "two")]
    assert spread([*volumes(3, group=0), *parity(2)], places, head=HEAD) == []
    assert names(places[0]) == ["p.0001.airvol", "p.0002.airvol", "p.0003.airvol"]
    assert names(places[1]) == ["p.p01.airvol", "p.p02.airvol"]


def test_parity_volumes_of_a_group_part_where_they_can() -> None:
    places = [place(name, BESIDE + 9 * MIB) for name in ("one", "two", "three")]
    spread([*volumes(5, group=0), *parity(2)], places, head=HEAD)
    assert [names(found) for found in places[1:]] == [["p.p01.airvol"], ["p.p02.airvol"]]


def test_where_the_media_suffice_none_gets_more_of_a_group_than_can_be_rebuilt() -> None:
    items = [*volumes(4, group=0), *parity(2)]
    places = [place(name, BESIDE + 9 * MIB) for name in ("one", "two", "three")]
    assert spread(items, places, head=HEAD) == []
    assert [len(names(found)) for found in places] == [2, 2, 2]
    assert names(places[2]) == ["p.p01.airvol", "p.p02.airvol"]
    assert survives_one(items, places)


def test_where_they_do_not_suffice_nothing_is_spread_for_nothing() -> None:
    items = [*volumes(4, group=0), *parity(1)]
    places = [place(name, BESIDE + 9 * MIB) for name in ("one", "two", "three")]
    assert spread(items, places, head=HEAD) == []
    assert [len(names(found)) for found in places] == [4, 1, 0]
    assert not survives_one(items, places)


def test_spreading_leaves_nothing_behind_that_would_fit_together() -> None:
    items = [*volumes(2, group=0), *parity(1)]
    places = [place("one", BESIDE + 3 * MIB), place("two", BESIDE), place("three", BESIDE)]
    assert spread(items, places, head=HEAD) == []
    assert len(names(places[0])) == 3


def test_what_lies_there_counts_among_what_may_be_lost() -> None:
    items = [*volumes(2, group=0), *parity(1)]
    places = [place(name, BESIDE + 9 * MIB) for name in ("one", "two", "three")]
    places[1].kept.append(items[0])
    assert spread(items, places, head=HEAD) == []
    assert (names(places[0]), names(places[1]), names(places[2])) == (["p.0002.airvol"], [], ["p.p01.airvol"])
    assert survives_one(items, places)
    assert not survives_one([*items, Item("other", 1)], places), "what is left is not rebuilt by any"
    assert not survives_one(volumes(1), [place("one", BESIDE)])


def test_parity_of_another_group_may_lie_with_a_groups_volumes() -> None:
    one, two = place("one", BESIDE + 4 * MIB), place("two", BESIDE + 2 * MIB)
    second = [Item("p.0003.airvol", MIB, 1)]
    other = [Item("p.p02.airvol", MIB, 1, is_parity=True)]
    spread([*volumes(2, group=0), *second, *parity(1), *other], [one, two], head=HEAD)
    assert names(one) == ["p.0001.airvol", "p.0002.airvol", "p.0003.airvol"]
    assert names(two) == ["p.p01.airvol", "p.p02.airvol"]


def test_without_choice_parity_lies_with_its_volumes() -> None:
    one = place("one", BESIDE + 9 * MIB)
    assert spread([*volumes(2, group=0), *parity(1)], [one], head=HEAD) == []
    assert len(names(one)) == 3


def test_data_comes_before_parity_where_there_is_not_room_for_both() -> None:
    one = place("one", BESIDE + 2 * MIB)
    left = spread([*volumes(2, group=0), *parity(1)], [one], head=HEAD)
    assert [item.name for item in left] == ["p.p01.airvol"]


def test_a_volume_longer_than_fat_takes_is_named_before_anything_is_placed() -> None:
    places = [place("one", 1 << 40, longest=FAT_FILE), place("two", 1 << 40, longest=FAT_FILE)]
    items = [*volumes(1), Item("p.0002.airvol", FAT_FILE + 1)]
    with pytest.raises(StorageError, match=r"p\.0002\.airvol has 4294967296 bytes; vfat .* 4294967295") as caught:
        spread(items, places, head=HEAD)
    assert caught.value.context["volume"] == "p.0002.airvol"
    assert "--volume-size fat32" in caught.value.hint
    assert not places[0].added


def test_a_volume_as_long_as_fat_takes_fits_and_a_longer_one_goes_elsewhere() -> None:
    fat, other = place("fat", 1 << 40, longest=FAT_FILE), place("other", 1 << 40)
    assert spread([Item("a", FAT_FILE), Item("b", FAT_FILE + 1)], [fat, other], head=HEAD) == []
    assert (names(fat), names(other)) == (["a"], ["b"])


def test_a_volume_larger_than_every_medium_is_named() -> None:
    with pytest.raises(StorageError, match="room for 2097152 beside the head"):
        spread(volumes(1, 2 * MIB + 1), [place("one", 0, total=BESIDE + 2 * MIB)], head=HEAD)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=12),
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_nothing_is_placed_twice_or_beyond_what_is_free(sizes: list[int], frees: list[int], seed: int) -> None:
    items = [
        Item(f"p.{number}.airvol", size * MIB, 0, is_parity=random.Random(seed + number).random() < 0.3)
        for number, size in enumerate(sizes)
    ]
    places = [place(f"m{number}", free * MIB, total=1 << 40, device=number) for number, free in enumerate(frees)]
    left = spread(items, places, head=HEAD)
    placed = [item for found in places for item in found.added]
    assert sorted(item.name for item in [*placed, *left]) == sorted(item.name for item in items)
    for found in places:
        if found.added:
            assert sum(item.size for item in found.added) + BESIDE <= found.room.free
