import threading
import weakref
from collections.abc import Generator
from itertools import islice

import pytest

from airpack.transport.pipeline import Ordered


def count(stop: int, drawn: list[int] | None = None, closed: list[bool] | None = None) -> Generator[int, None, None]:
    try:
        for number in range(stop):
            if drawn is not None:
                drawn.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(True)


def same(number: int) -> int:
    return number


def one(_: int) -> int:
    return 1


def test_results_come_in_the_order_of_the_plans() -> None:
    release = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert release.wait(10)  # job 1 overtakes job 0
        elif number == 1:
            release.set()
        return number * 10

    with Ordered(count(50), same, work, cost=one, workers=2) as results:
        assert list(results) == [number * 10 for number in range(50)]


def test_what_is_read_is_worked_on() -> None:
    with Ordered(count(5), lambda number: "x" * number, len, cost=one, workers=2) as results:
        assert list(results) == [0, 1, 2, 3, 4]


def test_work_begins_before_anybody_asks() -> None:
    begun = threading.Event()
    with Ordered(count(1), same, lambda _: begun.set(), cost=one, workers=1):
        assert begun.wait(10)


def test_the_reader_stays_a_bounded_number_of_jobs_ahead() -> None:
    drawn: list[int] = []
    with Ordered(count(1000, drawn), same, same, cost=one, workers=2) as results:
        for taken, _ in enumerate(results):
            assert len(drawn) <= taken + 10
    assert len(drawn) == 1000


@pytest.mark.parametrize(("cost", "ahead"), [(1 << 40, 1), (40, 2), (34, 2), (33, 3), (20, 5)])
def test_nothing_is_read_before_there_is_room_for_it(cost: int, ahead: int) -> None:
    read: list[int] = []

    def reading(number: int) -> int:
        read.append(number)
        return number

    with Ordered(count(20), reading, same, cost=lambda _: cost, workers=2, budget=100) as results:
        for taken, _ in enumerate(results):
            assert len(read) <= taken + ahead
    assert read == list(range(20))


def test_the_bytes_of_a_job_go_with_its_work_and_a_result_goes_before_the_next_is_read() -> None:
    class Bytes:
        pass

    alive: weakref.WeakSet[Bytes] = weakref.WeakSet()
    seen: list[int] = []

    def make(_: int) -> Bytes:
        seen.append(len(alive))
        data = Bytes()
        alive.add(data)
        return data

    def work(_: Bytes) -> Bytes:
        return make(0)

    with Ordered(count(20), make, work, cost=lambda _: 100, workers=1, budget=100) as results:
        for result in results:
            del result
    assert seen == [0, 1] * 20


def test_an_error_in_a_job_comes_in_its_place() -> None:
    def work(number: int) -> int:
        return 1 // (3 - number)

    with Ordered(count(100), same, work, cost=one, workers=3) as ordered:
        results = iter(ordered)
        assert list(islice(results, 3)) == [0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_an_error_in_planning_comes_after_the_jobs_before_it() -> None:
    def plans() -> Generator[int, None, None]:
        yield from (1, 2)
        raise KeyError("medium")

    with Ordered(plans(), same, same, cost=one, workers=2) as ordered:
        results = iter(ordered)
        assert list(islice(results, 2)) == [1, 2]
        with pytest.raises(KeyError):
            next(results)


def test_an_error_in_reading_comes_after_the_jobs_before_it_and_closes_the_plans() -> None:
    closed: list[bool] = []

    def read(number: int) -> int:
        return 1 // (2 - number)

    with Ordered(count(100, closed=closed), read, same, cost=one, workers=2) as ordered:
        results = iter(ordered)
        assert list(islice(results, 2)) == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert closed == [True]


@pytest.mark.parametrize("taken", [0, 1, 30])
def test_stopping_early_closes_the_plans_and_ends_all_threads(taken: int) -> None:
    closed: list[bool] = []
    before = threading.active_count()
    with Ordered(count(10**9, closed=closed), same, same, cost=one, workers=2) as results:
        assert list(islice(results, taken)) == list(range(taken))
    assert closed == [True]
    assert threading.active_count() == before


@pytest.mark.parametrize("waiting", ["plan", "read"])
def test_a_reader_that_gets_no_answer_is_left_behind(monkeypatch: pytest.MonkeyPatch, waiting: str) -> None:
    monkeypatch.setattr("airpack.transport.pipeline._GRACE", 0.05)
    answer, closed = threading.Event(), threading.Event()
    worked: list[int] = []

    def plans() -> Generator[int, None, None]:
        try:
            yield 1
            if waiting == "plan":
                answer.wait(10)
            yield 2
        finally:
            closed.set()

    def read(number: int) -> int:
        if waiting == "read" and number == 2:
            answer.wait(10)
        return number

    with Ordered(plans(), read, worked.append, cost=one, workers=1) as results:
        next(iter(results))
    assert not closed.is_set()
    answer.set()
    assert closed.wait(10), "it ends once there is an answer, and draws nothing more"
    assert worked == [1]


def test_no_plans_give_no_results() -> None:
    with Ordered(count(0), same, same, cost=one, workers=1) as results:
        assert list(results) == []
