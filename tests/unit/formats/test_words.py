import pytest

from airpack.formats import words
from airpack.types import Digest

# The example of the list's makers, a fingerprint of 20 bytes.
FINGERPRINT = "E58294F2E9A227486E8B061B31CC528FD7FA3F19"
SAID = (
    "topmost Istanbul Pluto vagabond treadmill Pacific brackish dictator goldfish Medusa afflict bravado chatter "
    "revolver Dupont midsummer stopwatch whimsical cowbell bottomless"
)


def test_the_published_example_is_said() -> None:
    digest = Digest.from_raw(bytes.fromhex(FINGERPRINT).ljust(32, b"\0"))
    assert words.spoken(digest, 20) == SAID
    assert words.spoken(digest) == " ".join(SAID.split()[:8])


@pytest.mark.parametrize(("byte", "even", "odd"), [(0, "aardvark", "adroitness"), (255, "Zulu", "Yucatan")])
def test_each_end_of_the_lists_stands_where_it_must(byte: int, even: str, odd: str) -> None:
    assert words.spoken(Digest.from_raw(bytes([byte]) * 32), 2) == f"{even} {odd}"


def test_no_two_bytes_sound_alike() -> None:
    said = [words.spoken(Digest.from_raw(bytes([0, byte]) * 16), 2).split()[1].casefold() for byte in range(256)]
    said += [words.spoken(Digest.from_raw(bytes([byte]) * 32), 1).casefold() for byte in range(256)]
    assert len(set(said)) == 512


def test_a_word_left_out_or_exchanged_with_its_neighbour_is_no_other_digest() -> None:
    """Two- and three-syllable words take turns, and no word is in both lists."""
    said = words.spoken(Digest.of(b"any"), 32).split()
    lists = [{word.casefold() for word in found} for found in (words._EVEN, words._ODD)]
    assert all(word.casefold() in lists[place % 2] for place, word in enumerate(said))
    assert not lists[0] & lists[1]
