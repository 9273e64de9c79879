"""Who is let in: permits, and a rate for each tenant."""

from __future__ import annotations

import pytest

from kshot_server.admission import Admission, RateLimiter
from kshot_server.faults import Fault


def test_permits_come_back() -> None:
    admission = Admission(2)
    for _ in range(2):
        admission.enter()
    with pytest.raises(Fault, match="overloaded"):
        admission.enter()
    assert admission.in_flight == 2
    admission.leave()
    admission.enter()
    assert admission.in_flight == 2


def test_rates_fill_up_again_and_are_each_tenants_own() -> None:
    now = [0.0]
    limiter = RateLimiter(10, clock=lambda: now[0])
    for _ in range(20):
        limiter.take("a")
    with pytest.raises(Fault, match="rate_limited") as caught:
        limiter.take("a")
    assert caught.value.retry_after == 1
    limiter.take("b")
    now[0] = 0.1
    limiter.take("a")
    with pytest.raises(Fault, match="rate_limited"):
        limiter.take("a")


def test_many_tenants_do_not_grow_for_ever() -> None:
    limiter = RateLimiter(1, clock=lambda: 0.0)
    for i in range(10_050):
        limiter.take(str(i))
    assert len(limiter._buckets) == 10_000


def test_rate_zero_is_no_limit() -> None:
    limiter = RateLimiter(0)
    for _ in range(1000):
        limiter.take("a")
