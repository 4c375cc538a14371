"""Each step that changes the disk is announced, and a test may strike there."""

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from airpack import fsops
from airpack.errors import StorageError
from airpack.fsops.failpoints import reach, striking


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    """Record the steps of a durable write, with the names they are done to."""
    seen: list[tuple[str, str]] = []

    def hook(step: str, path: Path, size: int) -> int:
        seen.append((step, path.relative_to(tmp_path).as_posix()))
        return size

    with striking(hook):
        fsops.write_durable(tmp_path / "file", b"bytes")
    return seen


def test_a_durable_write_is_five_steps_in_the_order_that_holds(steps: list[tuple[str, str]]) -> None:
    assert steps == [("create", "file"), ("write", "file"), ("sync", "file"), ("rename", "file"), ("sync", ".")]


def test_without_a_hook_a_step_lets_all_bytes_through(tmp_path: Path) -> None:
    assert reach("write", tmp_path, 7) == 7


def test_a_hook_that_was_set_is_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(StorageError), striking(_full):
        fsops.write_durable(tmp_path / "file", b"bytes")
    fsops.write_durable(tmp_path / "file", b"bytes")
    assert (tmp_path / "file").read_bytes() == b"bytes"


def _full(_step: str, _path: Path, _size: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_is_let_through_in_part_goes_on_as_a_step_of_its_own(tmp_path: Path) -> None:
    sizes: list[int] = []

    def halves(step: str, _path: Path, size: int) -> int:
        if step == "write":
            sizes.append(size)
        return max(1, size // 2)

    with striking(halves):
        fsops.write_durable(tmp_path / "file", b"12345678")
    assert sizes == [8, 4, 2, 1]
    assert (tmp_path / "file").read_bytes() == b"12345678"


def test_an_error_at_any_step_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    fsops.write_durable(tmp_path / "file", b"old")
    for at in range(5):
        count = itertools.count()

        def strike(_step: str, _path: Path, size: int, *, at: int = at, count: Iterator[int] = count) -> int:
            if next(count) == at:
                raise OSError(errno.EIO, "I/O error")
            return size

        with pytest.raises(StorageError, match="I/O error"), striking(strike):
            fsops.write_durable(tmp_path / "file", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == (b"old" if at < 4 else b"new")
