import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airpack.errors import IntegrityError, NotFoundError
from airpack.formats.package import FileInfo
from airpack.ops.places import Place, Placed, Places, PlacesFolder
from airpack.types import Digest, Silent, Source

RELEASE = Digest.of(b"release")
WEIGHTS, LIBRARY = b"weights" * 1000, b"library" * 10


def placed(data: bytes, path: Path, member: str = "") -> Placed:
    return Placed(FileInfo(Digest.of(data), len(data)), Place(path, member))


@pytest.fixture
def folder(tmp_path: Path) -> PlacesFolder:
    (tmp_path / "desk/registry/blobs/sha256").mkdir(parents=True)
    return PlacesFolder(tmp_path / "desk")


def found(tmp_path: Path) -> list[Placed]:
    return [
        placed(WEIGHTS, tmp_path / "desk/models/w.safetensors"),
        placed(LIBRARY, tmp_path / "wheels/a.whl", "a/lib.so"),
        placed(WEIGHTS, tmp_path / "desk/models/w.safetensors"),
    ]


def test_what_is_remembered_is_recalled(folder: PlacesFolder, tmp_path: Path) -> None:
    folder.remember(Places.of(RELEASE, found(tmp_path)))
    recalled = folder.recall(RELEASE)
    assert recalled == {each.file.digest: each for each in found(tmp_path)}


def test_a_workspace_may_be_moved_with_what_lies_in_it(folder: PlacesFolder, tmp_path: Path) -> None:
    folder.remember(Places.of(RELEASE, found(tmp_path)))
    (tmp_path / "desk").rename(tmp_path / "moved")
    recalled = PlacesFolder(tmp_path / "moved").recall(RELEASE)
    assert recalled[Digest.of(WEIGHTS)].place.path == tmp_path / "moved/models/w.safetensors"
    assert recalled[Digest.of(LIBRARY)].place == Place(tmp_path / "wheels/a.whl", "a/lib.so")


def test_a_release_of_which_nothing_is_known(folder: PlacesFolder) -> None:
    with pytest.raises(NotFoundError):
        folder.recall(RELEASE)


def test_a_path_that_is_no_text_is_not_remembered(folder: PlacesFolder, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    assert Places.of(RELEASE, [placed(WEIGHTS, odd)]).files == ()
    folder.remember(Places.of(RELEASE, [placed(WEIGHTS, odd), placed(LIBRARY, tmp_path / "a")]))
    assert list(folder.recall(RELEASE)) == [Digest.of(LIBRARY)]


def test_the_largest_files_are_remembered_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airpack.ops.places._MOST", 2)
    many = [placed(bytes(size), tmp_path / str(size)) for size in (1, 9, 3, 7)]
    assert sorted(each.file.size for each in Places.of(RELEASE, many).files) == [7, 9]


GOOD = Places.of(RELEASE, [placed(WEIGHTS, Path("/desk/w")), placed(LIBRARY, Path("/else/a.whl"), "lib")])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b"airpack.places/1", b"airpack.places/2"),
        lambda text: text.replace(b'"w"', b'""'),
        lambda text: text.replace(b'"w"', b'"../w"'),
        lambda text: text.replace(b'"w"', b'"a\\u0000b"'),
        lambda text: text.replace(b',"size":70}', b"}"),
        lambda text: text.replace(b'"size":70', b'"size":-1'),
        lambda text: text.replace(b'"size":70', b'"more":1,"size":70'),
        lambda text: text.replace(Digest.of(LIBRARY).hex.encode(), Digest.of(WEIGHTS).hex.encode()),
        lambda text: text + b" ",
        lambda _text: b"[]",
    ],
)
def test_places_that_are_not_as_they_were_written_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    text = GOOD.emit(Path("/desk"))
    assert Places.parse(text, Path("/desk")) == GOOD
    assert spoil(text) != text
    with pytest.raises(IntegrityError):
        Places.parse(spoil(text), Path("/desk"))


def test_places_of_another_release_are_refused(folder: PlacesFolder, tmp_path: Path) -> None:
    folder.remember(GOOD)
    other = Digest.of(b"other")
    written = tmp_path / "desk/registry/places"
    (written / f"{RELEASE.hex}.json").rename(written / f"{other.hex}.json")
    with pytest.raises(IntegrityError, match="is about"):
        folder.recall(other)


@given(
    st.lists(st.tuples(st.binary(max_size=3), st.sampled_from(["a", "b/c", "desk/x", "ä"]), st.text("ab", max_size=3)))
)
def test_places_have_a_round_trip(items: list[tuple[bytes, str, str]]) -> None:
    places = Places.of(RELEASE, [placed(data, Path("/") / path, member) for data, path, member in items])
    assert Places.parse(places.emit(Path("/desk")), Path("/desk")) == places


class TestKeep:
    def test_copies_are_used_instead_of_what_they_were_copied_from(self, folder: PlacesFolder, tmp_path: Path) -> None:
        folder.remember(Places.of(RELEASE, found(tmp_path)))
        source = Source("w", len(WEIGHTS), lambda: io.BytesIO(WEIGHTS))
        folder.keep([(source, Digest.of(WEIGHTS))], Silent())
        copy = tmp_path / "desk/registry/blobs/sha256" / Digest.of(WEIGHTS).hex
        assert copy.read_bytes() == WEIGHTS
        recalled = folder.recall(RELEASE)
        assert recalled[Digest.of(WEIGHTS)].place == Place(copy)
        assert recalled[Digest.of(LIBRARY)].place.member == "a/lib.so"

    def test_what_is_kept_is_not_copied_again(self, folder: PlacesFolder) -> None:
        def never() -> io.BytesIO:
            raise AssertionError("it is read again")

        folder.keep([(Source("w", len(WEIGHTS), lambda: io.BytesIO(WEIGHTS)), Digest.of(WEIGHTS))], Silent())
        folder.keep([(Source("w", len(WEIGHTS), never), Digest.of(WEIGHTS))], Silent())

    def test_a_file_that_was_changed_since_is_not_kept(self, folder: PlacesFolder, tmp_path: Path) -> None:
        source = Source("w", len(WEIGHTS), lambda: io.BytesIO(b"other"))
        with pytest.raises(IntegrityError, match="was changed after it was packed"):
            folder.keep([(source, Digest.of(WEIGHTS))], Silent())
        assert list((tmp_path / "desk/registry/blobs/sha256").iterdir()) == []
