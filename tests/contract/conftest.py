"""Stock LitServe servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

SCRIPT = Path(__file__).with_name("stock_server.py")


@dataclass(frozen=True)
class Stock:
    """A running stock server."""

    url: str
    process: subprocess.Popen[bytes]

    def ask(self, do: str, timeout: float = 30, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"do": do, **more}, timeout=timeout)

    def children(self) -> list[psutil.Process]:
        """All but the resource tracker, which ends by itself."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]

    def worker(self) -> psutil.Process:
        (worker,) = [child for child in self.children() if "spawn_main" in " ".join(child.cmdline())]
        return worker


StartStock = Callable[..., contextlib.AbstractContextManager[Stock]]


@pytest.fixture(scope="session")
def stock(free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> StartStock:
    """A context manager: `with stock(api={...}, server={...}, run={...}) as running`. Nothing of it is left behind."""

    @contextlib.contextmanager
    def start(**options: Any) -> Iterator[Stock]:
        port = free_port()
        log = tmp_path_factory.mktemp("stock") / "log.txt"
        command = [sys.executable, str(SCRIPT), str(port), json.dumps(options)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process, log)
            yield Stock(f"http://127.0.0.1:{port}", process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=2).status_code in {200, 500}:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    pytest.fail(f"the stock server was not ready:\n{log.read_text()}")
