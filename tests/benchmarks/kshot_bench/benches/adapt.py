"""`kshot bench adapt`: adapt to a support set and answer its queries, through the engine, beside the peers.

    throughput   kshot: many requests in the engine at once     peers: one process for each core, one thread each
    latency      kshot: one request at a time                   peers: in this process, a thread for each core

The same model in a server without torch is a row beside kshot's own, and so is what its ONNX graphs alone do.

With `--frozen` nothing of the encoder adapts: kshot's prototype learner and head-only inner loop beside scikit-learn's
logistic regression on the same features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from kshot_bench.contest import Contest, Options, Side, compete, crewed_side
from kshot_bench.crew import Crew
from kshot_bench.errors import Disagreement
from kshot_bench.jobs import Answer, Job, peer_and_episodes
from kshot_bench.peers.table import ADAPTING, FROZEN, require
from kshot_bench.report import Row
from kshot_bench.served import Served
from kshot_bench.statistics import median
from kshot_bench.tasks import learner_spec, prototype_spec
from kshot_bench.work import Cost, Work, adaptation_cost, encoding_cost, query_cost

__all__ = ["ONNX", "TOLERANCE", "adapt", "cost_of", "differences", "peer_sides", "served_side"]

# Of a probability. Orders of summation differ, and rounding grows with each inner step; a mistake is larger.
TOLERANCE = 0.05
_COMPARED_TASKS = 3
# Of adapted weights, about 70 tasks of the reference: full from the warm-up on, as a server's is after a minute. Until
# then each task has memory that the process never had, which the system takes a third of an inner step to find.
_CACHE_BYTES = 1 << 25
ONNX, GRAPHS = "kshot, onnxruntime", "kshot, onnxruntime, graphs alone"


def cost_of(work: Work, *, frozen: bool = False) -> Cost:
    """Of one task: adapt and answer the queries."""
    if frozen:
        return encoding_cost(work, work.support + work.queries)
    return adaptation_cost(work) + query_cost(work)


def adapt(work: Work, options: Options, *, frozen: bool = False) -> Contest:
    """Measure.

    Raises:
        PeerMissing, Disagreement, TooNoisy: see errors.py.
    """
    names = FROZEN if frozen else ADAPTING
    require(names)
    ours = {"kshot": prototype_spec(work), "kshot head only": learner_spec(work, adapt=("head.*",))}
    if not frozen:
        ours = {"kshot": learner_spec(work)}
    with Crew(options.workers) as crew:
        made = partial(Served, work, threads=options.threads, cache_bytes=_CACHE_BYTES)
        engines = {name: made(spec, device=options.device) for name, spec in ours.items()}
        if not frozen and options.device == "cpu" and work.network == "conv4":
            for name, kernels in ((ONNX, True), (GRAPHS, False)):
                engines[name] = made(learner_spec(work), runtime="onnxruntime", kernels=kernels)
        try:
            apart = {} if frozen else differences(engines["kshot"], names, options.device)
            for name in engines.keys() & {ONNX, GRAPHS}:
                apart[name] = _apart(engines["kshot"], engines[name])
            sides = [served_side(name, engine) for name, engine in engines.items()]
            sides += peer_sides(names, work, crew, options)
            contest = compete(sides, work, cost_of(work, frozen=frozen), crew, options)
        finally:
            for engine in engines.values():
                engine.close()
    return Contest(_with_differences(contest.rows, apart), contest.floor, contest.noise, contest.peers)


def served_side(name: str, served: Served) -> Side:
    """kshot's engine as a side."""

    def alone(count: int) -> float:
        # Of the median: one slow request among many says something of the machine.
        return median(served.one_by_one(count)) * count

    return Side(name, served.together, alone, peer=False, multiple=served.engine.lanes)


def peer_sides(names: tuple[str, ...], work: Work, crew: Crew, options: Options) -> list[Side]:
    """The peers as sides."""

    def job(name: str) -> Callable[[int], Job]:
        return lambda count: Answer(peer=name, work=work, count=count, device=options.device)

    return [crewed_side(name, crew, job(name), options) for name in names]


def differences(served: Served, names: tuple[str, ...], device: str) -> dict[str, float]:
    """The largest difference of each peer's probabilities from kshot's, over a few tasks.

    Raises:
        Disagreement: it is above TOLERANCE, so they do not compute the same thing.
    """
    found = {}
    for name in names:
        peer, episodes = peer_and_episodes(name, served.work, device)
        pairs = zip(served.tasks[:_COMPARED_TASKS], episodes, strict=False)
        with torch.backends.cudnn.flags(allow_tf32=False):  # whose rounding grows with each step; see train.py
            found[name] = max(_difference(served.answer(task), peer.answer(episode)) for task, episode in pairs)
        if not found[name] <= TOLERANCE:
            raise Disagreement(
                f"kshot and {name} should give the same probabilities (within {TOLERANCE}) from the same task and "
                f"weights; they differ by {found[name]:.3g}, so their times cannot be compared"
            )
    return found


def _apart(served: Served, other: Served) -> float:
    """The largest difference of a probability between two engines over a few tasks."""
    return max(float(np.abs(served.answer(task) - other.answer(task)).max()) for task in served.tasks[:_COMPARED_TASKS])


def _difference(ours: NDArray[np.float32], theirs: torch.Tensor) -> float:
    return float(np.abs(ours - theirs.softmax(1).cpu().numpy()).max())


def _with_differences(rows: tuple[Row, ...], apart: dict[str, float]) -> tuple[Row, ...]:
    return tuple(row.model_copy(update={"difference": apart.get(row.name)}) for row in rows)
