"""The verbs of the interface as flows (see _exchange.py): what the client says, and what it makes of the answers.

adapt, extend, classify, ...     one flow for each verb
├── _with_session                adapts anew when the server has forgotten the session
├── _batches                     cuts long query lists
└── exchange                     one call and its attempts
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import httpx

from ._answers import read_model, read_models, read_predictions, read_session, read_sessions
from ._bodies import AdaptOptions, Body, encode, split
from ._errors import InvalidInputError, SessionNotFoundError
from ._exchange import Blocking, Call, Flow, exchange, probe
from ._images import ImagesInput, Picture, read_images
from ._settings import Settings
from ._support import Example, SupportInput, read_support
from ._types import Model, Prediction, SessionInfo

__all__ = ["Flows", "Handle", "Recipe"]

logger = logging.getLogger("kshot")

T = TypeVar("T")

_LIMITS_SECONDS = 60.0
_LONGEST_NAME = 512


class Recipe(NamedTuple):
    """All that is needed to make a session again."""

    examples: tuple[Example, ...]
    options: AdaptOptions


@dataclass(slots=True)
class Handle:
    """A session as a client holds it.

    `info` is what the server last said of it, `made` whether this client brought it about (it was not known before),
    and `recipe` how to make it again, unless that was opted out of.
    """

    info: SessionInfo
    made: bool = False
    recipe: Recipe | None = None


class Flows:
    """The verbs of the interface as flows, for one server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._limits: dict[str, tuple[int, float]] = {}  # model -> its max_queries, and when it was asked for

    def ready(self) -> Flow[bool]:
        """Whether the server answers and takes requests now; asked once."""
        return probe(Call("GET", "/readyz"), self.settings)

    # -- models --------------------------------------------------------------------------------------------------------

    def models(self) -> Flow[list[Model]]:
        """All models."""
        return read_models((yield from self._exchange(Call("GET", "/v1/models"))))

    def model(self, name: str) -> Flow[Model]:
        """One model."""
        return read_model((yield from self._exchange(Call("GET", f"/v1/models/{_segment('model', name)}"))))

    # -- sessions ------------------------------------------------------------------------------------------------------

    def adapt(self, model: str, support: SupportInput, *, options: AdaptOptions, readapt: bool) -> Flow[Handle]:
        """Teach a model: a new session, or the one that this support set already has."""
        path = f"/v1/models/{_segment('model', model)}/sessions"
        examples: list[Example] = yield Blocking(lambda: read_support(support))
        info = yield from self._post_support(path, examples, options)
        return Handle(info, not info.cached, Recipe(tuple(examples), options) if readapt else None)

    def extend(self, handle: Handle, support: SupportInput, *, options: AdaptOptions) -> Flow[Handle]:
        """A new session over the union of a session's support set and more examples."""
        examples: list[Example] = yield Blocking(lambda: read_support(support))
        info = yield from self._with_session(
            handle, lambda: self._post_support(f"{_session_path(handle)}/support", examples, options)
        )
        recipe = handle.recipe and Recipe((*handle.recipe.examples, *examples), options)
        return Handle(info, not info.cached, recipe)

    def session(self, session_id: str) -> Flow[Handle]:
        """A session by its id. Its support set is on the server only, so it cannot be adapted anew from here."""
        path = f"/v1/sessions/{_segment('session', session_id)}"
        return Handle(read_session((yield from self._exchange(Call("GET", path)))))

    def sessions(
        self, *, model: str | None, limit: int, cursor: str | None
    ) -> Flow[tuple[list[SessionInfo], str | None]]:
        """One page of this caller's sessions, and the cursor of the next page."""
        params = {"limit": str(limit), "model": model, "cursor": cursor}
        call = Call("GET", "/v1/sessions", params={name: value for name, value in params.items() if value is not None})
        return read_sessions((yield from self._exchange(call)))

    def refresh(self, handle: Handle) -> Flow[SessionInfo]:
        """What the server says of a session now."""
        handle.info = read_session((yield from self._exchange(Call("GET", _session_path(handle)))))
        return handle.info

    def delete(self, handle: Handle) -> Flow[None]:
        """Forget a session, here too: its recipe goes, so that nothing brings it back."""
        handle.recipe = None
        yield from self._exchange(Call("DELETE", _session_path(handle)))

    def delete_by_id(self, session_id: str) -> Flow[None]:
        """Forget a session by its id."""
        yield from self._exchange(Call("DELETE", f"/v1/sessions/{_segment('session', session_id)}"))

    # -- classify ------------------------------------------------------------------------------------------------------

    def classify(self, handle: Handle, queries: ImagesInput) -> Flow[list[Prediction]]:
        """The predictions of a session, in batches that the model and the body limit allow."""
        pictures: list[Picture] = yield Blocking(lambda: read_images(queries))
        return (yield from self._classify(handle, pictures))

    def classify_once(
        self, model: str, support: SupportInput, *, queries: ImagesInput, options: AdaptOptions
    ) -> Flow[list[Prediction]]:
        """Support set and queries in one request; where they do not fit in one, a session and then its batches."""
        path = f"/v1/models/{_segment('model', model)}/classify"
        examples, pictures = yield Blocking(lambda: (read_support(support), read_images(queries)))
        if not pictures:
            return []
        batches = list((yield from self._batches(model, pictures)))
        if len(batches) == 1:
            body = yield Blocking(lambda: encode(examples, batches[0], options=options))
            response = yield from self._exchange(Call("POST", path, body))
            return read_predictions(response, count=len(pictures))
        handle = yield from self.adapt(model, examples, options=options, readapt=True)
        return (yield from self._classify(handle, pictures))

    # -- shared steps --------------------------------------------------------------------------------------------------

    def _classify(self, handle: Handle, pictures: Sequence[Picture]) -> Flow[list[Prediction]]:
        predictions: list[Prediction] = []
        for batch in (yield from self._batches(_pinned(handle.info), pictures)):
            body = yield Blocking(partial(encode, queries=batch))
            response = yield from self._with_session(handle, partial(self._post_queries, handle, body))
            predictions += read_predictions(response, count=len(batch))
        return predictions

    def _post_queries(self, handle: Handle, body: Body) -> Flow[httpx.Response]:
        return self._exchange(Call("POST", f"{_session_path(handle)}/classify", body))

    def _batches(self, model: str, pictures: Sequence[Picture]) -> Flow[list[Sequence[Picture]]]:
        # A single query is within any limit: no need to ask.
        most = (yield from self._max_queries(model)) if len(pictures) > 1 else 1
        batches: list[Sequence[Picture]] = yield Blocking(
            lambda: list(split(pictures, most=most, max_bytes=self.settings.max_body_bytes))
        )
        return batches

    def _max_queries(self, model: str) -> Flow[int]:
        most, asked_at = self._limits.get(model, (0, 0.0))
        # A name without a version may mean a newer model tomorrow, with another limit.
        if not most or time.monotonic() - asked_at > _LIMITS_SECONDS:
            most = (yield from self.model(model)).limits.max_queries
            self._limits[model] = (most, time.monotonic())
        return most

    def _post_support(self, path: str, examples: Sequence[Example], options: AdaptOptions) -> Flow[SessionInfo]:
        body = yield Blocking(lambda: encode(examples, options=options))
        return read_session((yield from self._exchange(Call("POST", path, body))))

    def _with_session(self, handle: Handle, flow: Callable[[], Flow[T]]) -> Flow[T]:
        """A flow on a session which, when the server has forgotten the session, is run again after adapting anew."""
        try:
            return (yield from flow())
        except SessionNotFoundError:
            if handle.recipe is None:
                raise
        logger.debug("session %s is gone; adapting anew", handle.info.id)
        path = f"/v1/models/{_segment('model', _pinned(handle.info))}/sessions"
        handle.info = yield from self._post_support(path, handle.recipe.examples, handle.recipe.options)
        handle.made |= not handle.info.cached
        return (yield from flow())

    def _exchange(self, call: Call) -> Flow[httpx.Response]:
        return exchange(call, self.settings)


def _pinned(info: SessionInfo) -> str:
    return f"{info.model}@{info.version}"


def _session_path(handle: Handle) -> str:
    return f"/v1/sessions/{_segment('session', handle.info.id)}"


def _segment(what: str, name: str) -> str:
    """A name as one segment of a path."""
    if name in {"", ".", ".."} or len(name) > _LONGEST_NAME:
        raise InvalidInputError(f"{name[:80]!r} is no name of a {what}")
    return quote(name, safe="@", errors="replace")
