"""`kshot bench classify`: one image each for many adapted sessions, every one with its own weights.

    throughput   kshot: one query for each session in the engine at once
                 loop: session by session, one process for each core
    latency      one query alone, on all cores

A task is one query.
"""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from kshot_bench.contest import Contest, Options, Side, compete, crewed_side
from kshot_bench.crew import Crew
from kshot_bench.errors import Disagreement
from kshot_bench.jobs import Classify, session_loop
from kshot_bench.report import Row
from kshot_bench.served import Served, classified
from kshot_bench.statistics import median
from kshot_bench.tasks import learner_spec
from kshot_bench.work import Cost, Work, query_cost

__all__ = ["classify", "cost_of"]

_TOLERANCE = 0.05  # of a probability
_COMPARED = 8
_LOOP = "session loop"


def cost_of(work: Work) -> Cost:
    """Of one query."""
    return query_cost(work, 1)


def classify(work: Work, options: Options, *, sessions: int) -> Contest:
    """Measure.

    Args:
        work: of the sessions.
        options: how.
        sessions: with weights in the cache; as many queries go into the engine at once.

    Raises:
        Disagreement, TooNoisy: see errors.py.
    """
    with (
        Crew(options.workers) as crew,
        Served(work, learner_spec(work), device=options.device, threads=options.threads, cache_bytes=1 << 33) as served,
    ):
        ids = served.adapt_sessions(sessions)
        apart = _difference(served, ids, options.device)
        # Each process of the loop has its share of the sessions.
        share = math.ceil(sessions / len(crew))
        loop = crewed_side(
            _LOOP,
            crew,
            lambda count: Classify(work=work, device=options.device, sessions=share, count=count),
            options,
        )
        contest = compete([_served_side(served, ids), loop], work, cost_of(work), crew, options)
    return Contest(_noted(contest.rows, apart), contest.floor, contest.noise, contest.peers)


def _served_side(served: Served, ids: list[str]) -> Side:
    turns = itertools.cycle(range(len(ids)))

    def together(count: int) -> float:
        rounds = math.ceil(count / len(ids))
        begun = time.perf_counter()
        for _ in range(rounds):
            futures = [served.classify(session, _query(served, number)) for number, session in enumerate(ids)]
            for future in futures:
                classified(future.result())
        return (time.perf_counter() - begun) * count / (rounds * len(ids))

    def alone(count: int) -> float:
        seconds = []
        for number in itertools.islice(turns, count):
            begun = time.perf_counter()
            classified(served.classify(ids[number], _query(served, number)).result())
            seconds.append(time.perf_counter() - begun)
        return median(seconds) * count

    return Side("kshot", together, alone, peer=False, multiple=len(ids))


def _query(served: Served, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return served.tasks[number % len(served.tasks)].queries[:1]


def _difference(served: Served, ids: list[str], device: str) -> float:
    loop = session_loop(served.work, min(_COMPARED, len(ids)), device)
    worst = 0.0
    for number in range(loop.sessions):
        ours = classified(served.classify(ids[number], _query(served, number)).result()).probabilities
        worst = max(worst, float(np.abs(ours - loop.answer(number).cpu().numpy()).max()))
    if not worst <= _TOLERANCE:
        raise Disagreement(f"kshot and the loop over sessions differ by {worst:.3g} in a probability")
    return worst


def _noted(rows: tuple[Row, ...], apart: float) -> tuple[Row, ...]:
    return tuple(row.model_copy(update={"difference": apart if row.name == _LOOP else None}) for row in rows)
