"""`kshot serve` as a child process: started on a free port, waited for, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeAlias

from kshot._client import Client
from kshot._errors import KshotError

__all__ = ["LocalServer", "ServerFailedError", "ending_signals_as_interrupt", "serve_command"]

START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_GONE_SECONDS = 2.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 20
Handler: TypeAlias = Callable[[int, FrameType | None], object] | signal.Handlers

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerFailedError(KshotError):
    """The server of the demo did not start, or ended."""


def serve_command(port: int) -> list[str]:
    """The command that serves the shipped models to this machine only."""
    return [sys.executable, "-m", "kshot", "serve", "--host", "127.0.0.1", "--port", str(port)]


@contextlib.contextmanager
def ending_signals_as_interrupt() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise KeyboardInterrupt, so that what must be tidied up is."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers(interrupt):
        yield


class LocalServer:
    """A server process and its log. As a context manager: ready when entered, gone with all its children when left.

    Args:
        command: the program and its arguments, with `{port}` where the port belongs; `kshot serve` if not given.
        start_seconds: how long it may take to be ready.
    """

    def __init__(self, command: Sequence[str] | None = None, *, start_seconds: float = START_SECONDS) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = serve_command(port) if command is None else [part.format(port=port) for part in command]
        self._start_seconds = start_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="kshot-demo-")
        self._log = Path(self._folder.name, "server.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raise ServerFailedError, with the end of the server's log, if the process has ended."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise self._failure(f"the server has ended with exit code {code}")

    def _start(self) -> None:
        # A KSHOT_* variable of the caller's would be a flag of the server's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KSHOT_")}
        pending: list[int] = []
        # A signal in the midst of Popen would leave a process that nobody knows; it is obeyed right after.
        with _handlers(lambda number, _frame: pending.append(number)), self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process only, and the group to end is known.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        if pending:
            raise KeyboardInterrupt

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        with Client(self.url, api_key="", timeout=2, retries=0) as client:
            while not client.ready():
                self.check()
                if time.monotonic() > deadline:
                    raise self._failure(f"the server was not ready after {self._start_seconds:g} s")
                time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        # A second Ctrl-C must not leave the server behind; this takes a bounded time.
        with _handlers(signal.SIG_IGN):
            if self._process is not None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
                # What the server has started is in its group; after a clean end little is left there, and soon nothing.
                deadline = time.monotonic() + _GONE_SECONDS
                while _kill_group(self._process.pid) and time.monotonic() < deadline:
                    self._process.wait()
                    time.sleep(_POLL_SECONDS)
            self._folder.cleanup()

    def _failure(self, what: str) -> ServerFailedError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        log = "".join(f"\n    {line}" for line in lines) or " (nothing)"
        return ServerFailedError(f"{what}. The end of its log:{log}")


@contextlib.contextmanager
def _handlers(handler: Handler) -> Iterator[None]:
    """Another handler for the signals that end a process; elsewhere than in the main thread Python cannot set any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _kill_group(group: int) -> bool:
    """Whether there was anything to kill; what is dead but not yet reaped counts."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
