"""One byte changed, or a file cut: no such package is imported. `./scripts/mutate N` runs many more of these."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vectors import mutate
from tests.vectors.mutate import Mutation, Range, ViolationError

from airpack.errors import IntegrityError
from airpack.transport import codec


@pytest.fixture(scope="module")
def place() -> Iterator[Range]:
    with tempfile.TemporaryDirectory() as folder, mutate.quick():
        found = Range(Path(folder))
        found.control()
        yield found


def test_no_random_change_is_imported(place: Range) -> None:
    kinds = set()
    for number in range(200):
        mutation = Mutation.draw(mutate.chance(20260601, number), place.packages)
        assert place.attempt(mutation) in {"integrity", "damaged", "trust", "threshold", "same release"}, mutation
        kinds.add(mutation.kind)
    assert len(kinds) == 6


@pytest.mark.parametrize("package", mutate.PACKAGES)
def test_each_byte_of_a_volume_counts(place: Range, package: str) -> None:
    """Also those that say nothing: padding, slots that are not used."""
    name = next(name for name in sorted(place.packages[package]) if name.endswith(".airvol"))
    data = place.packages[package][name]
    for at in range(0, len(data), 13):
        assert place.attempt(Mutation(package, name, at, data[at] ^ 0x80, resealed=False)) == "damaged", at


def test_every_length_of_a_volume_but_its_own_is_refused(place: Range) -> None:
    name = "many-1.0.0.0001.airvol"
    for length in range(0, len(place.packages["many_ok"][name]), 29):
        assert place.attempt(Mutation("many_ok", name, length, None, resealed=False)) == "damaged"


class TestAViolationIsFound:
    """The runner's own control."""

    NAME = "many-1.0.0.0004.airvol"

    def change(self, place: Range, add: int = 1) -> Mutation:
        data = place.packages["many_ok"][self.NAME]
        return Mutation("many_ok", self.NAME, len(data) - 1, (data[-1] + add) % 256, resealed=False)

    def test_an_import_that_succeeds(self, place: Range, monkeypatch: pytest.MonkeyPatch) -> None:
        assert place.attempt(self.change(place)) == "damaged"
        monkeypatch.setattr(mutate, "import_package", lambda *_: None)
        with pytest.raises(ViolationError, match="it was imported"):
            place.attempt(self.change(place))

    def test_an_exception_that_nobody_expects(self, place: Range, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codec, "decode", lambda *_: 1 // 0)
        with pytest.raises(ViolationError, match="ZeroDivisionError"):
            place.attempt(self.change(place, 0))

    def test_a_refusal_that_takes_something_along(self, place: Range, monkeypatch: pytest.MonkeyPatch) -> None:
        def lose(*_: object) -> None:
            next((place.site.root / "products").glob("*/current")).unlink()
            raise IntegrityError("refused")

        monkeypatch.setattr(mutate, "import_package", lose)
        with pytest.raises(ViolationError, match="something visible changed"):
            place.attempt(self.change(place))
