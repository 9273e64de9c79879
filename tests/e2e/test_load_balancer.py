"""Two replicas, one Redis, one nginx as shipped: any replica answers any session, also when the other is gone."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

TOLERANCE = 1e-5
SESSIONS = 6


def _open(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30)


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = client.post(path, json=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer


def _adapt(client: httpx.Client, support: dict[str, Any]) -> str:
    session: str = _post(client, "/v1/models/omniglot/sessions", support).json()["id"]
    return session


def _classify(client: httpx.Client, session: str, queries: dict[str, Any]) -> list[dict[str, float]]:
    answer = _post(client, f"/v1/sessions/{session}/classify", queries)
    return [prediction["probabilities"] for prediction in answer.json()["predictions"]]


def _largest_difference(left: list[dict[str, float]], right: list[dict[str, float]]) -> float:
    assert [one.keys() for one in left] == [other.keys() for other in right]
    return max(abs(one[label] - other[label]) for one, other in zip(left, right, strict=True) for label in one)


@pytest.fixture(scope="module")
def lessons(lesson: Callable[..., Any]) -> list[Any]:
    """Sessions of different ways and shots, each of its own characters."""
    ways = [2 + i % 4 for i in range(SESSIONS)]
    return [lesson({f"label {k}": 40 * i + k for k in range(way)}, shot=1 + i % 3) for i, way in enumerate(ways)]


@pytest.fixture(scope="module")
def replica(serve: Any, redis_url: str) -> Callable[[], Any]:
    """A server on the common store; one that is patient, because a busy test machine is no outage of Redis."""
    return lambda: serve("--store", redis_url, "--store-timeout", "10")


@pytest.fixture(scope="module")
def pair(replica: Callable[[], Any]) -> Iterator[list[Any]]:
    """Two replicas that no test may kill."""
    with replica() as first, replica() as second:
        yield [first, second]


def test_any_replica_answers_any_session_also_while_and_after_the_first_is_killed(
    replica: Callable[[], Any], balance: Any, lessons: list[Any]
) -> None:
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(replica()) for _ in range(2))
        url = stack.enter_context(balance([first.url, second.url]))
        maker, direct, balanced = (stack.enter_context(_open(to)) for to in (first.url, second.url, url))
        sessions = [_adapt(maker, one.support) for one in lessons]
        expected = [_classify(maker, session, one.queries) for session, one in zip(sessions, lessons, strict=True)]

        def worst(client: httpx.Client) -> float:
            answers = [_classify(client, session, one.queries) for session, one in zip(sessions, lessons, strict=True)]
            return max(_largest_difference(*both) for both in zip(answers, expected, strict=True))

        assert worst(direct) <= TOLERANCE
        assert worst(balanced) <= TOLERANCE
        # A stream of requests with no pause, the kill in the middle of it: not one of them may fail.
        killer = threading.Timer(1.0, first.kill)
        killer.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert worst(balanced) <= TOLERANCE
        killer.join()
        assert not first.listens()
        assert worst(direct) <= TOLERANCE
        # Teaching goes on too, and the same support set is the same session, wherever it was first made.
        assert [_adapt(balanced, one.support) for one in lessons] == sessions


def test_a_session_goes_to_one_replica(pair: list[Any], balance: Any, lessons: list[Any]) -> None:
    """The hash holds a session to one replica: of its many requests, only the first finds no weights in the cache."""
    with balance([one.url for one in pair]) as url, _open(url) as client:
        for one in lessons:
            session = _adapt(client, one.support)
            _classify(client, session, one.queries)
            for _ in range(4):
                answer = _post(client, f"/v1/sessions/{session}/classify", one.queries)
                assert float((re.findall(r"adapt;dur=([0-9.]+)", answer.headers["server-timing"]) or ["0"])[0]) == 0


def test_nginx_answers_in_the_form_of_kshot(pair: list[Any], balance: Any) -> None:
    with balance([one.url for one in pair]) as url, _open(url) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/livez", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        made = client.get("/livez", headers={"X-Request-Id": "not sane"}).headers["x-request-id"]
        assert len(made) == 32
        unknown = client.get(f"/v1/sessions/s_{'0' * 32}", headers={"X-Request-Id": "mine-2"})
        _assert_problem(unknown, 404, "session_not_found")
        assert unknown.headers["x-request-id"] == "mine-2"
        _assert_problem(client.get("/metrics"), 404, "not_found")
        too_large = client.post("/v1/models/omniglot/sessions", content=bytes((64 << 20) + 1))
        _assert_problem(too_large, 413, "payload_too_large")


def test_nginx_says_when_to_try_again_if_all_replicas_are_gone(balance: Any, free_port: Callable[[], int]) -> None:
    with balance([f"http://127.0.0.1:{free_port()}" for _ in range(2)]) as url, _open(url) as client:
        gone = client.get("/v1/models")
        _assert_problem(gone, 503, "engine_unavailable")
        assert gone.headers["retry-after"] == "1"


def _assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:kshot:problem:{code}")
    assert problem["request_id"] == answer.headers["x-request-id"]
