"""The threads that compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kshot_models.sharing import Lend
from kshot_server.engine.lanes import Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(2, lambda _: None)
    yield made
    made.shutdown()


def wait_until_idle(lanes: Lanes, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(lanes._idle) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_worked_last_works_next(lanes: Lanes) -> None:
    both = threading.Barrier(2)

    def meet() -> int:
        both.wait(10)
        return threading.get_ident()

    first, second = lanes.submit(meet), lanes.submit(meet)
    assert first.result(10) != second.result(10)
    wait_until_idle(lanes, 2)
    seen = set()
    for _ in range(20):
        seen.add(lanes.submit(threading.get_ident).result(10))
        wait_until_idle(lanes, 2)
    assert len(seen) == 1


def test_each_enters_once_and_no_more_are_started_than_there_may_be() -> None:
    entered = []
    lanes = Lanes(2, lambda _: entered.append(threading.get_ident()))
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


def test_idle_lanes_help_and_busy_ones_do_not(lanes: Lanes) -> None:
    assert lanes.lend([lambda: None]) is None  # there is no thread yet, and none is started for this
    begun, go = threading.Barrier(3), threading.Event()

    def busy() -> None:
        begun.wait(10)
        go.wait(10)

    busy_ones = [lanes.submit(busy), lanes.submit(busy)]
    begun.wait(10)
    assert lanes.lend([lambda: None]) is None
    go.set()
    for future in busy_ones:
        future.result(10)
    wait_until_idle(lanes, 2)
    done: list[int] = []
    assert lanes.lend([lambda: done.append(1)] * 3) is None  # all or nothing
    assert not done
    helped = lanes.lend([lambda: done.append(1), lambda: done.append(2)])
    assert helped is not None
    for help_ in helped:
        help_.result(10)
    assert sorted(done) == [1, 2]


def test_a_lane_that_enters_is_told_how_to_ask_for_help() -> None:
    def ask() -> list[int]:
        found: list[int] = []
        wait_until_idle(lanes, 1)
        helped = told[0]([lambda: found.append(threading.get_ident())])
        assert helped is not None
        helped[0].result(10)
        return found

    told: list[Lend] = []
    lanes = Lanes(2, told.append)
    both = threading.Barrier(2)
    for future in [lanes.submit(lambda: both.wait(10)) for _ in range(2)]:
        future.result(10)
    (helper,) = lanes.submit(ask).result(10)
    assert len(told) == 2
    assert helper in {thread.ident for thread in lanes._threads}
    lanes.shutdown()
    assert told[0]([lambda: None]) is None
