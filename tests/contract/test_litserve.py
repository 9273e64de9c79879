"""What LitServe 0.2.19 does that we work around, each held by a test.

A failure here after an upgrade is news, not damage: LitServe has changed, and the work-around that the test names may
go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import httpx
import litserve
import psutil
import pytest
from litserve import LitAPI, LitServer
from litserve.loops.base import LitLoop, collate_requests
from litserve.server import RegularRequestHandler
from litserve.specs.base import LitSpec
from litserve.transport.factory import TransportConfig, create_transport_from_config
from starlette.middleware.gzip import GZipMiddleware


class Echo(LitAPI):
    def predict(self, x: Any) -> Any:
        return x


def server(**options: Any) -> LitServer:
    return LitServer(Echo(), accelerator="cpu", **options)


def test_this_is_the_version_that_was_read() -> None:
    assert litserve.__version__ == "0.2.19"


# -- names that app.py and worker.py rely on --------------------------------------------------------------------------


def test_the_private_names_that_we_use_are_there() -> None:
    made = server()
    for name in ("_get_request_queue", "_start_server", "_perform_graceful_shutdown", "_shutdown_event", "lifespan"):
        assert hasattr(made, name)
    assert made.monitor_internal == 2
    assert made.uvicorn_graceful_timeout == 30
    assert "api_path" in vars(LitSpec())


# -- in this process ---------------------------------------------------------------------------------------------------


def test_fast_queue_does_nothing() -> None:
    """So its queues are those of the manager process, and requests do not go through them (channel.py)."""
    assert server(fast_queue=True).transport_config.transport_type == "mp"


def test_forced_zmq_swaps_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So we do not force it: producers and consumers connect to the wrong socket each, and nothing ever arrives."""
    monkeypatch.setattr("litserve.transport.zmq_queue.Broker.start", lambda broker: None)
    config = TransportConfig(transport_type="zmq")
    transport = create_transport_from_config(config)
    assert transport.backend_address == config.frontend_address
    assert transport.frontend_address == config.backend_address


def test_a_cancelled_wait_leaks_its_buffer_entry() -> None:
    """One reason why requests do not go through LitServe's queues (channel.py)."""
    made = server()
    made.litapi_request_queues[made.lit_api.api_path] = queue.Queue()
    made.app.response_queue_id = 0

    async def scenario() -> None:
        waiting = RegularRequestHandler(made.lit_api, made).handle_request({"x": 1}, dict)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, 0.05)

    asyncio.run(scenario())
    assert len(made.response_buffer) == 1


def test_readiness_is_told_by_the_last_segment_of_the_path() -> None:
    """So the engines' paths end in different numbers, and /readyz asks our own shared state."""
    made = LitServer([Echo(api_path="/v1/predict"), Echo(api_path="/v2/predict")], accelerator="cpu")
    manager = made._init_manager(1)
    workers = []
    try:
        for api in made.litapi_connector:
            workers += made.launch_inference_worker(api)
        assert len(workers) == 2
        assert list(made.workers_setup_status.keys()) == ["predict_0"]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        manager.shutdown()


def test_batching_without_a_window_does_not_wait_for_work() -> None:
    """So an idle server would spin; the loop is our own, and the engine batches."""

    class Nothing:
        asked = 0

        def get_nowait(self) -> Any:
            self.asked += 1
            raise queue.Empty

    nothing = Nothing()
    for _ in range(100):
        assert collate_requests(LitLoop(), Echo(max_batch_size=8, batch_timeout=0), nothing, None) == ([], [])
    assert nothing.asked == 100


