"""Two sessions, asked in turn by 16 clients at once: every answer is the one that the session gives when it is alone.

The sessions know the same labels by different characters, so an answer from the other's weights would show. What is
left is float rounding: the queries of one request go through the network together, and the order of additions inside a
convolution depends on how many they are. Hence a tolerance instead of equality.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

_log = logging.getLogger(__name__)

CLIENTS = 16
# `make soak` asks for a minute.
SECONDS = float(os.environ.get("SOAK_SECONDS") or 5)
LEAST_REQUESTS = 10  # of each client, however slow the machine
TOLERANCE = 1e-4


@dataclass
class Differences:
    """What the clients saw."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: int = 0
    worst: float = 0.0

    def add(self, difference: float) -> None:
        with self.lock:
            self.answers += 1
            self.worst = max(self.worst, difference)


@dataclass(frozen=True)
class Taught:
    """A session, its queries, and the probabilities that it answers when it is alone."""

    session: str
    support: dict[str, Any]
    queries: list[dict[str, Any]]
    alone: list[dict[str, float]]


def _classify(client: httpx.Client, session: str, queries: list[dict[str, Any]]) -> list[dict[str, float]]:
    answer = client.post(f"/v1/sessions/{session}/classify", json={"queries": queries})
    assert answer.status_code == 200, answer.text
    return [prediction["probabilities"] for prediction in answer.json()["predictions"]]


def _teach(client: httpx.Client, one: Any) -> Taught:
    answer = client.post("/v1/models/omniglot/sessions", json=one.support)
    assert answer.status_code in {200, 201}, answer.text
    session, queries = answer.json()["id"], one.queries["queries"]
    return Taught(session, one.support, queries, [_classify(client, session, [query])[0] for query in queries])


def _ask(url: str, number: int, taught: list[Taught], differences: Differences) -> None:
    rng = random.Random(number)
    with httpx.Client(base_url=url, timeout=30) as client:
        end, asked = time.monotonic() + SECONDS, 0
        while time.monotonic() < end or asked < LEAST_REQUESTS:
            asked += 1
            one = rng.choice(taught)
            if rng.random() < 0.1:
                again = client.post("/v1/models/omniglot/sessions", json=one.support)
                assert (again.status_code, again.json()["id"]) == (200, one.session)
            picked = rng.sample(range(len(one.queries)), rng.randint(1, len(one.queries)))
            answers = _classify(client, one.session, [one.queries[i] for i in picked])
            for i, answer in zip(picked, answers, strict=True):
                assert answer.keys() == one.alone[i].keys()
                differences.add(max(abs(answer[label] - one.alone[i][label]) for label in answer))


@pytest.mark.timeout(240 + 2 * int(SECONDS))
@pytest.mark.parametrize("cache_bytes", [256 << 20, 0], ids=["weights cached", "weights recomputed for every request"])
def test_interleaved_sessions_answer_as_if_alone(
    serve: Any, lesson: Callable[..., Any], cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="httpx")  # it would log each of the many requests
    with serve("--cache-bytes", str(cache_bytes)) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        taught = [
            _teach(client, lesson({"a": 3, "b": 4, "c": 5, "d": 6, "e": 7})),
            _teach(client, lesson({"a": 300, "b": 301, "c": 302, "d": 303, "e": 304}, shot=2)),
        ]
        differences = Differences()
        with ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(_ask, server.url, number, taught, differences) for number in range(CLIENTS)]:
                done.result()
    _log.info("%d answers in %g s, the worst probability off by %.2e", differences.answers, SECONDS, differences.worst)
    assert differences.answers >= LEAST_REQUESTS * CLIENTS
    assert differences.worst <= TOLERANCE
