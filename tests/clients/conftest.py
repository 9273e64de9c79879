"""What the client's tests share: the server of contract_server.py, clients of it, drawings, installed entry points."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot import AsyncClient, Client, RetryPolicy

from .contract_server import Answer, Double, listening, problem


@pytest.fixture
def double() -> Iterator[Double]:
    """The test server, listening on `double.url`."""
    double = Double()
    with listening(double) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield double
        server.shutdown()
        thread.join()


FAST = RetryPolicy(retries=2, first_seconds=0.001, longest_seconds=0.002)


@pytest.fixture
def client(double: Double) -> Iterator[Client]:
    """A client of the test server that does not wait long between attempts."""
    with Client(double.url, retries=FAST, timeout=5) as client:
        yield client


@pytest.fixture
def async_client(double: Double) -> AsyncClient:
    """The asyncio twin; the test closes it in its own event loop."""
    return AsyncClient(double.url, retries=FAST, timeout=5)


def drawing(seed: int, *, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)


@pytest.fixture
def install_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """A function that installs a distribution with one entry point, before all others; answers its folder."""

    def installed(group: str, line: str, **modules: str) -> Path:
        folder = tmp_path / "site"
        metadata = folder / "something-1.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: something\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        return folder

    return installed


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """A function from a seed to a drawing, uint8 (size, size)."""
    return drawing


@pytest.fixture
def answer() -> type[Answer]:
    """The class of answers, for `double.faults`."""
    return Answer


@pytest.fixture
def problem_json() -> Callable[..., dict[str, Any]]:
    """A function from a status and a code to a problem document."""
    return problem
