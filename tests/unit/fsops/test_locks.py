import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from airpack.errors import BusyError, StorageError
from airpack.fsops import Lock

HOLDER = """
import pathlib, sys
from airpack.fsops import Lock
with Lock(pathlib.Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path, kind: str = "exclusive") -> subprocess.Popen[str]:
    """Start a process that holds the lock until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_told_to_wait(tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as process:
        with pytest.raises(BusyError, match="another airpack process holds") as caught, Lock(tmp_path / "lock"):
            pass
        assert "run the same command again" in caught.value.hint
        assert caught.value.context == {"path": str(tmp_path / "lock")}
        process.communicate()
    with Lock(tmp_path / "lock"):
        pass


def test_the_lock_is_free_once_its_holder_was_killed(tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Lock(tmp_path / "lock"):
            pass


def test_a_program_that_the_holder_starts_does_not_hold_it_on(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"):
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"runs\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"runs\n"
        with Lock(tmp_path / "lock"):
            pass
        child.communicate()


@pytest.mark.parametrize(("first", "shared", "free"), [("shared", True, True), ("shared", False, False)])
def test_only_shared_locks_go_together(tmp_path: Path, first: str, shared: bool, free: bool) -> None:
    with hold(tmp_path / "lock", first) as process:
        if free:
            with Lock(tmp_path / "lock", shared=shared):
                pass
        else:
            with pytest.raises(BusyError), Lock(tmp_path / "lock", shared=shared):
                pass
        process.communicate()


def test_an_exclusive_lock_keeps_shared_ones_out(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(BusyError), Lock(tmp_path / "lock", shared=True):
        pass


def test_an_exception_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Lock(tmp_path / "lock"):
        raise KeyError
    with Lock(tmp_path / "lock"):
        pass


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot open lock"), Lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open lock"), Lock(tmp_path / "no/lock"):
        pass


def test_a_file_system_without_locks_is_a_failure_and_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StorageError, match="cannot lock"), Lock(tmp_path / "lock"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
