"""`kshot bench train`: second-order MAML meta-gradients, as `kshot train` takes them, beside the peers.

    throughput   kshot: a meta-batch, tasks side by side      peers: one process for each core, one thread each
    latency      the meta-gradient of one task alone

Queries are normalized by their own moments, as in the papers' protocol: the peers know no other way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from kshot_bench.contest import Contest, Options, Side, compete, crewed_side
from kshot_bench.crew import Crew
from kshot_bench.errors import Disagreement
from kshot_bench.jobs import Job, MetaGradients, peer_and_episodes
from kshot_bench.limits import synchronize
from kshot_bench.peers.table import ADAPTING, require
from kshot_bench.tasks import draw_tasks, episode_of, learner_of, learner_spec, stacked
from kshot_bench.threads import with_threads
from kshot_bench.work import Cost, Work, meta_gradient_cost
from kshot_models.batched import tf32_products
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Examples, Params
from kshot_training.build import laid_out
from kshot_training.cuda_graph import captured
from kshot_training.meta_gradients import through_adaptation
from kshot_training.process import prepare_process

__all__ = ["cost_of", "train"]

_TOLERANCE = 0.05  # of the norm of the gradient
_COMPARED = 2

Gradient = Callable[[Episode], Params]


def cost_of(work: Work) -> Cost:
    """Of one task's meta-gradient."""
    return meta_gradient_cost(work)


def train(work: Work, options: Options, *, tasks: int) -> Contest:
    """Measure.

    Args:
        work: of one task.
        options: how.
        tasks: of kshot's meta-batch; the peers' tasks do not know of one another.

    Raises:
        PeerMissing, Disagreement, TooNoisy: see errors.py.
    """
    require(ADAPTING)
    prepare_process()  # as `kshot train` does; peers that run in this process have it too
    apart = _differences(work, _ours(work, options, tf32=False), options.device)
    gradient = _ours(work, options, tf32=True)
    with Crew(options.workers) as crew:

        def job(name: str) -> Callable[[int], Job]:
            return lambda count: MetaGradients(peer=name, work=work, count=count, device=options.device)

        sides = [_side(work, gradient, tasks, options)]
        sides += [crewed_side(name, crew, job(name), options) for name in ADAPTING]
        contest = compete(sides, work, cost_of(work), crew, options)
    rows = tuple(row.model_copy(update={"difference": apart.get(row.name)}) for row in contest.rows)
    return Contest(rows, contest.floor, contest.noise, contest.peers)


def _ours(work: Work, options: Options, *, tf32: bool) -> Gradient:
    learner, meta = learner_of(work, learner_spec(work, norm="transductive"))
    meta = meta_map(lambda value: laid_out(value.to(options.device)), meta)
    if options.device == "cpu":
        meta_gradient = through_adaptation(batching="loop", workers=options.workers)
    else:
        meta_gradient = through_adaptation(batching="vmap")
    generator = torch.Generator().manual_seed(0)

    def gradient(episodes: Episode) -> Params:
        return meta_gradient(learner, meta, episodes, way=work.way, generator=generator)[0].init

    return gradient if options.device == "cpu" else _Captured(gradient, tf32_products if tf32 else nullcontext)


class _Captured:
    """The gradient from a CUDA graph, as `kshot train` takes it on a GPU; one graph for each size of a meta-batch."""

    def __init__(self, gradient: Gradient, products: Callable[[], AbstractContextManager[None]]) -> None:
        self.gradient, self.products = gradient, products
        self.graphs: dict[torch.Size, tuple[list[torch.Tensor], Params, Callable[[], None]]] = {}

    def __call__(self, episodes: Episode) -> Params:
        tensors = [tensor for examples in episodes for tensor in examples]
        size = tensors[0].shape
        if size not in self.graphs:
            self.graphs[size] = self._capture(tensors)
        kept, found, play = self.graphs[size]
        for own, new in zip(kept, tensors, strict=True):
            own.copy_(new)
        play()
        return found

    def _capture(self, tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], Params, Callable[[], None]]:
        kept = [tensor.clone() for tensor in tensors]
        found: Params = {}
        episodes = Episode(Examples(*kept[:3]), Examples(*kept[3:]))

        def program() -> None:
            with self.products():
                found.update(self.gradient(episodes))

        return kept, found, captured(program, kept[0].device, restore=found.clear)


def _side(work: Work, gradient: Gradient, tasks: int, options: Options) -> Side:
    episodes = [episode_of(work, task, device=options.device) for task in draw_tasks(work, tasks)]
    batch, single = stacked(episodes), stacked(episodes[:1])

    def together(count: int) -> float:
        batches = math.ceil(count / tasks)
        return _timed(gradient, batch, batches, options.device) * count / (batches * tasks)

    def alone(count: int) -> float:
        return _timed(gradient, single, count, options.device)

    return Side("kshot", together, with_threads(options.workers, alone), peer=False, multiple=tasks)


def _timed(gradient: Gradient, batch: Episode, times: int, device: str) -> float:
    synchronize(device)
    begun = time.perf_counter()
    for _ in range(times):
        gradient(batch)
    synchronize(device)
    return time.perf_counter() - begun


def _differences(work: Work, gradient: Gradient, device: str) -> dict[str, float]:
    found = {}
    for name in ADAPTING:
        peer, episodes = peer_and_episodes(name, work, device)
        some = list(episodes[:_COMPARED])
        # Rounded to TF32, five steps of an untrained network amplify what is the same to what looks different.
        with torch.backends.cudnn.flags(allow_tf32=False):
            ours, theirs = gradient(stacked(some)), peer.meta_gradient(some)
        apart = _norm({key: ours[key] - theirs[key] for key in theirs}) / _norm(theirs)
        if not apart <= _TOLERANCE:
            raise Disagreement(f"the meta-gradients of kshot and {name} differ by {apart:.3g} of their norm")
        found[name] = apart
    return found


def _norm(params: Params) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in params.values()))
