"""A real redis-server in a process of its own, which tests may kill, pause, fill and cripple."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ...ports import free_port

START_SECONDS = 20.0


class RedisServer:
    """One redis-server on a port of the loopback interface. Nothing is saved: what is killed comes back empty."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.port = port
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                pytest.fail(f"redis-server ended with {self._process.returncode}")
            with contextlib.suppress(OSError):
                if self("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return
            time.sleep(0.02)
        pytest.fail("redis-server did not come up")

    def kill(self) -> None:
        """SIGKILL, as when its machine is gone."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __call__(self, *command: Any) -> bytes:
        """Send one command through a connection of our own; answers the first bytes of the raw reply."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()


@contextlib.contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """A redis-server that is gone afterwards; skips the test where there is none installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="kshot-redis-") as folder:
        server = RedisServer(Path(folder), free_port(), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
