"""One call and its attempts, as a flow: a generator that says what it needs and never does I/O itself.

A flow yields effects, is sent their outcomes, and returns its result:

    yield Call(...)     the HTTP response; httpx's request errors are thrown in
    yield Pause(s)      nothing, s seconds later
    yield Blocking(f)   f(), which may block on files or compute

Client and AsyncClient differ only in how they serve these three.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import httpx

from ._answers import status_error
from ._bodies import Body
from ._errors import APIConnectionError, APITimeoutError, KshotError, NotFoundError
from ._retry import RETRIED_STATUSES
from ._settings import Settings

__all__ = ["Blocking", "Call", "Effect", "Flow", "Pause", "exchange", "probe"]

logger = logging.getLogger("kshot")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, relative to the base URL."""

    method: str
    path: str
    body: Body | None = None
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of httpx's `request`."""
        content = None if self.body is None else self.body.content
        return {
            "method": self.method,
            "url": self.path,
            "content": content,
            "params": self.params or None,
            "headers": self.headers,
        }


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Blocking(NamedTuple):
    """A function that may block."""

    function: Callable[[], Any]


Effect: TypeAlias = Call | Pause | Blocking
Flow: TypeAlias = Generator[Effect, Any, T]

# The request itself was impossible, or its answer undecodable; another attempt would end alike.
_FINAL_ERRORS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)


def exchange(call: Call, settings: Settings) -> Flow[httpx.Response]:
    """The successful response to a call, repeated as the retry policy allows.

    Raises:
        APIStatusError: the last attempt was answered with another status than 2xx.
        APIConnectionError: the last attempt was not answered.
    """
    call = _with_headers(call, settings)
    attempt = 0
    while True:
        failure: KshotError
        try:
            response: httpx.Response = yield call
        except httpx.RequestError as error:
            failure = _connection_error(call, settings, error)
            wait = None if isinstance(error, _FINAL_ERRORS) else settings.retry.wait_seconds(attempt)
        else:
            if response.is_success:
                return response
            failure = status_error(response)
            if call.method == "DELETE" and attempt > 0 and isinstance(failure, NotFoundError):
                return response  # an earlier attempt deleted it; only its answer was lost
            retried = failure.status in RETRIED_STATUSES
            wait = settings.retry.wait_seconds(attempt, failure.retry_after_seconds) if retried else None
        if wait is None:
            raise failure
        logger.debug("%s %s: %s; again in %.2f s", call.method, call.path, failure, wait)
        yield Pause(wait)
        attempt += 1


def probe(call: Call, settings: Settings) -> Flow[bool]:
    """Whether a call succeeds, tried once."""
    try:
        response: httpx.Response = yield _with_headers(call, settings)
    except httpx.RequestError:
        return False
    return response.is_success


def _with_headers(call: Call, settings: Settings) -> Call:
    # One id for all attempts: the server's log shows them as one, and an error without an answer has an id, too.
    headers = {"X-Request-Id": uuid.uuid4().hex, **settings.deadline_headers, **call.headers}
    if call.body is not None:
        headers["Content-Type"] = call.body.content_type
    return replace(call, headers=headers)


def _connection_error(call: Call, settings: Settings, error: httpx.RequestError) -> APIConnectionError:
    place, request_id = settings.place, call.headers["X-Request-Id"]
    failure: APIConnectionError
    if isinstance(error, httpx.TimeoutException):
        limit = f" within {settings.timeout_seconds:g} s" if settings.timeout_seconds is not None else ""
        failure = APITimeoutError(f"no answer from {place}{limit} ({type(error).__name__})", request_id)
    else:
        reason = str(error) or type(error).__name__
        failure = APIConnectionError(f"no answer from {place}: {reason}. Is a kshot server running there?", request_id)
    failure.__cause__ = error
    return failure
