"""The error tree: as drawn, picklable, and readable."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import kshot
from kshot import _errors
from kshot._errors import Problem, error_for

TREE = inspect.getdoc(_errors) or ""


def test_the_drawing_shows_each_class_under_its_base() -> None:
    stack: list[tuple[int, type[BaseException]]] = []
    drawn = set()
    for line in TREE.splitlines():
        found = re.match(r"^([ │├└─]*)([A-Z]\w*Error)\b", line)
        if not found:
            continue
        depth, kind = len(found[1]), getattr(_errors, found[2])
        stack = [one for one in stack if one[0] < depth]
        if stack:
            assert stack[-1][1] in kind.__bases__, line
        stack.append((depth, kind))
        drawn.add(found[2])
    errors = {name for name in _errors.__all__ if name.endswith("Error")}
    assert drawn == errors
    assert errors <= set(kshot.__all__)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_json", kshot.BadRequestError),
        (401, "unauthorized", kshot.UnauthorizedError),
        (403, "http_403", kshot.ForbiddenError),
        (404, "not_found", kshot.NotFoundError),
        (404, "model_not_found", kshot.ModelNotFoundError),
        (404, "session_not_found", kshot.SessionNotFoundError),
        (409, "http_409", kshot.APIStatusError),
        (413, "payload_too_large", kshot.PayloadTooLargeError),
        (415, "unsupported_media_type", kshot.UnsupportedMediaTypeError),
        (422, "invalid_image", kshot.UnprocessableEntityError),
        (422, "adaptation_diverged", kshot.AdaptationDivergedError),
        (429, "rate_limited", kshot.RateLimitedError),
        (500, "internal_error", kshot.ServerError),
        (503, "overloaded", kshot.ServiceUnavailableError),
        (504, "deadline_exceeded", kshot.DeadlineExceededError),
    ],
)
def test_each_problem_has_its_class(status: int, code: str, kind: type[kshot.APIStatusError]) -> None:
    error = error_for(Problem(status, code))
    assert type(error) is kind
    assert (error.status, error.code) == (status, code)


def test_errors_carry_what_the_server_said_and_survive_pickling() -> None:
    problem = Problem(422, "too_many_classes", "Title", "Too many.", "at most 20", "21", "Send less.", "r9", 2.0)
    error = pickle.loads(pickle.dumps(error_for(problem)))
    assert error.problem == problem
    assert (error.detail, error.expected, error.received, error.action) == (
        "Too many.",
        "at most 20",
        "21",
        "Send less.",
    )
    assert (error.request_id, error.retry_after_seconds) == ("r9", 2.0)
    assert str(error) == (
        "422 too_many_classes: Too many. Expected: at most 20. Received: 21. Send less. Retry after 2 s (request r9)"
    )
    assert str(Problem(404, "not_found", "Not found")) == "404 not_found: Not found"


def test_connection_errors_carry_the_request_id_and_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(kshot.APITimeoutError("no answer", "r1")))
    assert (str(error), error.request_id) == ("no answer", "r1")
    assert isinstance(error, kshot.APIConnectionError)


def test_errors_of_arguments_are_also_the_builtin_ones() -> None:
    assert issubclass(kshot.InvalidInputError, ValueError)
    assert issubclass(kshot.ConfigurationError, ValueError)
    assert issubclass(kshot.MissingExtraError, ImportError)
