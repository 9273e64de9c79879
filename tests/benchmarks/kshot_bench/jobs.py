"""What a worker process can be told to do: one line of JSON each, so that nothing is pickled.

parent ── {"kind": "answer", "peer": "higher", "count": 40, ...} ──▶ worker
       ◀── {"value": 0.61} ─────────────────────────────────────────
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import repeat
from typing import Annotated, Literal, TypeAlias, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from kshot_bench.bodies import BODIES, Body, BodyKind, query_body
from kshot_bench.http_load import request_rate
from kshot_bench.limits import gemm_rate, synchronize
from kshot_bench.memory import peak_memory
from kshot_bench.peers.base import Peer
from kshot_bench.peers.session_loop import SessionLoop
from kshot_bench.peers.table import FROZEN, build_peer
from kshot_bench.tasks import draw_tasks, episode_of, learner_of, learner_spec, prototype_spec
from kshot_bench.work import Work, layers
from kshot_models.tree import tree_map
from kshot_models.types import Episode

__all__ = [
    "JOB",
    "Answer",
    "Classify",
    "Gemm",
    "HttpLoad",
    "Job",
    "MetaGradients",
    "PeakMemory",
    "peer_and_episodes",
    "perform",
    "session_loop",
]

_DIFFERENT_TASKS = 8


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    work: Work
    device: str = "cpu"


class Answer(_Job):
    """Adapt to `count` tasks and answer their queries; the value is the seconds that it took."""

    kind: Literal["answer"] = "answer"
    peer: str
    count: int


class MetaGradients(_Job):
    """Take the second-order gradient of `count` tasks; the value is the seconds that it took."""

    kind: Literal["meta_gradients"] = "meta_gradients"
    peer: str
    count: int


class Classify(_Job):
    """Answer `count` single queries, in turn for each of `sessions` adapted sessions; the value is the seconds."""

    kind: Literal["classify"] = "classify"
    sessions: int
    count: int


class PeakMemory(_Job):
    """Take one meta-gradient in a process that has done no other; the value is what memory it needed at its peak."""

    kind: Literal["peak_memory"] = "peak_memory"
    subject: str


class HttpLoad(_Job):
    """Send requests to a server for some seconds; the value is how many are answered per second."""

    kind: Literal["http_load"] = "http_load"
    url: str
    paths: tuple[str, ...]
    body: BodyKind | None  # a support set with queries; None: one query
    connections: int
    seconds: float
    seed: int = 0


class Gemm(_Job):
    """Multiply matrices for some seconds; the value is the best rate in FLOP per second."""

    kind: Literal["gemm"] = "gemm"
    seconds: float


Job: TypeAlias = Answer | Classify | Gemm | HttpLoad | MetaGradients | PeakMemory
Item = TypeVar("Item")

JOB: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


def perform(job: Job) -> float:
    """Do it, in this process, on the threads that torch has now."""
    match job:
        case Gemm():
            return gemm_rate(job.work, job.seconds, device=job.device)
        case Answer():
            peer, episodes = peer_and_episodes(job.peer, job.work, job.device)
            return _timed(peer.answer, episodes, job.count, job.device)
        case Classify():
            loop = session_loop(job.work, job.sessions, job.device)
            return _timed(loop.answer, range(loop.sessions), job.count, job.device)
        case HttpLoad():
            return _http_load(job)
        case PeakMemory():
            return peak_memory(job.subject, job.work, job.device)
        case MetaGradients():
            peer, episodes = peer_and_episodes(job.peer, job.work, job.device)
            return _timed(lambda episode: peer.meta_gradient([episode]), episodes, job.count, job.device)


@cache
def peer_and_episodes(name: str, work: Work, device: str) -> tuple[Peer, tuple[Episode, ...]]:
    """A peer with the same untrained weights as kshot's side, and tasks for it."""
    spec = prototype_spec(work) if name in FROZEN else learner_spec(work)
    _, meta = learner_of(work, spec)
    params = tree_map(lambda value: value.to(device), meta.init)
    if name in FROZEN:
        features = torch.zeros(work.way, layers(work)[-1].fan_in, device=device)
        params |= {"head.weight": features, "head.bias": features.new_zeros(work.way)}
    episodes = [episode_of(work, task, device=device) for task in draw_tasks(work, _DIFFERENT_TASKS)]
    return build_peer(name, work, params), tuple(episodes)


@cache
def session_loop(work: Work, sessions: int, device: str) -> SessionLoop:
    """Sessions adapted by the plain loop, with one query for each."""
    _, meta = learner_of(work, learner_spec(work))
    params = tree_map(lambda value: value.to(device), meta.init)
    return SessionLoop(work, params, sessions=sessions, device=device)


def _http_load(job: HttpLoad) -> float:
    def bodies(connection: int) -> Iterator[Body]:
        # Two processes must not send the same support set: their numbers tell them apart.
        seed = job.seed + os.getpid() % 4096 * 256 + connection
        return repeat(query_body(job.work)) if job.body is None else BODIES[job.body](job.work, seed, queries=True)

    return request_rate(job.url, job.paths, bodies, connections=job.connections, seconds=job.seconds)


def _timed(do: Callable[[Item], object], items: Sequence[Item], count: int, device: str) -> float:
    synchronize(device)
    begun = time.perf_counter()
    for number in range(count):
        do(items[number % len(items)])
    synchronize(device)
    return time.perf_counter() - begun
