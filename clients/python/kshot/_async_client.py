"""The client for asyncio. All that it says is in _flows.py; here are its verbs, and the loop that does a flow's I/O."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ._bodies import AdaptOptions
from ._exchange import Call, Effect, Flow, Pause
from ._flows import Flows
from ._images import ImagesInput
from ._local import LOCAL_URL, local_async_transport
from ._retry import RetryPolicy
from ._sessions import AsyncSession
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

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Teaches a kshot server new classes and asks it about images, from asyncio.

        async with AsyncClient("http://localhost:8000") as client:
            session = await client.adapt("omniglot", {"alpha": ["a1.png"], "beta": ["b1.png"]})
            predictions = await session.classify(["q1.png", "q2.png"])

    Arguments and errors are those of Client. Files are read and images encoded in threads, so the event loop goes on.
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
        transport: httpx.AsyncBaseTransport | None = None,
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
        self._setup(settings, httpx.AsyncClient(**http_options(settings), transport=transport))

    def _setup(self, settings: Settings, http: httpx.AsyncClient) -> None:
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
        client = cls(LOCAL_URL, api_key="", timeout=timeout, retries=0, transport=local_async_transport(models))
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

    async def adapt(
        self,
        model: str,
        support: SupportInput,
        *,
        ttl_seconds: int | None = None,
        durability: str | None = None,
        readapt: bool = True,
    ) -> AsyncSession:
        """Teach a model new classes. See Client.adapt."""
        options = AdaptOptions(ttl_seconds, durability)
        handle = await self._run(self._flows.adapt(model, support, options=options, readapt=readapt))
        return AsyncSession(handle, self._flows, self._run)

    async def classify(
        self,
        model: str,
        support: SupportInput,
        queries: ImagesInput,
        *,
        ttl_seconds: int | None = None,
        durability: str | None = None,
    ) -> list[Prediction]:
        """Teach and ask in one request. See Client.classify."""
        options = AdaptOptions(ttl_seconds, durability)
        return await self._run(self._flows.classify_once(model, support, queries=queries, options=options))

    # -- look around ---------------------------------------------------------------------------------------------------

    async def session(self, session_id: str) -> AsyncSession:
        """A session that exists, by its id.

        Raises:
            SessionNotFoundError: it does not, or is another tenant's.
        """
        return AsyncSession(await self._run(self._flows.session(session_id)), self._flows, self._run)

    async def sessions(self, *, model: str | None = None, page_size: int = 100) -> AsyncIterator[SessionInfo]:
        """All sessions of this API key, page by page; those of one model if it is given."""
        cursor: str | None = None
        while True:
            page, cursor = await self._run(self._flows.sessions(model=model, limit=page_size, cursor=cursor))
            for info in page:
                yield info
            if cursor is None:
                return

    async def delete_session(self, session_id: str) -> None:
        """Forget a session by its id.

        Raises:
            SessionNotFoundError: there is none.
        """
        await self._run(self._flows.delete_by_id(session_id))

    async def models(self) -> list[Model]:
        """All models that the server offers."""
        return await self._run(self._flows.models())

    async def model(self, name: str) -> Model:
        """One model, by its name or `name@version`.

        Raises:
            ModelNotFoundError: the server has none of this name.
        """
        return await self._run(self._flows.model(name))

    async def ready(self) -> bool:
        """Whether the server takes requests now. Asked once, raises nothing."""
        return await self._run(self._flows.ready())

    # -- life ----------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections, those of copies made by with_options included."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        key = "" if self._settings.api_key is None else " api_key=****"
        return f"<kshot.{type(self).__name__} {self._settings.place}{key}>"

    async def _run(self, flow: Flow[T]) -> T:
        resume: Callable[[], Effect] = partial(next, flow)
        while True:
            try:
                effect = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                resume = partial(flow.send, await self._serve(effect))
            except httpx.RequestError as error:
                resume = partial(flow.throw, error)

    async def _serve(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            return await self._http.request(**effect.arguments, timeout=self._settings.timeout)
        if isinstance(effect, Pause):
            return await asyncio.sleep(effect.seconds)
        return await asyncio.to_thread(effect.function)
