"""Strikes a child process at its N-th durable step: the step is not done, or a write is done by half."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from airpack.errors import AirpackError
from airpack.fsops.failpoints import striking

THROUGH, REFUSED, BROKEN, STRUCK = 0, 3, 77, 42  # how a child ends
Blow = Callable[[], None]
"""What happens at the step; returns only where the child is to go on."""


def kill() -> NoReturn:
    """End this process as SIGKILL does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives SIGKILL")


@dataclass(slots=True)
class Striker:
    """A hook that strikes at the `at`-th step; a write it lets through by half first.

    Attributes:
        at: Counted from 1; 0 never strikes.
        blow: What happens there.
        count: Steps so far.
        torn: Whether half of the struck write has been let through.
    """

    at: int
    blow: Blow
    count: int = 0
    torn: bool = field(default=False, init=False)

    def __call__(self, step: str, path: Path, size: int) -> int:  # noqa: ARG002, the hook's signature
        """Count a step, and strike if it is the one."""
        if self.torn:
            self.blow()
        self.count += 1
        if self.count != self.at:
            return size
        if size > 1:
            self.torn = True
            return size // 2
        self.blow()
        return size


def struck(at: int, act: Callable[[], object], blow: Blow = kill) -> bool:
    """Do `act` in a child that is struck at its `at`-th durable step; return whether it got through before.

    Syncs still count as steps, but wait for no disk where a kill is the blow: a kill loses nothing that was written.

    Raises:
        AssertionError: The act ended by an exception that is not airpack's own.
    """
    child = os.fork()
    if child == 0:
        _child(at, act, blow)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return False
    code = os.WEXITSTATUS(status)
    assert code in {THROUGH, REFUSED, STRUCK}, f"the act ended by an exception of its own, exit code {code}"
    return code != STRUCK


def _child(at: int, act: Callable[[], object], blow: Blow) -> NoReturn:
    if blow is kill:
        os.fsync = lambda fd: None  # noqa: ARG005, the system's name
    try:
        with striking(Striker(at, blow)):
            act()
    except AirpackError:
        os._exit(REFUSED)
    except BaseException as error:  # noqa: BLE001, a forked child must never go on as its parent
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(BROKEN)
    os._exit(THROUGH)
