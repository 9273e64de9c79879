"""The blocking client. All that it says is in _flows.py; here are its verbs, and the loop that does a flow's I/O."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ._bodies import AdaptOptions
from ._exchange import Call, Effect, Flow, Pause
from ._flows import Flows
from ._images import ImagesInput
from ._local import LOCAL_URL, local_transport
from ._retry import RetryPolicy
from ._sessions import Session
from ._settings import (
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_TIMEOUT_SECONDS,
    NOT_GIVEN,
    NotGiven,
    Settings,
    changed_settings,
    http_options,
    make_settings,
)
from ._support import SupportInput
from ._types import Model, Prediction, SessionInfo

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """Teaches a kshot server new classes and asks it about images. Safe to share between threads.

        with Client("http://localhost:8000") as client:
            session = client.adapt("omniglot", {"alpha": ["a1.png"], "beta": ["b1.png"]})
            predictions = session.classify(["q1.png", "q2.png"])

    Args:
        base_url: where the server is; $KSHOT_URL, then http://127.0.0.1:8000, if not given.
        api_key: sent as a bearer token; $KSHOT_API_KEY if not given, none if that is empty, too.
        timeout: seconds that one attempt may wait for the server; None waits for ever.
        retries: attempts after the first, or a RetryPolicy. Repeating is safe: sessions are content-addressed.
        max_connections: size of the connection pool.
        max_body_bytes: longer query lists are sent in several requests.
        headers: sent with each request.
        transport: an httpx transport in place of the network.

    Raises:
        ConfigurationError: one of them is unusable.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
        retries: int | RetryPolicy = 2,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        settings = make_settings(
            base_url,
            api_key=api_key,
            timeout=timeout,
            retries=retries,
            max_connections=max_connections,
            max_body_bytes=max_body_bytes,
            headers=headers,
        )
        self._setup(settings, httpx.Client(**http_options(settings), transport=transport))

    def _setup(self, settings: Settings, http: httpx.Client) -> None:
        self._settings = settings
        self._http = http
        self._flows = Flows(settings)

    @classmethod
    def local(
        cls, models: str | os.PathLike[str] | None = None, *, timeout: float | None = DEFAULT_TIMEOUT_SECONDS
    ) -> Self:
        """A client without a server: the engine runs in this process, behind the same interface.

        Args:
            models: name of a shipped artifact or a folder of artifacts; all shipped ones if not given.
            timeout: seconds that one call may take.

        Raises:
            MissingExtraError: the engine is not installed.
            kshot_models.errors.ModelError: there is no such artifact, or it is not valid.
        """
        client = cls(LOCAL_URL, api_key="", timeout=timeout, retries=0, transport=local_transport(models))
        client._settings = replace(client._settings, place=f"local:{models or ''}")
        client._flows = Flows(client._settings)
        return client

    def with_options(
        self, *, timeout: float | NotGiven | None = NOT_GIVEN, retries: int | RetryPolicy | NotGiven = NOT_GIVEN
    ) -> Self:
        """The same client, with the same connections, and another timeout or number of retries.

        Raises:
            ConfigurationError: one of them is unusable.
        """
        client = object.__new__(type(self))
        client._setup(changed_settings(self._settings, timeout, retries), self._http)
        return client

    # -- teach and ask -------------------------------------------------------------------------------------------------

    def adapt(
        self,
        model: str,
        support: SupportInput,
        *,
        ttl_seconds: int | None = None,
        durability: str | None = None,
        readapt: bool = True,
    ) -> Session:
        """Teach a model new classes.

        Args:
            model: a name ("omniglot": its newest version) or `name@version`.
            support: {label: images}, (label, image) pairs, or a folder of class folders. An image is a path, the bytes
                of a PNG, JPEG or WEBP file, a PIL.Image, or a uint8 array (h, w) or (h, w, c).
            ttl_seconds: how long the server keeps the session after its last use.
            durability: "durable" or "volatile"; the server's own rule if not given.
            readapt: keep the support set in this process, to teach it again when the server has forgotten it.

        Returns:
            The session. The same support set always leads to the same one, in any order.

        Raises:
            InvalidInputError: the support set cannot be sent.
            ModelNotFoundError, UnprocessableEntityError, ...: the server refuses it; see _errors.py.
            APIConnectionError: no answer.
        """
        options = AdaptOptions(ttl_seconds, durability)
        handle = self._run(self._flows.adapt(model, support, options=options, readapt=readapt))
        return Session(handle, self._flows, self._run)

    def classify(
        self,
        model: str,
        support: SupportInput,
        queries: ImagesInput,
        *,
        ttl_seconds: int | None = None,
        durability: str | None = None,
    ) -> list[Prediction]:
        """Teach and ask in one request. The adapted weights are kept all the same, so asking again is fast.

        See adapt and Session.classify for the arguments and errors.
        """
        options = AdaptOptions(ttl_seconds, durability)
        return self._run(self._flows.classify_once(model, support, queries=queries, options=options))

    # -- look around ---------------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> Session:
        """A session that exists, by its id.

        Raises:
            SessionNotFoundError: it does not, or is another tenant's.
        """
        return Session(self._run(self._flows.session(session_id)), self._flows, self._run)

    def sessions(self, *, model: str | None = None, page_size: int = 100) -> Iterator[SessionInfo]:
        """All sessions of this API key, page by page; those of one model if it is given."""
        cursor: str | None = None
        while True:
            page, cursor = self._run(self._flows.sessions(model=model, limit=page_size, cursor=cursor))
            yield from page
            if cursor is None:
                return

    def delete_session(self, session_id: str) -> None:
        """Forget a session by its id.

        Raises:
            SessionNotFoundError: there is none.
        """
        self._run(self._flows.delete_by_id(session_id))

    def models(self) -> list[Model]:
        """All models that the server offers."""
        return self._run(self._flows.models())

    def model(self, name: str) -> Model:
        """One model, by its name or `name@version`.

        Raises:
            ModelNotFoundError: the server has none of this name.
        """
        return self._run(self._flows.model(name))

    def ready(self) -> bool:
        """Whether the server takes requests now. Asked once, raises nothing."""
        return self._run(self._flows.ready())

    # -- life ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, those of copies made by with_options included."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        key = "" if self._settings.api_key is None else " api_key=****"
        return f"<kshot.{type(self).__name__} {self._settings.place}{key}>"

    def _run(self, flow: Flow[T]) -> T:
        resume: Callable[[], Effect] = partial(next, flow)
        while True:
            try:
                effect = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                resume = partial(flow.send, self._serve(effect))
            except httpx.RequestError as error:
                resume = partial(flow.throw, error)

    def _serve(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            return self._http.request(**effect.arguments, timeout=self._settings.timeout)
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        return effect.function()
