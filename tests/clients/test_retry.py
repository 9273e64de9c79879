"""How long the client waits, and when it gives up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kshot import ConfigurationError, RetryPolicy
from kshot._retry import parse_retry_after


def test_waits_double_up_to_the_longest_and_are_drawn_from_zero() -> None:
    policy = RetryPolicy(retries=2000, first_seconds=0.5, longest_seconds=8)
    most = [policy.wait_seconds(attempt, draw=lambda: 1.0) for attempt in range(7)]
    assert most == [0.5, 1, 2, 4, 8, 8, 8]
    assert policy.wait_seconds(1999, draw=lambda: 1.0) == 8
    assert policy.wait_seconds(3, draw=lambda: 0.0) == 0


def test_the_default_draw_is_within_bounds_and_differs() -> None:
    draws = {RetryPolicy().wait_seconds(1) for _ in range(50)}
    assert len(draws) > 40
    assert all(draw is not None and 0 <= draw < 0.5 for draw in draws)


def test_gives_up_after_the_last_retry() -> None:
    assert RetryPolicy(2).wait_seconds(1) is not None
    assert RetryPolicy(2).wait_seconds(2) is None
    assert RetryPolicy(0).wait_seconds(0) is None


def test_retry_after_is_waited_out_and_too_long_a_one_is_not() -> None:
    policy = RetryPolicy(longest_retry_after_seconds=10)
    assert policy.wait_seconds(0, 10.0, draw=lambda: 0.5) == 10.125
    assert policy.wait_seconds(0, 10.1) is None


def test_negative_retries_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not -1"):
        RetryPolicy(-1)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.25", 0.25),
        ("-5", 0.0),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("Sat, 21 Nov 2026 06:00:07 GMT", 7.0),
        ("Sat, 21 Nov 2026 05:00:00 GMT", 0.0),
    ],
)
def test_retry_after_header(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=datetime(2026, 11, 21, 6, tzinfo=UTC)) == seconds


def test_retry_after_date_counts_from_now() -> None:
    assert parse_retry_after("Sat, 21 Nov 2020 06:00:07 GMT") == 0.0
