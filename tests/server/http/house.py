"""The application around engines of a test's own, for a real one fails, hangs or is gone at no test's wish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Message

from kshot_server.auth import ApiKeys
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import (
    AdaptRequest,
    ClassifyRequest,
    Outcome,
)
from kshot_server.gateway import Components, mount
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.sessions.stores.memory import MemoryStore
from kshot_server.settings import Settings

__all__ = ["TEACH", "Engines", "House"]


TEACH = "/v1/models/tiny/sessions"


JSON = [(b"content-type", b"application/json")]


class Engines:
    """Answers what it was told to, for ever the last of it."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[AdaptRequest | ClassifyRequest] = []
        self.cancelled = 0

    async def submit(self, request: AdaptRequest | ClassifyRequest) -> Outcome:
        self.requests.append(request)
        if not self.outcomes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]


class House:
    """The application around such engines, spoken to over ASGI."""

    def __init__(self, models: Path, engines: Engines, store: SessionStore | None = None, **settings: Any) -> None:
        self.state = "ready"
        self.app = FastAPI(openapi_url=None)
        components = Components(
            models=ModelRepository([models]),
            keys=ApiKeys({}),
            store=store or MemoryStore(1 << 20),
            engines=engines,
            state=lambda: self.state,
            registry=CollectorRegistry(),
        )
        self.mounted = mount(self.app, Settings(**settings), components)

    def ask(self, *requests: tuple[str, str, Any], **headers: str) -> list[httpx.Response]:
        """Send requests one after the other."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.mounted.entrance)
            async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
                return [await client.request(method, path, json=body) for method, path, body in requests]

        return asyncio.run(send())

    def exchange(self, receive: Callable[[], Awaitable[Message]], path: str = TEACH) -> list[Message]:
        """Send one POST as ASGI messages."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": JSON,
            "query_string": b"",
            "http_version": "1.1",
        }
        asyncio.run(self.mounted.entrance(scope, receive, send))
        return sent
