"""What goes wrong between client and server, on real sockets: which errors, which retries, which waits."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

import kshot
from kshot import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    Client,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    ServiceUnavailableError,
    UnprocessableEntityError,
)

Draw = Callable[..., np.ndarray]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_later_is_tried_again(client: Client, double: Any, status: int) -> None:
    double.fail(status, status)
    assert client.models()[0].name == "omniglot"
    assert len(double.received) == 3
    assert len({request.headers["x-request-id"] for request in double.received}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 500, 501])
def test_not_like_this_is_not_tried_again(client: Client, double: Any, status: int) -> None:
    double.fail(status)
    with pytest.raises(APIStatusError) as caught:
        client.models()
    assert caught.value.status == status
    assert len(double.received) == 1


def test_gives_up_with_the_last_error(client: Client, double: Any) -> None:
    double.fail(502, 503, 503)
    with pytest.raises(ServiceUnavailableError):
        client.models()
    assert len(double.received) == 3


def test_no_retries_when_none_are_wanted(client: Client, double: Any) -> None:
    double.fail(503)
    with pytest.raises(ServiceUnavailableError):
        client.with_options(retries=0).models()
    assert len(double.received) == 1


def test_retry_after_is_honoured(client: Client, double: Any) -> None:
    double.fail(429, headers={"Retry-After": "0.2"})
    client.models()
    first, second = double.received
    assert second.at - first.at >= 0.2


def test_too_long_a_retry_after_is_the_callers_to_decide(client: Client, double: Any) -> None:
    double.fail(429, headers={"Retry-After": "3600"})
    with pytest.raises(RateLimitedError, match="Retry after 3600 s") as caught:
        client.models()
    assert caught.value.retry_after_seconds == 3600


def test_each_attempt_sends_the_whole_body(client: Client, double: Any, draw: Draw) -> None:
    double.fail(503, 502)
    session = client.adapt("omniglot", {"a": draw(1), "b": draw(2)})
    assert session.support_size == 2
    assert len({request.body for request in double.received}) == 1


def test_cut_connections_are_tried_again(client: Client, double: Any, answer: Any) -> None:
    double.faults += [answer(cut=True), answer(cut=True)]
    assert client.models()
    double.faults += [answer(cut=True)] * 3
    with pytest.raises(APIConnectionError, match=r"no answer from http://127\.0\.0\.1") as caught:
        client.models()
    assert isinstance(caught.value.__cause__, httpx.TransportError)
    assert caught.value.request_id == double.received[-1].headers["x-request-id"]


def test_an_answer_cut_in_its_middle_is_tried_again(client: Client, double: Any, answer: Any) -> None:
    double.faults.append(answer(200, b'{"models": [', {"Content-Length": "1000", "Connection": "close"}))
    assert client.with_options(timeout=0.3).models()


def test_timeouts(client: Client, double: Any, answer: Any) -> None:
    double.faults += [answer(delay=0.4), answer(delay=0.4)]
    hasty = client.with_options(timeout=0.1, retries=1)
    with pytest.raises(APITimeoutError, match=r"within 0\.1 s \(ReadTimeout\)"):
        hasty.models()
    assert len(double.received) == 2


def test_nobody_listens() -> None:
    started = time.monotonic()
    policy = RetryPolicy(1, first_seconds=0.01)
    with Client("http://127.0.0.1:9", retries=policy) as client, pytest.raises(APIConnectionError, match="refused"):
        client.models()
    assert time.monotonic() - started < 2


def test_a_full_pool_is_a_timeout(double: Any, answer: Any) -> None:
    double.faults.append(answer(200, {"models": []}, delay=0.5))
    with Client(double.url, max_connections=1, timeout=5) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.models)
        while not double.received:
            time.sleep(0.01)
        with pytest.raises(APITimeoutError, match="PoolTimeout"):
            client.with_options(timeout=0.1, retries=0).models()
        assert slow.result() == []


@pytest.mark.parametrize(
    "request_error", [httpx.UnsupportedProtocol("x"), httpx.LocalProtocolError("x"), httpx.DecodingError("x")]
)
def test_impossible_requests_are_not_tried_again(request_error: httpx.RequestError) -> None:
    attempts = []

    def fail(request: httpx.Request) -> httpx.Response:
        attempts.append(request)
        raise request_error

    with Client(transport=httpx.MockTransport(fail)) as client, pytest.raises(APIConnectionError):
        client.models()
    assert len(attempts) == 1


def test_the_servers_problem_is_told_in_full(client: Client, double: Any, answer: Any, problem_json: Any) -> None:
    told = problem_json(
        422,
        "too_many_classes",
        expected=20,
        received=["21"],
        action="Send fewer.",
        errors=[{"loc": ["support"]}, "odd"],
    )
    double.faults.append(answer(422, told))
    with pytest.raises(UnprocessableEntityError) as caught:
        client.models()
    error = caught.value
    assert (error.code, error.expected, error.received) == ("too_many_classes", "20", '["21"]')
    assert (error.action, error.request_id) == ("Send fewer.", "r1")
    assert error.problem.errors == ({"loc": ["support"]},)


def test_the_request_id_of_the_header_stands_in(client: Client, double: Any, answer: Any) -> None:
    double.faults.append(answer(422, {"code": "x", "errors": 5}, {"X-Request-Id": "r7"}))
    with pytest.raises(UnprocessableEntityError) as caught:
        client.models()
    assert caught.value.request_id == "r7"
    assert caught.value.problem.errors == ()


@pytest.mark.parametrize(
    ("body", "detail"),
    [(b"<html>\n Bad  Gateway</html>", "<html> Bad Gateway</html>"), (b"", "Bad Gateway"), (b"[1]", "[1]")],
)
def test_a_proxys_error_page(client: Client, double: Any, answer: Any, body: bytes, detail: str) -> None:
    double.faults.append(answer(502, body))
    with pytest.raises(ServerError) as caught:
        client.with_options(retries=0).models()
    assert (caught.value.code, caught.value.detail) == ("http_502", detail)


def test_a_long_error_page_is_cut(client: Client, double: Any, answer: Any) -> None:
    double.faults.append(answer(400, b"x" * 10_000))
    with pytest.raises(kshot.BadRequestError) as caught:
        client.models()
    assert len(str(caught.value)) < 400


def test_redirects_are_not_followed_with_the_key(client: Client, double: Any, answer: Any) -> None:
    double.faults.append(answer(301, b"", {"Location": "https://elsewhere.example/"}))
    with pytest.raises(APIStatusError, match=r"use that as the base URL"):
        client.models()
    assert len(double.received) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"models": [{}]}',
        b'{"models": 3}',
        b'{"models": [{"name": 1}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_answers_that_are_not_kshots(client: Client, double: Any, answer: Any, body: bytes) -> None:
    double.faults.append(answer(200, body))
    with pytest.raises(APIResponseError, match="Does the base URL lead to a kshot server"):
        client.models()


def test_a_wrong_number_of_predictions(client: Client, double: Any, answer: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", {"a": draw(1), "b": draw(2)})
    double.faults.append(answer(200, {"predictions": []}))
    with pytest.raises(APIResponseError, match="0 predictions for 1 queries"):
        session.classify(draw(1))


def test_retries_are_logged_for_who_listens(client: Client, double: Any, caplog: pytest.LogCaptureFixture) -> None:
    double.fail(503)
    with caplog.at_level(logging.DEBUG, logger="kshot"):
        client.models()
    assert any("GET /v1/models: 503" in record.getMessage() for record in caplog.records)


def test_many_threads_share_a_client(client: Client, double: Any, draw: Draw) -> None:
    session = client.adapt("omniglot", {str(i): draw(i) for i in range(8)})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: session.classify(draw(i % 8))[0].label, range(64)))
    assert answers == [str(i % 8) for i in range(64)]


def test_a_server_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody reads
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.1, retries=0) as client, pytest.raises(APITimeoutError):
            client.models()
