"""Read in one thread, work in a pool, take the results in order: bounded in number and in bytes.

Both directions use it: packing reads, encodes and writes volumes; unpacking reads, decodes and writes files. Room for
a job is taken before its bytes are read: no bytes lie in memory and wait for room.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

P = TypeVar("P")
J = TypeVar("J")
R = TypeVar("R")

BUDGET: Final = 128 << 20  # bytes of jobs between the reader and the taker; one job alone may exceed it
_AHEAD: Final = 8  # jobs between them
_LARGEST_KEPT: Final = 16 << 20  # bytes
_GRACE: Final = 2.0  # seconds that a reader has to end when nobody takes any more


class Ordered(Generic[R]):
    """The results of `work(read(plan))` for each of `plans`, in their order.

        with Ordered(plans, read, work, cost=cost, workers=2) as results:
            for result in results:
                ...

    Work begins at once. `plans` is walked, and closed, in a thread of its own, where `read` runs too; `work` runs in
    `workers` threads. Leaving the context ends it all: no further plan is drawn, and all threads end. Only a reader
    whose input does not answer within two seconds is left behind, so that a medium that hangs does not keep anybody
    from stopping; it ends with its read, or with the process.

    Iterating raises the first exception that `plans`, `read` or `work` raised, in its place among the results.

    Args:
        plans: What is to be read.
        read: Called with one plan at a time, once there is room for its job.
        work: Called with one job, in any thread.
        cost: Bytes that a plan's job and its result will occupy, about.
        workers: Threads for `work`, at least 1.
        budget: Bytes that all of them may occupy at once.
    """

    def __init__(
        self,
        plans: Generator[P, None, None],
        read: Callable[[P], J],
        work: Callable[[J], R],
        *,
        cost: Callable[[P], int],
        workers: int,
        budget: int = BUDGET,
    ) -> None:
        _keep_memory()
        self._gate = _Gate(max(_AHEAD, 2 * workers), budget)
        self._pool = ThreadPoolExecutor(workers)
        self._results: SimpleQueue[tuple[int, Future[R]] | None] = SimpleQueue()
        self._failed: BaseException | None = None

        def feed() -> None:
            try:
                with closing(plans):
                    for plan in plans:
                        weight = cost(plan)
                        if not self._gate.enter(weight):
                            return
                        # No name holds the job: its bytes go as soon as its work is done.
                        self._results.put((weight, self._pool.submit(work, read(plan))))
            except BaseException as error:  # noqa: BLE001, it is raised where the results are taken
                self._failed = error
            finally:
                self._results.put(None)

        self._reader = threading.Thread(target=feed, name="reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.close()
        self._reader.join(_GRACE)
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[R]:
        while (item := self._results.get()) is not None:
            weight, future = item
            del item
            yield future.result()
            del future  # and with it the result, before its room is given away
            self._gate.leave(weight)
        if self._failed is not None:
            raise self._failed


def _keep_memory() -> None:
    """Have the allocator keep what a frame frees for the next one, instead of giving it back and faulting it in again.

    glibc maps blocks above a threshold, which rises to the largest such block that was freed; twice as much stays
    (mallopt(3), M_MMAP_THRESHOLD). Other allocators take no notice.
    """
    _ = bytes(_LARGEST_KEPT)


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
