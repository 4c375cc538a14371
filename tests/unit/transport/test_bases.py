import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airpack.errors import IntegrityError, NotFoundError
from airpack.transport import bases as module
from airpack.transport.bases import Bases


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}" for number in range(50)]
    for number, path in enumerate(paths, 1):
        path.write_bytes(bytes([number]) * 1000)
    return paths


def opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_numbered_from_1_and_read_at_any_offset(paths: list[Path]) -> None:
    paths[1].write_bytes(b"0123456789")
    with Bases(paths) as bases:
        assert bases.read(2, 3, 4) == b"3456"
        assert bases.read(1, 999, 1) == b"\1"
        assert bases.read(2, 0, 10) == b"0123456789"


def test_few_files_are_open_at_once_and_none_afterwards(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN", 3)
    before = opened()
    with Bases(paths) as bases:
        for _ in range(2):
            for number in range(1, 51):
                assert bases.read(number, 0, 1) == bytes([number])
                assert opened() <= before + 3
    assert opened() == before


def test_many_threads_may_read(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN", 2)
    start = threading.Barrier(4)

    def read(first: int) -> None:
        start.wait()
        for number in range(200):
            file = (first * 7 + number) % 50 + 1
            assert bases.read(file, number, 100) == bytes([file]) * 100

    with Bases(paths) as bases, ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_a_function_may_open_what_has_no_name(paths: list[Path]) -> None:
    with Bases([lambda: os.open(paths[4], os.O_RDONLY)]) as bases:
        assert bases.read(1, 0, 2) == b"\5\5"


def test_what_ends_too_early_is_refused(paths: list[Path]) -> None:
    with Bases(paths) as bases, pytest.raises(IntegrityError, match="ends before byte 1001"):
        bases.read(1, 990, 11)


def test_a_link_and_a_missing_file_are_refused(tmp_path: Path, paths: list[Path]) -> None:
    (tmp_path / "link").symlink_to(paths[0])
    with Bases([tmp_path / "link", tmp_path / "none"]) as bases:
        with pytest.raises(IntegrityError, match="not a regular file"):
            bases.read(1, 0, 1)
        with pytest.raises(NotFoundError):
            bases.read(2, 0, 1)


def write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    state = path.stat()
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def shorten(path: Path) -> None:
    os.truncate(path, 500)


@pytest.mark.parametrize("spoil", [write, shorten])
def test_a_file_that_is_written_to_meanwhile_is_not_used_any_more(paths: list[Path], spoil: object) -> None:
    assert callable(spoil)
    with Bases(paths) as bases:
        bases.read(1, 0, 1)
        bases.check()
        spoil(paths[0])
        with pytest.raises(IntegrityError, match="while it was in use"):
            bases.read(1, 0, 1)
        with pytest.raises(IntegrityError, match="while it was in use"):
            bases.check()


@pytest.mark.parametrize("spoil", [write, shorten, replace])
def test_that_is_seen_also_where_the_file_was_closed_in_between(
    paths: list[Path], spoil: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(spoil)
    monkeypatch.setattr(module, "_OPEN", 1)
    with Bases(paths) as bases:
        bases.read(1, 0, 1)
        bases.read(2, 0, 1)
        spoil(paths[0])
        with pytest.raises(IntegrityError, match="while it was in use"):
            bases.check()
