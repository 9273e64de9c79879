"""The short road answers what the long one answers, and takes only what has nothing else to be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.routing
import httpx
import numpy as np
import pytest

from kshot_server.engine.requests import Adapted, Classified, Failed, Timings
from kshot_server.express import Express

from .house import TEACH, House

ONCE = "/v1/models/tiny/classify"
LONG = {"X-Timeout-Seconds": "30"}  # a parameter, so FastAPI has to read it
SAID_ANEW = {"request_id", "session"}  # each house has a key of its own for the ids


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of requests that came to FastAPI's routes."""
    paths: list[str] = []
    handle = fastapi.routing.APIRoute.handle

    async def counted(route: Any, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await handle(route, scope, receive, send)

    monkeypatch.setattr(fastapi.routing.APIRoute, "handle", counted)
    return paths


def _said(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    said = {key: value for key, value in answer.json().items() if key not in SAID_ANEW}
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "server-timing"}}
    headers.pop("content-length")
    return answer.status_code, headers, said


@pytest.mark.parametrize("wrong", ["", "model", "body", "engine", "rate"])
def test_both_roads_give_the_same_answer(
    house: Callable[..., House], bodies: Callable[..., Any], taken: list[str], wrong: str
) -> None:
    classified = Classified(np.array([[0.2, 0.5, 0.3]], np.float32), Timings(1, predict_ms=2, batch_size=3), "device")
    body = bodies(queries=1).json
    if wrong == "body":
        body = {"support": []}
    path = ONCE.replace("tiny", "no such" if wrong == "model" else "tiny")
    answers = []
    for headers in ({}, LONG):
        built = house(
            Failed("overloaded", "full") if wrong == "engine" else classified, rate_limit=0.1 if wrong == "rate" else 0
        )
        requests = [("POST", path, body)] * (2 if wrong == "rate" else 1)
        answers.append(_said(built.ask(*requests, **headers)[-1]))
    assert answers[0] == answers[1]
    assert answers[0][0] == {"": 200, "model": 404, "body": 422, "engine": 503, "rate": 429}[wrong]
    assert len(taken) == (2 if wrong == "rate" else 1)


@pytest.mark.parametrize(
    ("method", "path", "headers", "short"),
    [
        ("POST", TEACH, {}, True),
        ("POST", ONCE, {}, True),
        ("POST", f"/v1/sessions/s_{'0' * 32}/classify", {}, True),
        ("POST", f"/v1/sessions/s_{'0' * 32}/support", {}, True),
        ("POST", TEACH, LONG, False),
        ("POST", TEACH, {"x-TIMEOUT-seconds": "1"}, False),
        ("POST", TEACH + "/", {}, False),
        ("PUT", TEACH, {}, False),
        ("GET", "/v1/sessions?limit=3", {}, False),
        ("DELETE", f"/v1/sessions/s_{'0' * 32}", {}, False),
    ],
)
def test_which_road_is_taken(
    house: Callable[..., House],
    bodies: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    headers: dict[str, str],
    short: bool,
) -> None:
    built = house(Adapted(Timings(0)))
    express, came = built.mounted.entrance, []
    assert isinstance(express, Express)
    rest = express._rest

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        came.append(scope["path"])
        await rest(scope, receive, send)

    monkeypatch.setattr(express, "_rest", counted)
    built.ask((method, path, bodies().json), **headers)
    assert came == ([] if short else [path.partition("?")[0]])


def test_the_short_road_counts_and_tells_the_time_as_the_long_one(
    house: Callable[..., House], bodies: Callable[..., Any]
) -> None:
    built = house(Adapted(Timings(0)))
    short, long = built.ask(("POST", TEACH, bodies().json)), built.ask(("POST", TEACH, bodies(seed=9).json), **LONG)
    assert [answer.status_code for answer in short + long] == [201, 201]
    assert all("total;dur=" in answer.headers["Server-Timing"] for answer in short + long)
    route = "/v1/models/{model}/sessions"
    counted = f'kshot_requests_total{{method="POST",route="{route}",status="201"}} 2.0'
    assert counted in built.mounted.metrics.render().decode()
