"""Reading responses: plain functions from an HTTP response to a value or to an error.

Unknown keys are passed over, so that an older client reads a newer server; a missing or misshapen one is an
APIResponseError, because then something else than a kshot server has answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

import httpx

from ._errors import APIResponseError, APIStatusError, Problem, error_for
from ._retry import parse_retry_after
from ._types import InputSpec, Limits, Measured, Model, Prediction, SessionInfo

__all__ = ["read_model", "read_models", "read_predictions", "read_session", "read_sessions", "status_error"]

T = TypeVar("T")

_DETAIL_CHARACTERS = 300


def read_session(response: httpx.Response) -> SessionInfo:
    """The session that a response describes."""
    return _read(response, _session)


def read_sessions(response: httpx.Response) -> tuple[list[SessionInfo], str | None]:
    """One page of sessions and the cursor of the next page, if there is one."""
    return _read(response, lambda body: ([_session(one) for one in body["sessions"]], body["next_cursor"]))


def read_model(response: httpx.Response) -> Model:
    """The model that a response describes."""
    return _read(response, _model)


def read_models(response: httpx.Response) -> list[Model]:
    """The models that a response lists."""
    return _read(response, lambda body: [_model(one) for one in body["models"]])


def read_predictions(response: httpx.Response, *, count: int) -> list[Prediction]:
    """The predictions for `count` queries, in their order."""
    predictions = _read(response, lambda body: [_prediction(one) for one in body["predictions"]])
    if len(predictions) != count:
        raise APIResponseError(f"{_origin(response)} answered {len(predictions)} predictions for {count} queries")
    return predictions


def status_error(response: httpx.Response) -> APIStatusError:
    """The error that a response without success stands for."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    status, headers = response.status_code, response.headers
    retry_after = parse_retry_after(headers.get("Retry-After"))
    if not isinstance(body, dict) or not isinstance(body.get("code"), str):
        return error_for(_foreign_problem(response, retry_after))
    errors = body.get("errors")
    return error_for(
        Problem(
            status=status,
            code=body["code"],
            title=str(body.get("title", "")),
            detail=str(body.get("detail", "")),
            expected=_text(body.get("expected")),
            received=_text(body.get("received")),
            action=_text(body.get("action")),
            request_id=_text(body.get("request_id")) or headers.get("X-Request-Id"),
            retry_after_seconds=retry_after,
            errors=tuple(one for one in errors if isinstance(one, dict)) if isinstance(errors, list) else (),
        )
    )


def _foreign_problem(response: httpx.Response, retry_after: float | None) -> Problem:
    """A problem for an answer that is none of kshot's: a proxy's page, a redirect."""
    text = " ".join(response.text.split())
    place = response.headers.get("Location")
    return Problem(
        status=response.status_code,
        code=f"http_{response.status_code}",
        title=response.reason_phrase,
        detail=text[:_DETAIL_CHARACTERS] or response.reason_phrase or "an empty answer",
        action=f"The server points to {place}: use that as the base URL" if place else None,
        request_id=response.headers.get("X-Request-Id"),
        retry_after_seconds=retry_after,
    )


def _read(response: httpx.Response, read: Callable[[Any], T]) -> T:
    try:
        return read(response.json())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise APIResponseError(
            f"{_origin(response)} answered {response.status_code} with a body that is not kshot's "
            f"({type(error).__name__}: {error}). Does the base URL lead to a kshot server?"
        ) from error


def _origin(response: httpx.Response) -> str:
    request = response.request
    return f"{request.method} {request.url.copy_with(userinfo=b'')}"


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _session(body: Mapping[str, Any]) -> SessionInfo:
    return SessionInfo(
        id=str(body["id"]),
        model=str(body["model"]),
        version=str(body["version"]),
        model_digest=str(body["model_digest"]),
        labels=tuple(str(label) for label in body["labels"]),
        support_size=int(body["support_size"]),
        counts={str(label): int(count) for label, count in body["counts"].items()},
        created_at=datetime.fromisoformat(body["created_at"]),
        expires_at=datetime.fromisoformat(body["expires_at"]),
        ttl_seconds=int(body["ttl_seconds"]),
        durability=str(body["durability"]),
        cached=bool(body["cached"]),
    )


def _prediction(body: Mapping[str, Any]) -> Prediction:
    return Prediction(
        label=str(body["label"]),
        probability=float(body["probability"]),
        probabilities={str(label): float(value) for label, value in body["probabilities"].items()},
        unknown=bool(body.get("unknown", False)),
    )


def _model(body: Mapping[str, Any]) -> Model:
    spec = _known(InputSpec, body["input"])
    return Model(
        name=str(body["name"]),
        version=str(body["version"]),
        digest=str(body["digest"]),
        description=str(body.get("description", "")),
        learner=dict(body["learner"]),
        input=InputSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])}),
        limits=Limits(**_known(Limits, body["limits"])),
        norm=str(body.get("norm", "")),
        measured=tuple(Measured(**_known(Measured, one)) for one in body.get("measured", ())),
        versions=tuple(str(version) for version in body.get("versions", ())),
    )


def _known(kind: type[Any], body: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in body.items() if name in names}
