"""`kshot bench serve`: a real `kshot serve`, saturated by several client processes, beside the engine in this process.

    throughput   adapt and classify in one request, another support set each time: what HTTP leaves of the engine's rate
    latency      adapting alone, one request at a time
    load         requests that come at random, 70 % of what can be done: how much longer the slow ones take, here and
                 in a queue that adds nothing
    cached       one query of a session whose weights are there
    sessions     with --sessions: memory, and the p99 of classifying, before and after so many live sessions

The clients run on the same cores as the server.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from kshot._demo.server import LocalServer
from kshot_bench.benches.adapt import cost_of
from kshot_bench.bodies import BODIES, BodyKind, query_body
from kshot_bench.contest import Contest, Options, Run, Side, compete
from kshot_bench.crew import Crew
from kshot_bench.errors import BenchError
from kshot_bench.http_load import Connection, arriving
from kshot_bench.jobs import HttpLoad
from kshot_bench.queueing import slow_over_usual
from kshot_bench.served import Served
from kshot_bench.statistics import median, percentile, spread
from kshot_bench.tasks import learner_spec, write_artifact
from kshot_bench.work import Work

__all__ = ["IN_PROCESS", "serve"]

IN_PROCESS = "in process"
_FEW_SESSIONS = 64
_CACHED_CONNECTIONS = 4  # times those of adapting: as many requests as ride in a batch of queries
_ASKED = 400
_LOAD, _LOADED_SECONDS, _LOADED_CONNECTIONS = 0.7, 12.0, 64
_LOADS = 5  # each at 70 % of what the machine could do right before
_ONCE, _SESSIONS = "/v1/models/bench/classify", "/v1/models/bench/sessions"
Details = dict[str, float | int | str | bool | None]


def serve(work: Work, options: Options, *, clients: int, connections: int, sessions: int) -> tuple[Contest, Details]:
    """Measure.

    Args:
        work: one request's.
        options: how.
        clients: processes that send requests.
        connections: of each.
        sessions: live ones to hold; 0 leaves that out.

    Raises:
        TooNoisy, BenchError: see errors.py.
    """
    details: Details = {"clients": clients, "connections of each": connections}
    details["seconds from start to ready, shipped models"] = _seconds_to_ready()
    with (
        _server(work, options) as url,
        Crew(clients) as crew,
        Served(work, learner_spec(work), device=options.device, threads=options.threads) as served,
    ):
        sides = [_http_side(url, kind, crew, work, options, connections) for kind in BODIES]
        sides.append(Side(IN_PROCESS, served.together, _adapting(served)))
        contest = compete(sides, work, cost_of(work), crew, options)
        details |= _under_load(url, crew, work, options, connections)
        details |= _cached(url, crew, work, options, connections)
        if sessions:
            details |= _many_sessions(url, work, sessions)
    return contest, details


def _http_side(url: str, kind: BodyKind, crew: Crew, work: Work, options: Options, connections: int) -> Side:
    seeds = itertools.count(1)
    alone = BODIES[kind](work, 0, queries=False)

    def together(count: int) -> float:
        return count / sum(crew.perform(_load_of(url, kind, work, options, connections, seed=next(seeds))))

    def one_by_one(count: int) -> float:
        # A connection for each window: the server closes those that were idle while others had their turn.
        connection = Connection(url)
        connection.post(_SESSIONS, next(alone))
        seconds = [connection.timed(_SESSIONS, next(alone)) for _ in range(count)]
        connection.close()
        return median(seconds) * count

    # What is sent depends on the seconds of a window, not on a count.
    return Side(f"http {kind}", together, one_by_one, peer=False, counted=False)


def _load_of(url: str, kind: BodyKind, work: Work, options: Options, connections: int, *, seed: int) -> HttpLoad:
    return HttpLoad(
        work=work,
        url=url,
        paths=(_ONCE,),
        body=kind,
        connections=connections,
        seconds=options.window_seconds,
        seed=seed << 20,
    )


def _adapting(served: Served) -> Run:
    def one_by_one(count: int) -> float:
        seconds = []
        for _ in range(count):
            begun = time.perf_counter()
            served.adapt_sessions(1)
            seconds.append(time.perf_counter() - begun)
        return median(seconds) * count

    return one_by_one


def _under_load(url: str, crew: Crew, work: Work, options: Options, connections: int) -> Details:
    """Latency of adapting and classifying in one request, where they come at random, for 70 % of what can be done.

    Of several windows the median: a machine that others share is not as fast in one minute as in the next.
    """
    bodies = BODIES["safetensors"](work, 1 << 42, queries=True)
    p50, p99 = list[float](), list[float]()
    for number in range(_LOADS):
        most = sum(crew.perform(_load_of(url, "safetensors", work, options, connections, seed=(1 << 10) + number)))
        seconds = arriving(
            url,
            _ONCE,
            bodies,
            rate=_LOAD * most,
            connections=_LOADED_CONNECTIONS,
            seconds=_LOADED_SECONDS,
            seed=number,
        )
        p50.append(median(seconds) * 1e3)
        p99.append(percentile(seconds, 0.99) * 1e3)
    ratios = [slow / usual for slow, usual in zip(p99, p50, strict=True)]
    return {
        "at 70% load, p50 ms": median(p50),
        "at 70% load, p99 ms": median(p99),
        "at 70% load, p99 over p50": median(ratios),
        "the same of an ideal queue, one task a core (M/D/c)": slow_over_usual(_LOAD, options.workers),
        "the same, each task on all cores (M/D/1)": slow_over_usual(_LOAD, 1),
    }


def _cached(url: str, crew: Crew, work: Work, options: Options, connections: int) -> Details:
    """How fast one query of a cached session is answered: saturated, and alone."""
    paths = _classify_paths(url, work, _FEW_SESSIONS)
    job = HttpLoad(
        work=work,
        url=url,
        paths=tuple(paths),
        body=None,
        connections=connections * _CACHED_CONNECTIONS,
        seconds=options.window_seconds,
    )
    rates = [sum(crew.perform(job)) for _ in range(options.repetitions)]
    seconds = _asked(url, paths, work)
    return {
        "cached classify, requests/s": median(rates),
        "cached classify, spread": spread(rates),
        "cached classify alone, p50 ms": median(seconds) * 1e3,
        "cached classify alone, p99 ms": percentile(seconds, 0.99) * 1e3,
    }


def _many_sessions(url: str, work: Work, sessions: int) -> Details:
    few = _asked(url, _classify_paths(url, work, _FEW_SESSIONS), work)
    before = _server_bytes()
    begun = time.perf_counter()
    paths = _classify_paths(url, work, sessions, seed=1 << 40)
    took = time.perf_counter() - begun
    recent, anywhere = paths[-_FEW_SESSIONS:], paths[:: max(sessions // _ASKED, 1)]
    recent_seconds, any_seconds = _asked(url, recent, work), _asked(url, anywhere, work)
    return {
        "live sessions": sessions,
        "seconds to make them, one client": took,
        "server memory before, MB": before / 1e6,
        "server memory with them, MB": _server_bytes() / 1e6,
        f"classify p99 ms, {_FEW_SESSIONS} sessions": percentile(few, 0.99) * 1e3,
        f"classify p99 ms, the latest of {sessions}": percentile(recent_seconds, 0.99) * 1e3,
        f"classify p99 ms, any of {sessions} (weights made anew)": percentile(any_seconds, 0.99) * 1e3,
    }


def _classify_paths(url: str, work: Work, count: int, *, seed: int = 1 << 41) -> list[str]:
    """Make sessions; where each of them is asked."""
    connection, bodies = Connection(url), BODIES["safetensors"](work, seed, queries=False)
    made = [connection.post(_SESSIONS, next(bodies))["id"] for _ in range(count)]
    connection.close()
    return [f"/v1/sessions/{session}/classify" for session in made]


def _asked(url: str, paths: list[str], work: Work) -> list[float]:
    connection, body = Connection(url), query_body(work)
    seconds = [connection.timed(path, body) for path in itertools.islice(itertools.cycle(paths), _ASKED)]
    connection.close()
    return seconds


@contextmanager
def _server(work: Work, options: Options) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="kshot-bench-") as folder:
        write_artifact(Path(folder), work, learner_spec(work))
        # Braces are the port's place in what LocalServer takes; a folder's name has none.
        command = [*_serve_command(), "--models", folder, "--device", options.device, "--log-level", "warning"]
        with LocalServer(command) as server:
            yield server.url


def _seconds_to_ready() -> float:
    begun = time.perf_counter()
    with LocalServer(_serve_command()):
        return time.perf_counter() - begun


def _serve_command() -> list[str]:
    return [sys.executable, "-m", "kshot", "serve", "--port", "{port}"]


def _server_bytes() -> float:
    """Resident memory of the server's processes."""
    trees = [child for child in psutil.Process().children() if "serve" in child.cmdline()]
    if not trees:
        raise BenchError("the server has ended")
    return float(sum(p.memory_info().rss for tree in trees for p in (tree, *tree.children(recursive=True))))
