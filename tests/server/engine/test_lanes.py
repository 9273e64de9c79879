"""The threads that compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kshot_server.engine.lanes import Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(2, lambda: None)
    yield made
    made.shutdown()


def test_who_worked_last_works_next(lanes: Lanes) -> None:
    both = threading.Barrier(2)

    def meet() -> int:
        both.wait(10)
        return threading.get_ident()

    first, second = lanes.submit(meet), lanes.submit(meet)
    assert first.result(10) != second.result(10)
    deadline = time.monotonic() + 10
    while len(lanes._idle) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    seen = set()
    for _ in range(20):
        seen.add(lanes.submit(threading.get_ident).result(10))
        while len(lanes._idle) < 2:
            time.sleep(0.001)
    assert len(seen) == 1


def test_each_enters_once_and_no_more_are_started_than_there_may_be() -> None:
    entered = []
    lanes = Lanes(2, lambda: entered.append(threading.get_ident()))
    found = [lanes.submit(lambda: (time.sleep(0.001), threading.get_ident())[1]) for _ in range(30)]
    assert {future.result(10) for future in found} <= set(entered)
    assert len(entered) == 2 == len(set(entered))
    lanes.shutdown()


def test_what_work_raises_is_its_futures(lanes: Lanes) -> None:
    with pytest.raises(ZeroDivisionError):
        lanes.submit(lambda: 1 // 0).result(10)
    assert lanes.submit(lambda: 7).result(10) == 7


def test_shutdown_waits_for_what_was_submitted_and_takes_no_more(lanes: Lanes) -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    for number in range(6):
        lanes.submit(lambda number=number: slow(number))
    lanes.shutdown()
    assert sorted(done) == list(range(6))
    with pytest.raises(RuntimeError, match="shut down"):
        lanes.submit(lambda: None)
    lanes.shutdown()
