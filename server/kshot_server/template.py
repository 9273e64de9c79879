"""The process that engines are forked from. It has imported all that an engine needs, and computes nothing.

    main ── template ─┬─ engine 0
                      └─ engine 1, or the successor of one that died

Importing torch takes two seconds of a core, loading a model and trying it a fraction of one. So a template is started
before anything else, imports while the main process puts the server together, and is there when an engine dies. It is
the standard library's fork server: one thread, no CUDA, nothing open that its children could disturb.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from typing import Any

from kshot_server import template_imports
from kshot_server.engine.executors.table import RUNTIMES

__all__ = ["EngineProcess", "FirstEngines", "end_template", "start_template"]

_ENGINE = ("kshot_server.worker",)


def start_template(runtime: str) -> None:
    """Start the template, which from now on imports what engines of this runtime need. Later calls change nothing."""
    forkserver.set_forkserver_preload([template_imports.__name__, *RUNTIMES[runtime].preload, *_ENGINE])
    _ensure_running()


class FirstEngines:
    """The engines that a server starts with, forked by a thread as soon as the template can.

    The main process goes on in the meantime, but must not fork before it has asked for them: a fork that meets the
    thread at work would copy what it is in the middle of.

    Args:
        starts: what to run in each, and with which arguments.
    """

    def __init__(self, starts: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        self._processes = [EngineProcess(*start) for start in starts]
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._start, name="first-engines")
        self._thread.start()

    def processes(self) -> list[EngineProcess]:
        """The processes, once all have been started.

        Raises:
            OSError, EOFError: the template has ended.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._processes

    def _start(self) -> None:
        try:
            for process in self._processes:
                process.start()
        except Exception as error:  # noqa: BLE001 - it is for who asks
            self._error = error


def end_template() -> None:
    """End the template at once, even while it imports. It ends by itself too, when the main process has ended."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # noqa: SLF001 - its own _stop() waits
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class EngineProcess(ForkServerProcess):
    """A process forked from the template, which is started if it was not, or is gone."""

    def __init__(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        super().__init__(target=target, args=arguments, name="inference-worker")

    def start(self) -> None:
        """Fork it."""
        _ensure_running()
        super().start()

    def run(self) -> None:
        """What runs in the process."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        super().run()


def _ensure_running() -> None:
    # First, and by itself: it would unblock the signal, as it starts a process of its own.
    resource_tracker.ensure_running()
    # A signal to the whole process group must not take the template, and the engines with it, before requests are
    # drained. A process starts with the signal mask of the thread that starts it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.environ[template_imports.IN_TEMPLATE] = "1"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[template_imports.IN_TEMPLATE]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
