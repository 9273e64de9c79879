"""Errors as HTTP tells them: problem+json (RFC 9457) with a stable `code`. One closed table leads from code to status.

InputError   what the client did wrong      ┐
Fault        what the server cannot do now  ├─▶ PROBLEMS[code] ─▶ {"type", "title", "status", "detail", "code", ...}
framework    404, 405, bad parameters       │
anything     a defect of ours: internal_error, logged with the request id, told to nobody
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from kshot_server.bodies.json_body import InvalidBody
from kshot_server.errors import InputError
from kshot_server.faults import Fault
from kshot_server.validation_errors import without_input

__all__ = [
    "MEDIA_TYPE",
    "PROBLEMS",
    "ProblemKind",
    "install_handlers",
    "internal_problem",
    "problem_response",
    "tell_problem",
]

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)


class ProblemKind(NamedTuple):
    """What every problem of one code has in common."""

    status: int
    title: str


PROBLEMS: Mapping[str, ProblemKind] = {
    "invalid_json": ProblemKind(400, "The body is no JSON"),
    "unauthorized": ProblemKind(401, "An API key is needed"),
    "not_found": ProblemKind(404, "There is nothing at this path"),
    "model_not_found": ProblemKind(404, "There is no such model"),
    "session_not_found": ProblemKind(404, "There is no such session"),
    "method_not_allowed": ProblemKind(405, "This path does not take this method"),
    "payload_too_large": ProblemKind(413, "The body is too large"),
    "unsupported_media_type": ProblemKind(415, "The body is of a type that is not read"),
    "invalid_body": ProblemKind(422, "The body is not of the expected form"),
    "invalid_parameter": ProblemKind(422, "A parameter of the URL or a header cannot be used"),
    "invalid_label": ProblemKind(422, "A label cannot be used"),
    "invalid_image": ProblemKind(422, "An image cannot be read"),
    "image_too_large": ProblemKind(422, "An image has too many pixels"),
    "unsupported_image": ProblemKind(422, "An image is of a kind that is not taken"),
    "invalid_tensor": ProblemKind(422, "A tensor is not of the expected form"),
    "invalid_targets": ProblemKind(422, "The targets do not fit the labels"),
    "empty_support": ProblemKind(422, "The support set is empty"),
    "empty_queries": ProblemKind(422, "There are no queries"),
    "single_class": ProblemKind(422, "The support set has one class only"),
    "class_without_examples": ProblemKind(422, "A class has no example"),
    "too_many_classes": ProblemKind(422, "More classes than the model can tell apart"),
    "too_many_examples": ProblemKind(422, "More support images than the model takes"),
    "too_many_queries": ProblemKind(422, "More queries than the model takes at once"),
    "adaptation_diverged": ProblemKind(422, "The adaptation diverged"),
    "rate_limited": ProblemKind(429, "Too many requests"),
    "internal_error": ProblemKind(500, "Something went wrong in the server"),
    "overloaded": ProblemKind(503, "The server is busy"),
    "draining": ProblemKind(503, "The server is shutting down"),
    "store_unavailable": ProblemKind(503, "The session store does not answer"),
    "engine_unavailable": ProblemKind(503, "No engine can work on the request"),
    "deadline_exceeded": ProblemKind(504, "The request was not finished in time"),
}

_CODE_OF_STATUS = {
    400: "invalid_body",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
}


def problem_response(
    request_id: str,
    code: str,
    detail: str,
    *,
    expected: object = None,
    received: object = None,
    action: str | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Build the answer for one problem."""
    kind = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"urn:kshot:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    optional = {"expected": expected, "received": received, "action": action}
    body |= {name: str(value) for name, value in optional.items() if value is not None}
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status_code=kind.status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def internal_problem(request_id: str) -> JSONResponse:
    """The answer for a defect of ours: it says nothing but the id under which the log has the rest."""
    return problem_response(
        request_id,
        "internal_error",
        "The server failed on this request; the reason is in its log under this request id.",
        action="Send it again; if it fails again, report the request id.",
    )


def install_handlers(app: FastAPI) -> None:
    """Make every error of the application a problem. What these do not handle is left to envelope.py."""
    app.add_exception_handler(InputError, _on_problem)
    app.add_exception_handler(Fault, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(HTTPException, _on_http_exception)


def request_id_of(request: Request) -> str:
    """The id that envelope.py gave the request."""
    return str(request.state.request_id)


def _tell(request: Request, code: str, detail: str, **more: Any) -> JSONResponse:
    request.state.problem = code  # for the log line and the count, which envelope.py writes
    return problem_response(request_id_of(request), code, detail, **more)


def tell_problem(request: Request, error: InputError | Fault) -> JSONResponse:
    """The answer for what a client did wrong or the server cannot do."""
    return _of_input_error(request, error) if isinstance(error, InputError) else _of_fault(request, error)


def _of_input_error(request: Request, error: InputError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.code == "unauthorized" else None
    return _tell(
        request,
        error.code,
        error.detail,
        expected=error.expected,
        received=error.received,
        action=error.action,
        errors=error.errors if isinstance(error, InvalidBody) else (),
        headers=headers,
    )


def _of_fault(request: Request, fault: Fault) -> JSONResponse:
    if fault.code == "internal_error":
        _log.error("internal error: %s", fault.detail)
        request.state.problem = "internal_error"
        return internal_problem(request_id_of(request))
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.code == "draining":
        headers["Connection"] = "close"  # the next request shall find another replica
    return _tell(request, fault.code, fault.detail, action=fault.action, headers=headers)


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InputError | Fault)
    return tell_problem(request, error)


async def _on_invalid_parameters(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _tell(
        request,
        "invalid_parameter",
        "A parameter is not of the expected form.",
        errors=without_input(error.errors()),
    )


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODE_OF_STATUS.get(error.status_code)
    if code is None:
        _log.error("unexpected HTTP exception %s", error.status_code)
        request.state.problem = "internal_error"
        return internal_problem(request_id_of(request))
    headers = dict(error.headers or {})
    allowed = headers.get("Allow") or headers.get("allow")
    return _tell(
        request,
        code,
        f"{PROBLEMS[code].title}.",
        expected=f"one of {allowed}" if allowed else None,
        headers=headers,
    )
