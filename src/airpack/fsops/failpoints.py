"""Failpoints: every step that changes a disk says so before it happens, so that a test can strike there.

A step is named by what it does (`write`, `sync`, `rename`, …) and by the path it is done to. The catalog's transactions
are steps too: `begin`, `commit` before it, `committed` after it. Nothing happens at a step unless a test sets a hook.
The hook may end the process, raise an `OSError` in place of the system, or let a write through in part only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Hook = Callable[[str, Path, int], int]
"""Called with step, path and, for a write, the bytes in hand; returns how many of those may be written at once."""

_hook: Hook | None = None


def reach(step: str, path: Path, size: int = 0) -> int:
    """Say that `step` is about to be done to `path`.

    Args:
        step: What is about to happen.
        path: To which file or folder.
        size: Bytes about to be written, 0 for other steps.

    Returns:
        How many of the `size` bytes to write at once; the rest is a step of its own.

    Raises:
        OSError: What a test lets happen here.
    """
    return size if _hook is None else _hook(step, path, size)


@contextmanager
def striking(hook: Hook) -> Iterator[None]:
    """Call `hook` at each step while the context lasts: for tests."""
    global _hook  # noqa: PLW0603, one per process, as the disk is
    before, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = before
