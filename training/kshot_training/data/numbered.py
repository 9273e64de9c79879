"""Episodes whose targets are the numbers of their classes in the whole data set: mini-batches for one classifier."""

from __future__ import annotations

import dataclasses

import torch

from kshot_models.types import Episode, Examples
from kshot_training.data.episodes import EpisodeSampler

__all__ = ["NumberedClasses"]


@dataclasses.dataclass(frozen=True)
class NumberedClasses:
    """The episodes of `sampler` with other targets; a `Sampler` without state."""

    sampler: EpisodeSampler

    @property
    def steady(self) -> bool:
        """See Sampler."""
        return self.sampler.steady

    def sample(self, step: int, tasks: int) -> Episode:
        """See EpisodeSampler, but that targets (tasks, n) are below the number of all classes."""
        episode = self.sampler.sample(step, tasks)
        classes = torch.from_numpy(self.sampler.episode_indices(step, tasks).classes).to(episode.query.targets.device)
        return Episode(*(_numbered(examples, classes) for examples in episode))

    def way_at(self, step: int) -> int:  # noqa: ARG002 - the same at every step
        """All classes."""
        return self.sampler.classes.num_classes


def _numbered(examples: Examples, classes: torch.Tensor) -> Examples:
    return examples._replace(targets=classes.gather(1, examples.targets))
