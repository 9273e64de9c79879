"""LitServe, 2 of 2: assembling the server, starting it, and ending it.

    main ─┬─ manager      LitServe's word on its workers, and its queues, which nothing goes through
          ├─ template     imports torch and computes nothing
          │    └─ engine 0..n
          └─ API 0..m     forked; uvicorn, gateway.py

    SIGTERM, SIGINT ─▶ phase LEAVING    /readyz is 503, all else is served, for the drain delay
                    ─▶ phase DRAINING   new requests are 503; API processes finish theirs and end (draining.py)
                    ─▶ phase DRAINED    engines end, the manager ends, exit 0

The main process never imports torch, so it can fork. Everything private of LitServe that we touch is in this file, and
tests/contract holds each defect that we work around.
"""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from litserve import LitServer

from kshot_server.auth import ApiKeys
from kshot_server.channel import Channel, socket_path
from kshot_server.draining import end_when_drained
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine_api import EngineAPI
from kshot_server.fleet import Fleet
from kshot_server.garbage import look_for_garbage_seldom
from kshot_server.gateway import Components, mount
from kshot_server.logs import configure_logs
from kshot_server.metrics import forget_process
from kshot_server.one_write import OneWrite
from kshot_server.orphans import forked_children_end_with
from kshot_server.sessions.stores.base import SessionStore
from kshot_server.settings import Settings
from kshot_server.shared_state import Phase, SharedState
from kshot_server.template import EngineProcess, FirstEngines
from kshot_server.worker import EngineOptions, run_engine

__all__ = ["KEEP_ALIVE_SECONDS", "StartFailed", "serve"]

# Longer than clients keep an idle connection (our own 4 s, httpx 5 s, our nginx 4 s), so that they are who closes it
# and none sends a request into one that is being closed.
KEEP_ALIVE_SECONDS = 10

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.1
_START_POLL_SECONDS = 0.01
_GRACE_SECONDS = 5  # beyond the longest request, for an API process to end


class StartFailed(Exception):  # noqa: N818 - reads as the state it names
    """The server cannot start; the message says why."""


class _Stopped(Exception):  # noqa: N818 - a signal came while the server was starting
    pass


