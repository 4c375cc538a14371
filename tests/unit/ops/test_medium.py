import os
from pathlib import Path

import pytest

from airpack.errors import InputError, IntegrityError, NotFoundError, StorageError
from airpack.formats.package import FileInfo, PackageManifest, VolumeInfo
from airpack.ops.medium import find_head, names, read_head, unlisted
from airpack.types import Digest, Limits

MANIFEST = PackageManifest(
    release=Digest.of(b"index"),
    product="encoder",
    version="1.0.0",
    needs_airpack="0.1.0",
    files=(FileInfo(Digest.of(b"x"), 1),),
    volumes=tuple(VolumeInfo(f"encoder.000{n}.airvol", 193, 1, 1, Digest.of(b"t")) for n in (1, 2)),
)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    for name in ("encoder.airpack", "encoder.0001.airvol", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


class TestFindHead:
    def test_is_the_only_one_in_the_folder(self, medium: Path) -> None:
        assert find_head(medium) == medium / "encoder.airpack"

    def test_is_the_file_that_is_named_whatever_its_name(self, medium: Path) -> None:
        assert find_head(medium / "notes.txt") == medium / "notes.txt"

    def test_is_absolute(self, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(medium)
        assert find_head(Path()) == medium / "encoder.airpack"
        assert find_head(Path("encoder.airpack")) == medium / "encoder.airpack"

    def test_a_folder_without_one_says_what_is_looked_for(self, medium: Path) -> None:
        (medium / "encoder.airpack").unlink()
        with pytest.raises(NotFoundError, match=r"no file there ends in \.airpack") as caught:
            find_head(medium)
        assert caught.value.hint

    @pytest.mark.parametrize("name", ["no", "no/such", "notes.txt/below", "loose"])
    def test_a_path_that_is_not_there_is_not_found(self, medium: Path, name: str) -> None:
        (medium / "loose").symlink_to("nowhere")
        with pytest.raises(NotFoundError, match="no file or folder"):
            find_head(medium / name)

    def test_a_path_that_cannot_be_looked_at_was_not_checked(self, medium: Path) -> None:
        with pytest.raises(StorageError, match="cannot look at"):
            find_head(medium / ("x" * 300))

    def test_one_of_several_must_be_named(self, medium: Path) -> None:
        (medium / "other.airpack").write_bytes(b"")
        with pytest.raises(InputError, match=r"holds 2 heads: encoder\.airpack, other\.airpack$") as caught:
            find_head(medium)
        assert caught.value.hint == "name one of these files"

    def test_a_message_names_a_few_of_very_many(self, medium: Path) -> None:
        for number in range(300):
            (medium / f"{number:03}.airpack").write_bytes(b"")
        with pytest.raises(InputError, match=r"holds 301 heads: 000\.airpack, .*, \.\.\.$") as caught:
            find_head(medium)
        assert len(caught.value.message) < 400

    def test_a_folder_that_cannot_be_read_was_not_checked(self, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_folder: Path) -> list[str]:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "listdir", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            find_head(medium)


class TestReadHead:
    def test_is_read_up_to_its_limit_and_no_further(self, tmp_path: Path) -> None:
        head = tmp_path / "x.airpack"
        head.write_bytes(b"x" * Limits.HEAD)
        assert len(read_head(head)) == Limits.HEAD
        head.write_bytes(b"x" * (Limits.HEAD + 1))
        with pytest.raises(IntegrityError, match="longer than"):
            read_head(head)

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_only_a_regular_file_is_read(self, tmp_path: Path, kind: str) -> None:
        head = tmp_path / "x.airpack"
        if kind == "link":
            head.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(head)
        else:
            head.mkdir()
        with pytest.raises(IntegrityError, match="not a regular file"):
            read_head(head)
        with pytest.raises(IntegrityError, match="not a regular file"):
            read_head(find_head(tmp_path))


class TestUnlisted:
    def test_is_what_is_neither_head_nor_volume(self, medium: Path) -> None:
        (medium / "autorun.inf").symlink_to("/dev/zero")
        (medium / "encoder.0003.airvol").write_bytes(b"")
        head = medium / "encoder.airpack"
        assert unlisted(head, MANIFEST) == ["autorun.inf", "encoder.0003.airvol", "notes.txt"]

    def test_nothing_of_it_is_opened(self, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def opened(*_arguments: object, **_options: object) -> None:
            raise AssertionError("a file was opened")

        os.mkfifo(medium / "pipe")
        monkeypatch.setattr(os, "open", opened)
        assert unlisted(medium / "encoder.airpack", MANIFEST) == ["notes.txt", "pipe"]


def test_names_are_sorted(medium: Path) -> None:
    assert names(medium) == ["encoder.0001.airvol", "encoder.airpack", "notes.txt"]
