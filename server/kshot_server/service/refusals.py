"""Why the service says no: the engine failed, a count is over a limit, something is not there, the store is away."""

from __future__ import annotations

from kshot_models.manifest import Limits
from kshot_server.bodies.base import Body
from kshot_server.decoding import Images
from kshot_server.engine.requests import Failed
from kshot_server.errors import InputError
from kshot_server.faults import Fault
from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.record import SessionInfo

__all__ = [
    "check_query_count",
    "check_support_counts",
    "no_model",
    "no_session",
    "refusal",
    "store_errors",
    "version_gone",
]

# Failures of the engine that are not the sender's doing.
_FAULTS = {"overloaded": 1, "draining": 1, "engine_unavailable": 1, "deadline_exceeded": None, "internal_error": None}


def refusal(failed: Failed) -> InputError | Fault:
    """The exception of an engine's failure: whose doing it was decides which."""
    if failed.code in _FAULTS:
        detail = f"{failed.detail} (incident {failed.incident})" if failed.incident else failed.detail
        return Fault(failed.code, detail, action=failed.action, retry_after=_FAULTS[failed.code])
    expected = None if failed.expected is None else str(failed.expected)
    received = None if failed.received is None else str(failed.received)
    return InputError(failed.code, failed.detail, expected, received, failed.action)


def check_support_counts(body: Body, limits: Limits, onto: SessionInfo | None) -> None:
    """Count before anything is decoded: too much is refused for free.

    Args:
        body: what was sent.
        limits: the model's.
        onto: the session that the support set is added to, if it is.
    """
    known = () if onto is None else onto.labels
    _check_count("support", body.support, limits.max_support, beside=0 if onto is None else onto.support_size)
    way = len({*known, *body.labels})
    if way < 2:
        raise InputError(
            "single_class", "One class leaves nothing to tell apart.", expected="at least 2 labels", received=f"{way}"
        )
    if way > limits.max_way:
        raise InputError(
            "too_many_classes",
            "The model cannot tell so many classes apart.",
            expected=f"at most {limits.max_way}",
            received=f"{way}",
        )


def check_query_count(queries: Images, limits: Limits) -> None:
    """Count before anything is decoded."""
    _check_count("queries", queries, limits.max_queries)


def _check_count(name: str, images: Images, limit: int, beside: int = 0) -> None:
    count = len(images) + beside
    if count > limit:
        code = "too_many_examples" if name == "support" else "too_many_queries"
        action = None if name == "support" else "Split them over several requests."
        raise InputError(
            code,
            "The model does not take so many images.",
            expected=f"at most {limit}",
            received=f"{count}",
            action=action,
        )


def no_session() -> InputError:
    """`session_not_found`, one answer for all reasons: that somebody else has such a session is not told."""
    return InputError(
        "session_not_found",
        "There is no session of this id: it was never made, has expired, was deleted, or belongs to somebody else.",
        action="Teach it again with POST /v1/models/{model}/sessions: the same support set gives the same id.",
    )


def no_model() -> InputError:
    """`model_not_found`, for a reference."""
    return InputError(
        "model_not_found",
        "No model of this name and version is served.",
        expected="name or name@version of a served model",
        action="GET /v1/models lists them.",
    )


def version_gone(info: SessionInfo) -> InputError:
    """`model_not_found`, for a session whose model version has gone."""
    return InputError(
        "model_not_found",
        "The model version of this session is not served here any more.",
        expected=f"{info.model}@{info.version}",
        action="Teach a new session with a version that GET /v1/models lists.",
    )


class _StoreErrors:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, StoreUnavailable):
            raise Fault(
                "store_unavailable",
                "The session store does not answer.",
                action='Try again later; new sessions are taken all the same with "durability": "volatile".',
                retry_after=2,
            ) from None


store_errors = _StoreErrors()
"""A context that turns a store that is away into `store_unavailable`."""
