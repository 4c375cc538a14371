"""Waiting for a medium that may never answer.

The kernel does not let a signal interrupt a read of a disk, a stick or a network share: whoever waits for it in the
main thread cannot be stopped with Ctrl-C. So the main thread never waits for a medium itself. It waits for a thread
that does, and leaves it behind when it is told to stop; the process can then end.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def interruptible(work: Callable[[], _T]) -> _T:
    """Return `work()`, done in a thread that is left behind when a signal ends the wait.

    Args:
        work: Only looks at a medium: nobody waits for its end once the wait was ended.

    Raises:
        BaseException: Whatever `work` raised, or a signal's handler in the main thread (`KeyboardInterrupt`).
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001, it is raised again where somebody waits
            done.set_exception(error)

    threading.Thread(target=run, name="medium", daemon=True).start()
    return done.result()
