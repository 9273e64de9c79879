"""Sessions in the caller's hands: a task that the server has been taught.

A session keeps its support set, so when the server has forgotten it (expiry, eviction) the next call teaches it again
and goes on; `readapt=False` opts out. As a context manager it deletes, at the end, what it has made:

    with client.adapt("omniglot", {"alpha": ["a1.png"], "beta": ["b1.png"]}) as session:
        print(session.classify("q.png")[0].label)
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar

from ._bodies import AdaptOptions
from ._errors import KshotError, SessionNotFoundError
from ._exchange import Flow
from ._flows import Flows, Handle
from ._images import ImagesInput
from ._support import SupportInput
from ._types import Prediction, SessionInfo

__all__ = ["AsyncSession", "Session"]

T = TypeVar("T")


class Run(Protocol):
    """Runs a flow to its end."""

    def __call__(self, flow: Flow[T]) -> T:
        """The flow's result."""


class AsyncRun(Protocol):
    """Runs a flow to its end, without blocking."""

    def __call__(self, flow: Flow[T]) -> Awaitable[T]:
        """The flow's result."""


class _Facts:
    """What both kinds of session know without asking; never made by itself."""

    _handle: Handle

    @property
    def last_info(self) -> SessionInfo:
        """What the server last said of the session; info() asks again."""
        return self._handle.info

    @property
    def id(self) -> str:
        """The id; the same support set for the same model version always has the same one."""
        return self._handle.info.id

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._handle.info.model

    @property
    def version(self) -> str:
        """Version of the model, fixed for the life of the session."""
        return self._handle.info.version

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it tells apart, sorted."""
        return self._handle.info.labels

    @property
    def support_size(self) -> int:
        """How many images it has learned from."""
        return self._handle.info.support_size

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of them for each label."""
        return self._handle.info.counts

    @property
    def expires_at(self) -> datetime:
        """When it will be forgotten unless used before, as the server last said; info() asks again."""
        return self._handle.info.expires_at

    @property
    def cached(self) -> bool:
        """Whether the server knew it before this client taught it; always so for a session found by its id."""
        return not self._handle.made

    def __repr__(self) -> str:
        info = self._handle.info
        labels = ", ".join(repr(label) for label in info.labels[:5]) + (", ..." if len(info.labels) > 5 else "")
        return f"<kshot.{type(self).__name__} {info.id} {info.model}@{info.version} [{labels}]>"


class Session(_Facts):
    """A task that the server has been taught. Made by Client.adapt, Client.session and Session.extend."""

    def __init__(self, handle: Handle, flows: Flows, run: Run) -> None:
        self._handle = handle
        self._flows = flows
        self._run = run

    def classify(self, queries: ImagesInput) -> list[Prediction]:
        """The class of each image, in order.

        A long list travels in several requests, cut by the model's `max_queries` and the client's `max_body_bytes`.

        Args:
            queries: one image, several, or a numpy stack; none gives an empty list.

        Raises:
            InvalidInputError: an image cannot be sent.
            SessionNotFoundError: the server has forgotten the session, and it cannot or may not be adapted anew.
            APIStatusError, APIConnectionError: see _errors.py.
        """
        return self._run(self._flows.classify(self._handle, queries))

    def extend(
        self, support: SupportInput, *, ttl_seconds: int | None = None, durability: str | None = None
    ) -> Session:
        """A new session that knows these examples, of new or known classes, too. This one stays as it is."""
        options = AdaptOptions(ttl_seconds, durability)
        return Session(self._run(self._flows.extend(self._handle, support, options=options)), self._flows, self._run)

    def info(self) -> SessionInfo:
        """What the server says of the session now."""
        return self._run(self._flows.refresh(self._handle))

    def delete(self) -> None:
        """Forget the session, on the server and here: it will not be adapted anew."""
        self._run(self._flows.delete(self._handle))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.cached:
            return  # someone else's, too
        # An error in the block must not be hidden behind one of tidying up.
        with contextlib.suppress(KshotError if kind else SessionNotFoundError):
            self.delete()


class AsyncSession(_Facts):
    """A task that the server has been taught. Made by AsyncClient.adapt and .session and by AsyncSession.extend."""

    def __init__(self, handle: Handle, flows: Flows, run: AsyncRun) -> None:
        self._handle = handle
        self._flows = flows
        self._run = run

    async def classify(self, queries: ImagesInput) -> list[Prediction]:
        """The class of each image, in order. See Session.classify."""
        return await self._run(self._flows.classify(self._handle, queries))

    async def extend(
        self, support: SupportInput, *, ttl_seconds: int | None = None, durability: str | None = None
    ) -> AsyncSession:
        """A new session that knows these examples, too. See Session.extend."""
        options = AdaptOptions(ttl_seconds, durability)
        return AsyncSession(
            await self._run(self._flows.extend(self._handle, support, options=options)), self._flows, self._run
        )

    async def info(self) -> SessionInfo:
        """What the server says of the session now."""
        return await self._run(self._flows.refresh(self._handle))

    async def delete(self) -> None:
        """Forget the session, on the server and here: it will not be adapted anew."""
        await self._run(self._flows.delete(self._handle))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.cached:
            return  # someone else's, too
        # An error in the block must not be hidden behind one of tidying up.
        with contextlib.suppress(KshotError if kind else SessionNotFoundError):
            await self.delete()
