"""Errors of kshot. Catch as broadly or as narrowly as you wish.

KshotError
├── InvalidInputError (ValueError)     an argument cannot be sent: no such file, wrong dtype, a class without images
├── ConfigurationError (ValueError)    the client's own settings: base URL, API key, timeout
├── MissingExtraError (ImportError)    a part of kshot that is not installed; says which extra to install
├── APIConnectionError                 no answer: refused, cut, unreachable
│   └── APITimeoutError                no answer in time
├── APIResponseError                   an answer that is not what the interface promises (a proxy in between, often)
└── APIStatusError                     the server said no, and why: code, status, detail, expected, received, action
    ├── BadRequestError            400 the body is no JSON
    ├── UnauthorizedError          401 no API key, or an unknown one
    ├── ForbiddenError             403
    ├── NotFoundError              404
    │   ├── ModelNotFoundError
    │   └── SessionNotFoundError       never made, expired, deleted, or another tenant's
    ├── PayloadTooLargeError       413
    ├── UnsupportedMediaTypeError  415
    ├── UnprocessableEntityError   422 an image, label or size that the model does not take
    │   └── AdaptationDivergedError    the support set led the inner loop to infinity; nothing was stored
    ├── RateLimitedError           429
    └── ServerError                5xx
        ├── ServiceUnavailableError    503 overloaded, draining, or without its store
        └── DeadlineExceededError      504
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AdaptationDivergedError",
    "BadRequestError",
    "ConfigurationError",
    "DeadlineExceededError",
    "ForbiddenError",
    "InvalidInputError",
    "KshotError",
    "MissingExtraError",
    "ModelNotFoundError",
    "NotFoundError",
    "PayloadTooLargeError",
    "Problem",
    "RateLimitedError",
    "ServerError",
    "ServiceUnavailableError",
    "SessionNotFoundError",
    "UnauthorizedError",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
    "error_for",
]


class KshotError(Exception):
    """Base of all errors that kshot raises on purpose."""


class InvalidInputError(KshotError, ValueError):
    """An argument cannot be sent; nothing was."""


class ConfigurationError(KshotError, ValueError):
    """A setting of the client is unusable."""


class MissingExtraError(KshotError, ImportError):
    """A part of kshot is not installed; the message says which extra brings it."""


class APIConnectionError(KshotError):
    """No answer came: the connection was refused, cut or impossible.

    `request_id` is the id that the request carried; the server's log has it if the request arrived.
    """

    def __init__(self, message: str, request_id: str | None = None) -> None:
        super().__init__(message, request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return str(self.args[0])


class APITimeoutError(APIConnectionError):
    """No answer came in time."""


class APIResponseError(KshotError):
    """An answer came that is not what the interface promises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What the server answered in place of a result (RFC 9457).

    `code` is stable and for programs; `detail`, `expected`, `received` and `action` are for people. `errors` lists the
    single fields of a body that were wrong. `retry_after_seconds` is the server's own advice.
    """

    status: int
    code: str
    title: str = ""
    detail: str = ""
    expected: str | None = None
    received: str | None = None
    action: str | None = None
    request_id: str | None = None
    retry_after_seconds: float | None = None
    errors: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        sentences = [f"{self.status} {self.code}: {(self.detail or self.title).rstrip('.')}"]
        if self.expected is not None:
            sentences.append(f"Expected: {self.expected}")
        if self.received is not None:
            sentences.append(f"Received: {self.received}")
        if self.action is not None:
            sentences.append(self.action.rstrip("."))
        if self.retry_after_seconds is not None:
            sentences.append(f"Retry after {self.retry_after_seconds:g} s")
        text = ". ".join(sentences)
        return f"{text} (request {self.request_id})" if self.request_id else text


class APIStatusError(KshotError):
    """The server answered with a status other than 2xx. `problem` holds what it said, and so do the properties."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """Stable name of the problem, such as `empty_support`; `http_502` when the answer named none."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """What went wrong, for people."""
        return self.problem.detail

    @property
    def expected(self) -> str | None:
        """What would have been right."""
        return self.problem.expected

    @property
    def received(self) -> str | None:
        """What came instead."""
        return self.problem.received

    @property
    def action(self) -> str | None:
        """What to do about it."""
        return self.problem.action

    @property
    def request_id(self) -> str | None:
        """The id under which the server's log has this request."""
        return self.problem.request_id

    @property
    def retry_after_seconds(self) -> float | None:
        """How long the server asks to wait, where it does."""
        return self.problem.retry_after_seconds


class BadRequestError(APIStatusError):
    """400: the body could not be read at all."""


class UnauthorizedError(APIStatusError):
    """401: no API key, or one that the server does not know."""


class ForbiddenError(APIStatusError):
    """403: the server, or a proxy before it, refuses this caller."""


class NotFoundError(APIStatusError):
    """404: no such path, model or session."""


class ModelNotFoundError(NotFoundError):
    """404 `model_not_found`: the server has no model, or no version of it, of this name."""


class SessionNotFoundError(NotFoundError):
    """404 `session_not_found`: never made, expired, deleted, or another tenant's."""


class PayloadTooLargeError(APIStatusError):
    """413: the body is over the server's limit."""


class UnsupportedMediaTypeError(APIStatusError):
    """415: the server does not read this content type."""


class UnprocessableEntityError(APIStatusError):
    """422: the body was read, and an image, label or size in it is not acceptable; `code` says which rule."""


class AdaptationDivergedError(UnprocessableEntityError):
    """422 `adaptation_diverged`: the inner loop left the finite numbers on this support set; nothing was stored."""


class RateLimitedError(APIStatusError):
    """429: too many requests for this API key."""


class ServerError(APIStatusError):
    """5xx: the server could not answer."""


class ServiceUnavailableError(ServerError):
    """503: overloaded, draining, or without its store or engine."""


class DeadlineExceededError(ServerError):
    """504: the server did not finish within the deadline."""


_BY_CODE: dict[str, type[APIStatusError]] = {
    "model_not_found": ModelNotFoundError,
    "session_not_found": SessionNotFoundError,
    "adaptation_diverged": AdaptationDivergedError,
}

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    413: PayloadTooLargeError,
    415: UnsupportedMediaTypeError,
    422: UnprocessableEntityError,
    429: RateLimitedError,
    503: ServiceUnavailableError,
    504: DeadlineExceededError,
}


def error_for(problem: Problem) -> APIStatusError:
    """The error of the narrowest class for a problem: by its code, then by its status."""
    otherwise = ServerError if problem.status >= 500 else APIStatusError
    return _BY_CODE.get(problem.code, _BY_STATUS.get(problem.status, otherwise))(problem)
