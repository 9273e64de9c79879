"""Data-parallel meta-training: the tasks of a meta-batch split over the processes of one `torchrun` job.

    every rank   sample(step) ──its share of the tasks──> meta-gradient ──┐
                                                                          ├─ one all-reduce ─> the same outer step
    every rank   ...                                      meta-gradient ──┘
    rank 0       also validates, writes checkpoints, prints and exports

Nothing is sent but one flat vector a step: gradient, metrics, and whether a rank was asked to stop. Episodes are a
function of the step and optimizers are deterministic, so all ranks hold the same meta-parameters without exchanging
them. A rank that dies ends the job: the others find its connection closed and raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kshot_models.types import Episode, Examples, Learner, MetaParams
from kshot_training.errors import CheckpointError, RankLostError
from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.outer_loop import MetaGradientSchedule

__all__ = ["Ranks", "Skip", "data_parallel", "join_ranks"]

Skip = Callable[[Episode, torch.Generator, int], None]
"""Draws from the generator what so many tasks would draw."""

_TIMEOUT = timedelta(hours=6)  # the others wait while rank 0 validates; a dead rank is noticed at once, not by this


@dataclass
class Ranks:
    """This process among those of its job."""

    rank: int
    size: int
    wished: Callable[[], bool] = lambda: False  # whether this process was asked to stop
    stopping: bool = False  # whether any was, as of the last step

    @property
    def leads(self) -> bool:
        """Rank 0 writes and prints."""
        return self.rank == 0

    def share(self, tasks: int) -> range:
        """The tasks of this rank: as many for each as the count allows.

        Raises:
            RankLostError: There are fewer tasks than ranks.
        """
        if tasks < self.size:
            raise RankLostError(f"{self.size} processes for {tasks} tasks an outer step: start at most {tasks}")
        return range(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def agree(self, step: int) -> None:
        """Check that all ranks begin after the same step.

        Raises:
            CheckpointError: They do not see the same checkpoints.
        """
        steps = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(self.size)]
        self._exchange(step, lambda: dist.all_gather(steps, torch.tensor([step], device=_device())))
        if len({int(each) for each in steps}) > 1:
            there = ", ".join(f"rank {rank} after step {int(each)}" for rank, each in enumerate(steps))
            raise CheckpointError(f"the processes begin at different places ({there}): --out must be one shared folder")

    def mean(self, grads: MetaParams, metrics: Metrics, *, weight: float, step: int) -> tuple[MetaParams, Metrics]:
        """The mean over all tasks of the job.

        Args:
            grads: The mean over the tasks of this rank.
            metrics: Likewise.
            weight: Their share of all tasks.
            step: For the message of an error.

        Raises:
            RankLostError: Another rank is gone.
        """
        named = [tensor for part in grads for tensor in part.values()]
        scalars = [metrics.loss, metrics.accuracy, *metrics.diagnostics.values()]
        like = scalars[0]
        flat = torch.cat([*(t.detach().reshape(-1) for t in named), torch.stack([s.to(like) for s in scalars])])
        flat = torch.cat([flat * weight, like.new_tensor([float(self.wished())])])
        self._exchange(step, lambda: dist.all_reduce(flat))
        self.stopping = bool(flat[-1] > 0)
        parts = iter(torch.split(flat[:-1], [t.numel() for t in (*named, *scalars)]))
        mean = MetaParams(*({n: next(parts).view(t.shape) for n, t in part.items()} for part in grads))
        loss, accuracy = next(parts).squeeze(0), next(parts).squeeze(0)
        return mean, Metrics(loss, accuracy, {name: next(parts).squeeze(0) for name in metrics.diagnostics})

    def _exchange(self, step: int, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # gloo and nccl have no narrower class for a peer that is gone
            raise RankLostError(
                f"rank {self.rank}, outer step {step}: another process of the job is gone "
                f"({str(error).splitlines()[0]}). Start it again with --resume: it goes on from the last checkpoint"
            ) from error


@contextmanager
def join_ranks(*, size: int, device: str) -> Iterator[Ranks | None]:
    """Join the job that torchrun's environment variables tell of; None where this process is alone.

    Args:
        size: WORLD_SIZE.
        device: Decides between nccl and gloo.
    """
    if size == 1:
        yield None
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def data_parallel(schedule: MetaGradientSchedule, ranks: Ranks, *, skip: Skip) -> MetaGradientSchedule:
    """Each meta-gradient of `schedule` as the mean over what the ranks make of their shares.

    Args:
        schedule: The meta-gradient by outer step.
        ranks: Of this job.
        skip: Called with the number of tasks before the share, so that random draws are those of a single process.
    """

    def at(step: int) -> MetaGradient:
        plain = schedule(step)

        def meta_gradient(
            learner: Learner, meta: MetaParams, episodes: Episode, *, way: int, generator: torch.Generator
        ) -> tuple[MetaParams, Metrics]:
            tasks = len(episodes.support.targets)
            mine = ranks.share(tasks)
            skip(episodes, generator, mine.start)
            grads, metrics = plain(learner, meta, _cut(episodes, mine), way=way, generator=generator)
            return ranks.mean(grads, metrics, weight=len(mine) / tasks, step=step)

        return meta_gradient

    return at


def _cut(episodes: Episode, tasks: range) -> Episode:
    def cut(tensor: Tensor) -> Tensor:
        return tensor[tasks.start : tasks.stop]

    return Episode(*(Examples(*(cut(tensor) for tensor in examples)) for examples in episodes))


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
