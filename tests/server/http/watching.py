"""Looking at a running server from outside: its metrics, and waiting for what they show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx

__all__ = ["metric", "post_all", "until"]


def metric(url: str, name: str) -> float:
    """The sum of all samples whose line begins with `name`, labels included."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is so; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def post_all(pool: ThreadPoolExecutor, url: str, path: str, contents: Sequence[Any]) -> list[Future[httpx.Response]]:
    """Send bodies side by side and wait until the server has them all in work; it must have had none before."""
    sent = [pool.submit(httpx.post, url + path, json=content, timeout=200) for content in contents]
    until(lambda: metric(url, "kshot_in_flight ") == len(contents))
    return sent