def test_the_api_key_does_not_cover_other_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So keys are checked by our own gate."""
    monkeypatch.setattr("litserve.server.LIT_SERVER_API_KEY", "secret")
    made = server()
    made.app.get("/custom")(lambda: "open")

    async def scenario() -> tuple[int, int]:
        transport = httpx.ASGITransport(made.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.get("/info")).status_code, (await client.get("/custom")).status_code

    assert asyncio.run(scenario()) == (401, 200)


def test_a_graceful_timeout_cannot_be_given_to_run() -> None:
    """So `uvicorn_graceful_timeout` is set on the server."""
    with pytest.raises(TypeError, match="timeout_graceful_shutdown"):
        server()._start_server(8000, 1, "info", [], "process", timeout_graceful_shutdown=5)


def test_answers_are_compressed_on_the_event_loop() -> None:
    """So its middleware is removed; a proxy compresses better."""
    assert [middleware.cls for middleware in server().app.user_middleware] == [GZipMiddleware]


def test_importing_it_hangs_a_handler_on_stdout() -> None:
    """So logs.py takes the handlers off again, in each process."""
    litserve.configure_logging()
    logger = logging.getLogger("litserve")
    assert len(logger.handlers) == 1
    assert not logger.propagate


# -- real servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(stock: Any) -> Iterator[Any]:
    """One stock server for those tests that leave it alive."""
    with stock() as running:
        yield running


@pytest.mark.parametrize("content", [b"{", b"", b"[" * 200_000])
def test_a_bad_body_is_a_500(plain: Any, content: bytes) -> None:
    """So we parse bodies ourselves."""
    headers = {"Content-Type": "application/json"}
    assert httpx.post(f"{plain.url}/predict", content=content, headers=headers, timeout=30).status_code == 500


def test_headers_of_an_exception_get_lost(plain: Any) -> None:
    """So outcomes are plain data, and the API process makes the answer."""
    answer = plain.ask("refuse")
    assert answer.status_code == 503
    assert "Retry-After" not in answer.headers


def test_a_limit_written_as_text_fails_every_request(stock: Any) -> None:
    """So the gate counts bytes itself."""
    with stock(server={"max_payload_size": "10MB"}) as running:
        assert running.ask("echo").status_code == 500


def test_one_bad_request_fails_its_whole_batch(stock: Any) -> None:
    """So LitServe's batching is not used."""
    with stock(api={"max_batch_size": 4, "batch_timeout": 20.0}) as running, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(running.ask, ["echo", "fail", "echo", "echo"]))
        assert [answer.status_code for answer in answers] == [500] * 4


def test_a_timeout_is_noticed_only_when_the_worker_is_free(stock: Any) -> None:
    """So the gate keeps deadlines."""
    with stock(server={"timeout": 0.2}) as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.ask, "sleep", seconds=2)
        time.sleep(0.5)
        begun = time.monotonic()
        late = running.ask("echo")
        assert late.status_code == 504
        assert time.monotonic() - begun > 1
        assert first.result().status_code == 200


def test_a_request_hangs_when_its_worker_dies(stock: Any) -> None:
    """So the fleet watches the engines and ends their calls."""
    # The server goes first: what hangs ends with it.
    with ThreadPoolExecutor(1) as pool, stock(server={"restart_workers": True}) as running:
        worker = running.worker()
        hangs = pool.submit(running.ask, "sleep", seconds=60, timeout=120)
        time.sleep(1)
        worker.kill()
        assert running.ask("echo", timeout=20).json()["pid"] != worker.pid
        assert not hangs.done()


def test_an_exception_that_cannot_be_pickled_kills_the_worker(stock: Any) -> None:
    """So nothing is raised in `EngineAPI`."""
    with ThreadPoolExecutor(1) as pool, stock(server={"restart_workers": True}) as running:
        worker = running.worker()
        hangs = pool.submit(running.ask, "unpicklable", timeout=120)
        until_dead(worker)
        assert running.ask("echo", timeout=20).json()["pid"] != worker.pid
        assert not hangs.done()


def until_dead(process: psutil.Process) -> None:
    deadline = time.monotonic() + 20
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_dead_async_worker_swallows_the_next_request(stock: Any) -> None:
    """So the fleet sends pings before it lets requests through: its reader waits on in the manager process."""
    with (
        ThreadPoolExecutor(2) as pool,
        stock(asynchronous=True, server={"restart_workers": True}) as running,
    ):
        worker = running.worker()
        assert running.ask("echo").json()["pid"] == worker.pid
        time.sleep(0.2)  # the worker waits for a request again
        worker.kill()
        both = [pool.submit(running.ask, "echo", timeout=120) for _ in range(2)]
        done, swallowed = wait(both, timeout=30, return_when=FIRST_COMPLETED)
        assert [future.result().json()["pid"] != worker.pid for future in done] == [True]
        assert not next(iter(swallowed)).done()
        assert running.ask("echo", timeout=20).status_code == 200  # the others are answered, by the new one
        assert not next(iter(swallowed)).done()


def test_sigterm_leaves_orphans_that_go_on_serving(stock: Any) -> None:
    """So app.py handles the signal."""
    with stock() as running:
        children = running.children()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == -signal.SIGTERM
        assert all(child.is_running() for child in children)
        assert running.ask("echo").status_code == 200


def test_api_servers_in_threads_cannot_be_stopped(stock: Any) -> None:
    """So API servers are processes."""
    with stock(run={"api_server_worker_type": "thread"}) as running:
        running.process.send_signal(signal.SIGINT)
        time.sleep(4)
        assert running.process.poll() is None
