"""The circuit breaker: one failure closes the way, one success opens it again."""

from __future__ import annotations

from kshot_server.sessions.stores.breaker import CircuitBreaker

from .conftest import Clock


def test_closed_it_admits_everyone() -> None:
    breaker = CircuitBreaker(1.0, Clock())
    assert all(breaker.admits() for _ in range(100))


def test_open_it_admits_one_in_each_pause() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1.0, clock)
    breaker.failed()
    admitted = 0
    for _ in range(1000):
        admitted += breaker.admits()
        clock.now += 0.01
    assert admitted == 9


def test_a_success_closes_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1.0, clock)
    breaker.failed()
    clock.now += 1.0
    assert breaker.admits()
    assert not breaker.admits()
    breaker.succeeded()
    assert all(breaker.admits() for _ in range(10))


def test_a_failed_try_begins_a_new_pause() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1.0, clock)
    breaker.failed()
    clock.now += 1.0
    assert breaker.admits()
    clock.now += 0.5
    breaker.failed()
    clock.now += 0.9
    assert not breaker.admits()
    clock.now += 0.1
    assert breaker.admits()


def test_a_try_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1.0, clock)
    breaker.failed()
    for _ in range(5):
        clock.now += 1.0
        assert breaker.admits()  # and its task is cancelled: neither success nor failure
        assert not breaker.admits()
