"""What is not the client's doing: engines that fail, hang or are not there, a store that is away, clients gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from kshot_server.engine.requests import (
    Adapted,
    Classified,
    Failed,
    NeedsSupport,
    Timings,
)
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.sessions.stores.table import open_store

from .house import TEACH, Engines, House


@pytest.mark.parametrize(
    ("failed", "status", "retry_after"),
    [
        (Failed("overloaded", "full"), 503, "1"),
        (Failed("draining", "closing", action="elsewhere"), 503, "1"),
        (Failed("deadline_exceeded", "late"), 504, None),
        (Failed("invalid_targets", "d", expected=(3,), received=np.int64(2)), 422, None),
        (Failed("adaptation_diverged", "to infinity"), 422, None),
    ],
)
def test_failures_of_the_engine(
    house: Callable[..., House], bodies: Callable[..., Any], failed: Failed, status: int, retry_after: str | None
) -> None:
    (answer,) = house(failed).ask(("POST", TEACH, bodies().json))
    assert (answer.status_code, answer.json()["code"]) == (status, failed.code)
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.json()["detail"] == failed.detail


def test_a_defect_of_the_engine_is_told_to_the_log_alone(
    house: Callable[..., House], bodies: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    (answer,) = house(Failed("internal_error", "tensor 7 of secret.py", incident="i-42")).ask(
        ("POST", TEACH, bodies().json)
    )
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret.py" not in answer.text
    assert "i-42" in caplog.text


def test_lost_weights_are_made_again(house: Callable[..., House], bodies: Callable[..., Any]) -> None:
    timings = Timings(queue_ms=1, predict_ms=2, batch_size=3)
    classified = Classified(np.array([[0.2, 0.5, 0.3]], np.float32), timings, "recomputed")
    built = house(Adapted(Timings(0)), NeedsSupport(), classified)
    body = bodies(queries=1)
    (made,) = built.ask(("POST", TEACH, {"support": body.json["support"]}))
    (answer,) = built.ask(("POST", f"/v1/sessions/{made.json()['id']}/classify", body.query_json))
    assert answer.json()["predictions"][0]["label"] == "bee"
    assert "predict;dur=2.000" in answer.headers["Server-Timing"]


def test_a_model_version_that_has_gone(
    house: Callable[..., House], bodies: Callable[..., Any], tmp_path: Path, models: Path
) -> None:
    store = MemoryStore(1 << 20)
    (made,) = house(Adapted(Timings(0)), store=store).ask(("POST", TEACH, bodies().json))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "2").symlink_to(models / "tiny" / "2")
    elsewhere = House(tmp_path, Engines(), store)
    (answer,) = elsewhere.ask(("POST", f"/v1/sessions/{made.json()['id']}/classify", bodies(queries=1).query_json))
    elsewhere.mounted.decoder.close()
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert answer.json()["expected"] == "tiny@10"


def test_states_of_the_server(house: Callable[..., House]) -> None:
    built = house()
    for state, status, code, served in (
        ("starting", 503, "engine_unavailable", 200),
        ("leaving", 503, "draining", 200),
        ("draining", 503, "draining", 503),
        ("ready", 200, None, 200),
    ):
        built.state = state
        ready, live, models = built.ask(("GET", "/readyz", None), ("GET", "/livez", None), ("GET", "/v1/models", None))
        assert (ready.status_code, ready.json().get("code"), live.status_code) == (status, code, 200)
        assert models.status_code == served
    assert b'kshot_rejected_total{reason="draining"} 1.0' in built.mounted.metrics.render()


def test_exceptions_that_nobody_foresaw(house: Callable[..., House], caplog: pytest.LogCaptureFixture) -> None:
    built = house()

    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    async def broken() -> None:
        raise KeyError("secret")

    built.app.get("/teapot")(teapot)
    built.app.get("/broken")(broken)
    for answer in built.ask(("GET", "/teapot", None), ("GET", "/broken", None)):
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "stout" not in answer.text
        assert "secret" not in answer.text
    assert "KeyError" in caplog.text


def test_a_deadline_ends_the_wait(house: Callable[..., House], bodies: Callable[..., Any]) -> None:
    (answer,) = house().ask(("POST", TEACH, bodies().json), **{"X-Timeout-Seconds": "0.5"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_the_servers_own_deadline_is_the_longest(house: Callable[..., House], bodies: Callable[..., Any]) -> None:
    (answer,) = house(timeout=0.2).ask(("POST", TEACH, bodies().json), **{"X-Timeout-Seconds": "1000"})
    assert "0.2 seconds" in answer.json()["detail"]


def messages(*parts: Message) -> Callable[[], Awaitable[Message]]:
    queue = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(0.05)
        return queue.pop(0) if queue else {"type": "http.disconnect"}

    return receive


def test_a_client_that_leaves_cancels_its_work(models: Path, bodies: Callable[..., Any]) -> None:
    engines = Engines()
    built = House(models, engines)
    content = json.dumps(bodies().json).encode()
    assert built.exchange(messages({"type": "http.request", "body": content, "more_body": False})) == []
    built.mounted.decoder.close()
    assert len(engines.requests) == engines.cancelled == 1
    assert b'status="499"' in built.mounted.metrics.render()


def test_a_client_that_leaves_in_its_body(house: Callable[..., House]) -> None:
    built = house()
    assert built.exchange(messages({"type": "http.request", "body": b"{", "more_body": True})) == []
    assert b'status="499"' in built.mounted.metrics.render()


def test_a_body_that_never_announced_its_size(house: Callable[..., House]) -> None:
    built = house(max_body_bytes=5000)
    chunk = {"type": "http.request", "body": bytes(2000), "more_body": True}
    start, body = built.exchange(messages(*[chunk] * 10))
    assert start["status"] == 413
    assert json.loads(body["body"])["code"] == "payload_too_large"


def test_a_store_that_was_never_there(
    house: Callable[..., House],
    bodies: Callable[..., Any],
    free_port: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("redis")
    caplog.set_level(logging.CRITICAL)
    session = f"/v1/sessions/s_{'0' * 32}"
    for method, path, body in (
        ("POST", TEACH, bodies().json),
        ("POST", "/v1/models/tiny/classify", bodies(queries=1).json),
        ("POST", f"{session}/classify", bodies(queries=1).query_json),
        ("POST", f"{session}/support", bodies().json),
        ("GET", session, None),
        ("DELETE", session, None),
        ("GET", "/v1/sessions", None),
    ):
        built = house(store=open_store(f"redis://127.0.0.1:{free_port()}/0"))
        (answer,) = built.ask((method, path, body))
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), path
        assert int(answer.headers["Retry-After"]) > 0
    # What cannot be an id is unknown, store or not.
    built = house(store=open_store(f"redis://127.0.0.1:{free_port()}/0"))
    (answer,) = built.ask(("GET", "/v1/sessions/nonsense", None))
    assert answer.status_code == 404


def test_a_session_that_does_not_fit(house: Callable[..., House], bodies: Callable[..., Any]) -> None:
    adapted, classified = (
        Adapted(Timings(0)),
        Classified(np.array([[1, 0, 0]], np.float32), Timings(0), "recomputed"),
    )
    (refused,) = house(adapted, store=MemoryStore(100)).ask(("POST", TEACH, bodies().json))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    # In one call, the answer is complete without a session.
    (answer,) = house(classified, store=MemoryStore(100)).ask(
        ("POST", "/v1/models/tiny/classify", bodies(queries=1).json)
    )
    assert answer.status_code == 200


def test_two_who_teach_the_same_at_once_make_one_session(models: Path, bodies: Callable[..., Any]) -> None:
    built = House(models, Engines(Adapted(Timings(0))))

    async def both() -> list[int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(built.mounted.entrance), base_url="http://x"
        ) as client:
            answers = await asyncio.gather(*(client.post(TEACH, json=bodies().json) for _ in range(8)))
        assert len({answer.json()["id"] for answer in answers}) == 1
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(both()) == [200] * 7 + [201]
    built.mounted.decoder.close()
