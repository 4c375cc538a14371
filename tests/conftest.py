"""For all tests: how hypothesis works here, the real wheels of the example, and no network for unit tests."""

import os
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# No deadline: a slow machine is no bug. In CI the same examples are tried each time, so that a red build can be rerun.
settings.register_profile("airpack", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("airpack")


def _refused(_socket: socket.socket, address: object, *_rest: object) -> None:
    raise AssertionError(f"a unit test wants to reach {address!r}; unit tests use no network")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run a test; a unit test that opens a connection fails."""
    if not item.path.is_relative_to(REPOSITORY / "tests/unit"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refused)
        patch.setattr(socket.socket, "connect_ex", _refused)
        patch.setattr(socket.socket, "sendto", _refused)
        return (yield)


@pytest.fixture(scope="session")
def digits_wheels() -> Path:
    """The folder of the real onnxruntime wheels, fetched (once, hashes checked) where they are not there yet."""
    subprocess.run([REPOSITORY / "scripts/wheels"], check=True)
    return REPOSITORY / "manifests/digits/wheels"
