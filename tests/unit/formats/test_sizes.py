import pytest

from airpack.errors import InputError
from airpack.formats.sizes import FAT_FILE, MEDIA, parse_size, parse_volume_size
from airpack.types import Limits

CAPACITIES = {
    "fat32": (1 << 32) - 1,
    "dvd": 4_700_372_992,
    "dvd-dl": 8_543_666_176,
    "bd25": 24_220_008_448,
    "bd50": 48_440_016_896,
    "bd100": 96_882_130_944,
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("7B", 7),
        ("1KiB", 1024),
        ("512 MiB", 512 << 20),
        ("1TiB", 1 << 40),
        ("3kB", 3000),
        ("700MB", 700_000_000),
        ("25 GB", 25_000_000_000),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_whole_numbers_with_binary_or_decimal_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_volume_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "1.5GiB", "-1", "1 gb", "1KB", "1gib", "1e3", "\u0661", "1\n", "9" * 13])
def test_other_sizes_are_refused(text: str) -> None:
    for parse in (parse_size, parse_volume_size):
        with pytest.raises(InputError):
            parse(text)


@pytest.mark.parametrize("name", [*MEDIA, "fat32 "])
def test_media_are_named_where_a_volume_is_meant_and_nowhere_else(name: str) -> None:
    with pytest.raises(InputError):
        parse_size(name)


@pytest.mark.parametrize("name", ["DVD", "fat16", "bd128", "dvd\n"])
def test_an_unknown_medium_is_told_the_names_that_are_known(name: str) -> None:
    with pytest.raises(InputError, match="fat32, dvd, dvd-dl, bd25, bd50, bd100"):
        parse_volume_size(name)


@pytest.mark.parametrize(("name", "capacity"), CAPACITIES.items())
def test_a_medium_holds_its_volume_the_parity_that_goes_with_it_and_the_head(name: str, capacity: int) -> None:
    size = parse_volume_size(name)
    assert size % (1 << 20) == 0
    parity = size + 2 * 32 * -(-size // (1 << 20))  # as long as the longest data volume, and two tables of its rows
    beside = 0 if name == "fat32" else Limits.HEAD + (8 << 20)  # of files in FAT only the longest one counts
    assert parity + beside <= capacity
    assert capacity - size <= 40 << 20, "room is left that nothing needs"
    assert size <= Limits.VOLUME


def test_the_limit_of_fat_is_one_byte_below_four_gibibytes() -> None:
    assert FAT_FILE == 4 * 1024**3 - 1