class _Server(LitServer):  # type: ignore[misc] # LitServe is untyped
    """LitServe's server with our routes, our life cycle and none of its own endpoints."""

    app: Any  # LitServe's FastAPI application; what stands before it while processes are made that serve it

    def __init__(
        self,
        settings: Settings,
        options: Sequence[EngineOptions],
        shared: SharedState,
        models: ModelRepository,
        keys: ApiKeys,
        store: SessionStore,
    ) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - reads its environment on import

        self._settings = settings
        self._store = store
        self.shared = shared
        self.stop_requested = threading.Event()
        self.crashed = False
        self._fleet = Fleet(
            lambda index, pid: Channel.open(socket_path(options[index].sockets, index, pid)),
            self.shared,
            on_death=self._on_engine_death,
        )
        super().__init__(
            [EngineAPI(index, own) for index, own in enumerate(options)],
            # The engines choose their devices themselves; told of CUDA, LitServe would look for it in this process.
            accelerator="cpu",
            timeout=False,
            restart_workers=True,
        )
        self.monitor_internal = 0.05  # seconds until a dead worker is noticed and restarted
        self.uvicorn_graceful_timeout = math.ceil(settings.timeout) + _GRACE_SECONDS
        self.app.router.routes.clear()  # its own /, /health, /info, /docs
        self.app.user_middleware.clear()  # compressing answers on the event loop; a proxy does that better
        components = Components(models, keys, store, self._fleet, self._state, CollectorRegistry())
        self._mounted = mount(self.app, settings, components)

    def _state(self) -> str:
        match self.shared.phase:
            case Phase.SERVING:
                return "ready" if self._fleet.ready else "starting"
            case Phase.LEAVING:
                return "leaving"
            case _:
                return "draining"

    def _on_engine_death(self, pid: int) -> None:
        _log.warning("engine process %d died", pid)
        self._mounted.metrics.engine_died()
        forget_process(pid)

    # -- the API process ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """What runs in each API process around its requests."""
        configure_logs(self._settings.log_level, self._settings.log_format)
        look_for_garbage_seldom()
        async with super().lifespan(app):
            self._fleet.start()
            end_when_drained(self.shared, lambda: self._mounted.admission.in_flight)
            telling = asyncio.create_task(self._mounted.metrics.keep_telling())
            try:
                yield
            finally:
                telling.cancel()
                self._mounted.metrics.tell()
                await self._fleet.stop()
                await self._store.close()

    # -- the main process: each overrides a step of LitServer.run ------------------------------------------------------

    def take(self, engines: list[EngineProcess]) -> None:
        """Take over the engines that have been started."""
        self._engines = engines

    def launch_inference_worker(self, lit_api: EngineAPI) -> list[EngineProcess]:
        """The one process of an engine, which has been started."""
        return [self._engines[lit_api.index]]

    def launch_single_inference_worker(self, lit_api: EngineAPI, worker_id: int) -> EngineProcess:
        """Start it again. LitServe's own version imports everything anew, torch included."""
        del worker_id  # one process for each engine
        process = EngineProcess(run_engine, (lit_api.index, lit_api.options, self.shared))
        process.start()
        return process

    def verify_worker_status(self) -> None:
        """Wait for an engine. LitServe's own version waits for ever for a worker that was killed while it started."""
        configure_logs(self._settings.log_level, self._settings.log_format)  # run() has just undone it
        look_for_garbage_seldom()
        while not any(self.shared.pid(i) for i in range(self.shared.engines)):
            if self.stop_requested.is_set():
                raise _Stopped
            if not any(worker.is_alive() for worker in self.inference_workers):
                raise StartFailed("no engine could start; its messages are above")
            time.sleep(_START_POLL_SECONDS)

    def _start_server(self, *args: Any, **kwargs: Any) -> dict[int, multiprocessing.Process]:
        app, self.app = self.app, self._mounted.entrance  # uvicorn's application: FastAPI's is behind that one
        app.response_queue_id = 0
        try:
            workers: dict[int, multiprocessing.Process] = super()._start_server(*args, **kwargs)
        finally:
            self.app = app
        threading.Thread(target=self._supervise, args=(list(workers.values()),), name="supervisor", daemon=True).start()
        return workers

    def _supervise(self, workers: Sequence[multiprocessing.Process]) -> None:
        """End the server when it was asked to, or when an API process has died: nothing would restart that one."""
        while not self.stop_requested.wait(_POLL_SECONDS):
            if not all(worker.is_alive() for worker in workers):
                _log.error("an API process died; the server ends")
                self.crashed = True
                break
        self.shared.phase = Phase.LEAVING
        if not self.crashed:
            _log.info("draining")
            time.sleep(self._settings.drain_delay)
        self._shutdown_event.set()

    def _perform_graceful_shutdown(
        self, manager: Any, uvicorn_workers: dict[int, Any], shutdown_reason: str = "normal"
    ) -> None:
        self.shared.phase = Phase.DRAINING
        for worker in uvicorn_workers.values():
            worker.terminate()
        for worker in uvicorn_workers.values():
            worker.join(self.uvicorn_graceful_timeout)
        self.shared.phase = Phase.DRAINED
        super()._perform_graceful_shutdown(manager, uvicorn_workers, shutdown_reason)


def serve(
    settings: Settings,
    *,
    engines: FirstEngines,
    options: Sequence[EngineOptions],
    shared: SharedState,
    models: ModelRepository,
    keys: ApiKeys,
    store: SessionStore,
) -> int:
    """Serve until a signal comes. To be called in the main thread of a process that has not imported torch.

    Args:
        settings: all of them.
        engines: the first of them, which are being started.
        options: of the engines, one each.
        shared: what they see too.
        models: what is served.
        keys: who may ask.
        store: where sessions live.

    Returns:
        0 after SIGTERM or SIGINT, with every request in work answered; 1 after a process of the server was lost.

    Raises:
        StartFailed: the port is taken, or no engine works.
    """
    _check_port(settings.host, settings.port)
    configure_logs(settings.log_level, settings.log_format)
    server = _Server(settings, options, shared, models, keys, store)
    main = os.getpid()
    forked_children_end_with(main)

    def on_signal(_signal: int, _frame: object) -> None:
        # Forked children inherit this handler; for LitServe's manager it means: survive until main says otherwise.
        if os.getpid() == main:
            server.stop_requested.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        server.take(engines.processes())
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=settings.api_servers,
            log_level="warning",
            generate_client_file=False,
            access_log=False,
            http=OneWrite,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    except _Stopped:
        pass
    except (EOFError, ConnectionError) as error:
        _log.error("LitServe's manager process was lost (%s); the server ends", type(error).__name__)
        server.crashed = True
    finally:
        _end_children()
    _log.info("ended", extra={"exit_code": int(server.crashed)})
    return int(server.crashed)


def _check_port(host: str, port: int) -> None:
    """uvicorn would end the process with a log line; this says it in words."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartFailed(
                f"port {port} on {host} cannot be bound: {error.strerror}; choose another with --port"
            ) from None


def _end_children() -> None:
    """Leave no process behind, however the server ended."""
    for stop in (multiprocessing.Process.terminate, multiprocessing.Process.kill):
        children = multiprocessing.active_children()
        for child in children:
            stop(child)
        for child in children:
            child.join(2)
