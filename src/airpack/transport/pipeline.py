"""Read in one thread, work in a pool, take the results in order: bounded in number and in bytes.

Both directions use it: packing reads, encodes and writes volumes; unpacking reads, decodes and writes files.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from typing import Final, TypeVar

J = TypeVar("J")
R = TypeVar("R")

_AHEAD: Final = 8  # jobs between the reader and the taker
_BUDGET: Final = 128 << 20  # bytes of jobs between them; one job alone may exceed it
_GRACE: Final = 2.0  # seconds that a reader has to end when nobody takes any more


def ordered(
    jobs: Generator[J, None, None], work: Callable[[J], R], *, cost: Callable[[J], int], workers: int
) -> Generator[R, None, None]:
    """Yield `work(job)` for each of `jobs`, in their order.

    `jobs` is walked, and closed, in a thread of its own; `work` runs in `workers` threads. The caller closes the
    returned generator when it stops early (`contextlib.closing`): then no further job is drawn, and all threads end.
    Only a reader whose input does not answer within two seconds is left behind, so that a medium that hangs does not
    keep anybody from stopping; it ends with its read, or with the process.

    Args:
        jobs: Each draws its input when it is asked for.
        work: Called with one job, in any thread.
        cost: Bytes that a job and its result occupy, about.
        workers: Threads for `work`, at least 1.

    Raises:
        Exception: The first that `jobs` or `work` raised, in the order of the jobs.
    """
    gate = _Gate(max(_AHEAD, 2 * workers), _BUDGET)
    results: SimpleQueue[tuple[int, Future[R]] | None] = SimpleQueue()
    failed: list[BaseException] = []
    with ThreadPoolExecutor(workers) as pool:

        def feed() -> None:
            try:
                with closing(jobs):
                    for job in jobs:
                        weight = cost(job)
                        if not gate.enter(weight):
                            return
                        results.put((weight, pool.submit(work, job)))
            except BaseException as error:  # noqa: BLE001, it is raised where the results are taken
                failed.append(error)
            finally:
                results.put(None)

        reader = threading.Thread(target=feed, name="reader", daemon=True)
        reader.start()
        try:
            while (item := results.get()) is not None:
                weight, future = item
                yield future.result()
                gate.leave(weight)
            if failed:
                raise failed[0]
        finally:
            gate.close()
            reader.join(_GRACE)


class _Gate:
    """Lets at most `most` jobs of together at most `budget` bytes through, and always at least one."""

    def __init__(self, most: int, budget: int) -> None:
        self._most, self._budget = most, budget
        self._inside, self._bytes = 0, 0
        self._closed = False
        self._changed = threading.Condition()

    def enter(self, weight: int) -> bool:
        """Wait for room; return false when the gate is closed for good."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(weight))
            self._inside, self._bytes = self._inside + 1, self._bytes + weight
            return not self._closed

    def _has_room(self, weight: int) -> bool:
        return self._inside == 0 or (self._inside < self._most and self._bytes + weight <= self._budget)

    def leave(self, weight: int) -> None:
        with self._changed:
            self._inside, self._bytes = self._inside - 1, self._bytes - weight
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
