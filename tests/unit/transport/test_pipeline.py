import threading
from collections.abc import Generator
from contextlib import closing
from itertools import islice

import pytest

from airpack.transport.pipeline import ordered


def count(stop: int, drawn: list[int] | None = None, closed: list[bool] | None = None) -> Generator[int, None, None]:
    try:
        for number in range(stop):
            if drawn is not None:
                drawn.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(True)


def test_results_come_in_the_order_of_the_jobs() -> None:
    release = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert release.wait(10)  # job 1 overtakes job 0
        elif number == 1:
            release.set()
        return number * 10

    assert list(ordered(count(50), work, cost=lambda _: 1, workers=2)) == [number * 10 for number in range(50)]


def test_the_reader_stays_a_bounded_number_of_jobs_ahead() -> None:
    drawn: list[int] = []
    with closing(ordered(count(1000, drawn), lambda number: number, cost=lambda _: 1, workers=2)) as results:
        for taken, _ in enumerate(results):
            assert len(drawn) <= taken + 10
    assert len(drawn) == 1000


def test_the_reader_stays_a_bounded_number_of_bytes_ahead() -> None:
    drawn: list[int] = []
    with closing(ordered(count(20, drawn), lambda number: number, cost=lambda _: 1 << 40, workers=2)) as results:
        for taken, _ in enumerate(results):
            assert len(drawn) <= taken + 2
    assert len(drawn) == 20


def test_an_error_in_a_job_comes_in_its_place() -> None:
    def work(number: int) -> int:
        return 1 // (3 - number)

    results = ordered(count(100), work, cost=lambda _: 1, workers=3)

    assert list(islice(results, 3)) == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_in_reading_comes_after_the_jobs_before_it() -> None:
    def jobs() -> Generator[int, None, None]:
        yield from (1, 2)
        raise KeyError("medium")

    results = ordered(jobs(), lambda number: number, cost=lambda _: 1, workers=2)

    assert list(islice(results, 2)) == [1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_stopping_early_closes_the_jobs_and_ends_all_threads() -> None:
    closed: list[bool] = []
    before = threading.active_count()
    with closing(ordered(count(10**9, closed=closed), lambda number: number, cost=lambda _: 1, workers=2)) as results:
        assert next(results) == 0
    assert closed == [True]
    assert threading.active_count() == before


def test_a_reader_that_gets_no_answer_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airpack.transport.pipeline._GRACE", 0.05)
    answer, closed = threading.Event(), threading.Event()

    def jobs() -> Generator[int, None, None]:
        try:
            yield 1
            answer.wait(10)
            yield 2
        finally:
            closed.set()

    results = ordered(jobs(), lambda number: number, cost=lambda _: 1, workers=1)
    assert next(results) == 1
    results.close()
    assert not closed.is_set()
    answer.set()
    assert closed.wait(10), "it ends once there is an answer, and draws nothing more"


def test_no_jobs_give_no_results() -> None:
    assert list(ordered(count(0), lambda number: number, cost=lambda _: 1, workers=1)) == []
