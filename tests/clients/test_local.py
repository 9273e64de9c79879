"""Local mode: whatever is registered under `kshot.local` answers in place of a server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot import AsyncClient, Client, MissingExtraError

Install = Callable[..., None]

ENGINE = """
import httpx

opened = []

def answer(request):
    assert "authorization" not in request.headers
    return httpx.Response(200, json={"models": []}, request=request)

def open_transport(models):
    opened.append(models)
    return httpx.MockTransport(answer)

open_async_transport = open_transport
"""


@pytest.fixture
def install(install_entry_point: Callable[..., Path]) -> Install:
    """A function that installs an engine of the given source."""

    def installed(source: str, module: str = "some_engine") -> None:
        install_entry_point("kshot.local", f"engine = {module}:open_transport", some_engine=source)

    return installed


def opened() -> list[str | None]:
    result: list[str | None] = sys.modules["some_engine"].opened
    return result


def test_the_engine_answers_in_place_of_a_server(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KSHOT_API_KEY", "for the real server only")
    monkeypatch.setenv("KSHOT_URL", "http://real.example")
    install(ENGINE)
    with Client.local("omniglot", timeout=3) as client:
        assert client.models() == []
        assert repr(client) == "<kshot.Client local:omniglot>"
        assert client.with_options(retries=1).models() == []
    with Client.local(tmp_path) as client:
        assert client.ready()
    with Client.local() as client:
        assert repr(client) == "<kshot.Client local:>"
    assert opened() == ["omniglot", str(tmp_path), None]


def test_the_asyncio_twin(install: Install) -> None:
    install(ENGINE)

    async def story() -> None:
        async with AsyncClient.local("omniglot") as client:
            assert await client.models() == []
            assert repr(client) == "<kshot.AsyncClient local:omniglot>"

    asyncio.run(story())
    assert opened() == ["omniglot"]


def test_without_the_extra(install: Install) -> None:
    install("def open_transport(models):\n    import no_such_package_here\n")
    with pytest.raises(MissingExtraError, match=r"pip install 'kshot\[server,torch\]'.*no_such_package_here"):
        Client.local("omniglot")


def test_without_the_engines_own_module(install: Install) -> None:
    install("", module="engine_that_is_not_there")
    with pytest.raises(MissingExtraError, match="engine_that_is_not_there"):
        AsyncClient.local("omniglot")


def test_without_any_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match="pip install"):
        Client.local("omniglot")


def test_other_errors_of_the_engine_pass(install: Install) -> None:
    install("def open_transport(models):\n    raise FileNotFoundError(models)\n")
    with pytest.raises(FileNotFoundError):
        Client.local("nowhere")
