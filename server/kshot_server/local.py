"""Local mode: the same application in this process, behind an httpx transport. No socket, no LitServe.

client's thread ── handle_request ───────┐
                                         ├─▶ event loop in a thread ─▶ application ─▶ engine
client's loop ──── handle_async_request ─┘
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from kshot_models.artifact import MANIFEST, read_manifest, zoo_folder
from kshot_models.errors import ArtifactNotFound
from kshot_server.auth import ApiKeys
from kshot_server.engine.engine import Engine
from kshot_server.engine.repository import ModelNotFound, ModelRepository
from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome
from kshot_server.gateway import Components, mount
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.settings import Settings

__all__ = ["LoopTransport", "open_application", "open_async_transport", "open_transport"]


class _OneEngine:
    """The engine of this process, as the service sees engines."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def submit(self, request: AdaptRequest | ClassifyRequest) -> Outcome:
        """See `service.steps.Engines`."""
        return await asyncio.wrap_future(self._engine.submit(request))


class LoopTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers requests from an ASGI application on an event loop of its own; serves sync and async clients alike.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._asgi = httpx.ASGITransport(app)
        self._closing = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kshot-local", daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of a sync client."""
        future = self._call(request, request.read())
        seconds = _read_timeout(request)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise httpx.ReadTimeout(f"no answer within {seconds:g} seconds", request=request) from None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an async client, on whatever loop it runs."""
        future = self._call(request, await request.aread())
        seconds = _read_timeout(request)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no answer within {seconds:g} seconds", request=request) from None

    def on_close(self, call: Callable[[], None]) -> None:
        """Have `call` called once the loop has ended; the last one given is called first."""
        self._closing.callback(call)

    def close(self) -> None:
        """End the loop and its thread. May be called more than once."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._closing.close()

    async def aclose(self) -> None:
        """As `close`."""
        await asyncio.to_thread(self.close)

    def _call(self, request: httpx.Request, content: bytes) -> concurrent.futures.Future[httpx.Response]:
        if self._loop.is_closed():
            raise RuntimeError("the local transport is closed")
        # A request belongs to its sender's thread, so the loop gets one of its own.
        own = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        return asyncio.run_coroutine_threadsafe(self._answer(own), self._loop)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._asgi.handle_async_request(request)
        content = await response.aread()
        # As a stream, because httpx closes (and times) a response when its stream has been read.
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(content))


async def _cancel_others() -> None:
    """End what is still at work, for a caller that has given up on it: a loop must not be closed under a coroutine."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _read_timeout(request: httpx.Request) -> float | None:
    seconds: float | None = request.extensions.get("timeout", {}).get("read")
    return seconds


def open_application(
    settings: Settings, models: ModelRepository, *, keys: ApiKeys | None = None, store: SessionStore | None = None
) -> LoopTransport:
    """The application with an engine of this process behind it.

    Args:
        settings: as of a server, as far as they concern requests, sessions and the engine's cache and batches. What
            is for starting and ending a server means nothing here (host, port, numbers of processes, `drain_delay`,
            logs), nor does what the other arguments stand for (`models` with `allow_transductive`, `store`,
            `api_keys`) or what is always the default: torch on the CPU (`device`, `runtime`).
        models: what is served.
        keys: who may ask; everybody if not given.
        store: where sessions live; in memory if not given.
    """
    engine = Engine(models, cache_bytes=settings.cache_bytes, max_wait_ms=settings.max_wait_ms)
    app = FastAPI(openapi_url=None)
    components = Components(
        models=models,
        keys=keys or ApiKeys({}),
        store=store or MemoryStore(settings.store_bytes),
        engines=_OneEngine(engine),
        state=lambda: "ready",
        registry=CollectorRegistry(),
    )
    mounted = mount(app, settings, components)
    transport = LoopTransport(mounted.entrance)
    transport.on_close(engine.close)
    transport.on_close(mounted.decoder.close)
    return transport


def open_transport(models: str | None = None) -> LoopTransport:
    """Open the engine in this process.

    Args:
        models: the name of a shipped model (`omniglot`, `omniglot@1`), a repository of models, or the folder of one
            artifact; all shipped models if not given.

    Raises:
        ArtifactNotFound: there is no such model, or none in that folder.
    """
    with contextlib.ExitStack() as stack:
        transport = open_application(Settings(), _repository(models, stack))
        transport.on_close(stack.pop_all().close)
    return transport


def open_async_transport(models: str | None = None) -> LoopTransport:
    """As `open_transport`, for an async client."""
    return open_transport(models)


def _repository(models: str | None, stack: contextlib.ExitStack) -> ModelRepository:
    if models is None:
        return _checked(ModelRepository([zoo_folder()]), "the models that ship with kshot")
    folder = Path(models)
    if (folder / MANIFEST).is_file():
        return _checked(ModelRepository([stack.enter_context(_placed(folder))]), models)
    if folder.is_dir():
        return _checked(ModelRepository([folder]), models)
    shipped = ModelRepository([zoo_folder()])
    try:
        shipped.find(models)
    except ModelNotFound:
        names = ", ".join(entry.name for entry in shipped.list()) or "none"
        raise ArtifactNotFound(f"expected a folder or the name of a shipped model ({names}), got {models!r}") from None
    return shipped


@contextlib.contextmanager
def _placed(folder: Path) -> Iterator[Path]:
    """A repository of one artifact: repositories have DIR/<name>/<version>, and an artifact may stand anywhere."""
    manifest = read_manifest(folder)
    with tempfile.TemporaryDirectory(prefix="kshot-local-") as root:
        link = Path(root, manifest.name, manifest.version)
        link.parent.mkdir()
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield Path(root)


def _checked(repository: ModelRepository, place: str) -> ModelRepository:
    if not repository.list():
        reasons = "".join(f"; {refused.folder}: {refused.reason}" for refused in repository.refused)
        raise ArtifactNotFound(f"expected a model in {place}, found none{reasons}")
    return repository
