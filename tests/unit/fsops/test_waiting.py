import os
import signal
import threading
import time

import pytest

from airpack.fsops import interruptible


def test_it_returns_what_was_done_elsewhere() -> None:
    assert interruptible(lambda: threading.current_thread().name) == "medium"


def test_it_raises_what_was_raised_elsewhere() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def test_a_signal_ends_the_wait_for_what_never_answers() -> None:
    answer, waiting = threading.Event(), threading.Event()

    def interrupt() -> None:
        assert waiting.wait(10)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def ask() -> None:
        waiting.set()
        answer.wait(10)

    # Whoever runs the tests in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interruptible(ask)
    finally:
        answer.set()
        signal.signal(signal.SIGINT, before)
