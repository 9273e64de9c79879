"""Episodes drawn from classes of images.

    (seed, number of the episode) ──draws──> EpisodeIndices ──look up, turn, normalise──> augment ──> Episode
                                             which images, how turned                    training

The indices are made on the CPU and are the same everywhere; images are looked up on the device where they are.
Every class of an episode gives `shot` images to the support set and `queries` others to the query set.

Layout of a set, class-major; a task of smaller way or shot than the largest leaves places empty: input 0, weight 0.

    way 3 of 4, shot 1 of 2        inputs   a . | b . | c . | . .
                                   targets  0 0 | 1 1 | 2 2 | 3 3
                                   weights  1 0 | 1 0 | 1 0 | 0 0
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.types import Episode, Examples
from kshot_training.data.augment import Augmentation
from kshot_training.data.dataset import ImageClasses
from kshot_training.data.draws import choose_distinct, uniforms, whole
from kshot_training.data.errors import EpisodeImpossible

__all__ = ["EpisodeIndices", "EpisodeSampler", "Slots"]

Ints = NDArray[np.int64]
Span = int | tuple[int, int]

_EPISODES, _STEPS, _AUGMENT = 1, 2, 3  # the streams of draws


class Slots(NamedTuple):
    """A support or query set as indices: what image stands in each place."""

    images: Ints  # (tasks, n) rows of ImageClasses.images
    turns: Ints  # (tasks, n) how each is turned; see ImageClasses
    targets: Ints  # (tasks, n) below the way
    filled: NDArray[np.bool_]  # (tasks, n) false for padding, where the other three mean nothing


class EpisodeIndices(NamedTuple):
    """Episodes as indices, so that the same ones can be sent over HTTP and be evaluated in process."""

    classes: Ints  # (tasks, way) class of each target, for ImageClasses.class_name
    support: Slots
    query: Slots


@dataclasses.dataclass(frozen=True)
class EpisodeSampler:
    """Draws episodes; a `Sampler` without state.

    Classes are drawn without replacement and in random order, and so are the images of each. With rotations a class
    is a character and a rotation, and one character may be drawn twice at different rotations (Vinyals et al.,
    2016, arXiv:1606.04080).

    Args:
        classes: where images come from.
        way: classes in an episode; a pair (low, high) is drawn uniformly, both included.
        shot: support images of each class, or a pair.
        queries: query images of each class.
        seed: from 0; other seeds give unrelated episodes.
        augment: changes training images, support and query alike; None: nothing does.
        dtype: of inputs and weights.
        vary: whether way and shot are drawn for each task, which pads the smaller ones, or once for each step, which
            pads nothing.

    Raises:
        EpisodeImpossible: too few classes, or a class with too few images.
    """

    classes: ImageClasses
    way: Span
    shot: Span
    queries: int
    seed: int = 0
    augment: Augmentation | None = None
    dtype: torch.dtype = torch.float32
    vary: Literal["task", "step"] = "task"

    def __post_init__(self) -> None:
        (low_way, high_way), (low_shot, high_shot) = _span(self.way), _span(self.shot)
        if not 2 <= low_way <= high_way or not 1 <= low_shot <= high_shot or self.queries < 1 or self.seed < 0:
            raise EpisodeImpossible(
                "expected way of at least 2, shot and queries of at least 1, pairs as (low, high) and a seed from 0, "
                f"got way {self.way}, shot {self.shot}, queries {self.queries}, seed {self.seed}"
            )
        if high_way > self.classes.num_classes:
            raise EpisodeImpossible(f"way {high_way} needs as many classes, got {self.classes.num_classes}")
        needed = high_shot + self.queries
        fewest = int(np.argmin(self.classes.counts))
        if self.classes.counts[fewest] < needed:
            raise EpisodeImpossible(
                f"shot {high_shot} and {self.queries} queries need {needed} images of each class, got "
                f"{self.classes.counts[fewest]} of {self.classes.names[fewest]}: lower them, or leave that class out"
            )

    @property
    def steady(self) -> bool:
        """See Sampler."""
        return self.vary == "task" or all(low == high for low, high in (_span(self.way), _span(self.shot)))

    def sample(self, step: int, tasks: int) -> Episode:
        """The episodes step * tasks .. (step + 1) * tasks - 1.

        Returns:
            inputs (tasks, n, C, H, W), normalised; targets (tasks, n); weights (tasks, n). n is way * shot in the
            support set and way * queries in the query set.
        """
        indices = self.episode_indices(step, tasks)
        support, query = self._examples(indices.support), self._examples(indices.query)
        if self.augment is None:
            return Episode(support, query)
        return self._augmented(self.augment, support, query, first=step * tasks)

    def way_at(self, step: int) -> int:
        """The way of all episodes of a step, padding counted."""
        return self._sizes(step)[0]

    def episode_indices(self, step: int, tasks: int = 1) -> EpisodeIndices:
        """The same episodes as `sample(step, tasks)`, as indices on the CPU."""
        way, shot = self._sizes(step)
        largest_way, largest_shot = _span(self.way)[1], _span(self.shot)[1]
        chosen = largest_shot + self.queries
        width = 2 + 2 * largest_way * (1 + chosen)
        draws = uniforms(self.seed, _EPISODES, first=step * tasks, count=tasks, width=width)
        sizes, of_classes, of_images = np.split(draws, [2, 2 + 2 * largest_way], axis=1)
        of_classes = of_classes.reshape(tasks, 2, largest_way)
        of_images = of_images.reshape(tasks, 2, largest_way, chosen)
        population = np.full(tasks, self.classes.num_classes, np.int64)
        # Drawing for the largest way and keeping the first ones is as good as drawing fewer: their order is random.
        classes = choose_distinct(of_classes[:, 0], of_classes[:, 1], population)[:, :way]
        names, turns = classes // self.classes.turns, classes % self.classes.turns
        rows = choose_distinct(of_images[:, 0, :way], of_images[:, 1, :way], self.classes.counts[names])
        images = self.classes.starts[names][..., None] + rows
        ways, shots = np.full(tasks, way), np.full(tasks, shot)
        if self.vary == "task":
            ways, shots = whole(sizes[:, 0], *_span(self.way)), whole(sizes[:, 1], *_span(self.shot))
        return EpisodeIndices(
            classes,
            _slots(images[..., :shot], turns, ways, shots),
            _slots(images[..., largest_shot:], turns, ways, np.full(tasks, self.queries)),
        )

    def _sizes(self, step: int) -> tuple[int, int]:
        """Way and shot of a step, padding counted."""
        ways, shots = _span(self.way), _span(self.shot)
        if self.vary == "task":
            return ways[1], shots[1]
        draws = uniforms(self.seed, _STEPS, first=step, count=1, width=2)
        return int(whole(draws[0, :1], *ways)[0]), int(whole(draws[0, 1:], *shots)[0])

    def _examples(self, slots: Slots) -> Examples:
        device = self.classes.device
        # Copies: some parts are views that repeat one number, and torch shares memory only with what can be written.
        images, turns, targets, filled = (torch.from_numpy(part.copy()).to(device) for part in slots)
        inputs = self.classes.inputs(images, turns, dtype=self.dtype)
        if not slots.filled.all():
            inputs = torch.where(filled[..., None, None, None], inputs, inputs.new_zeros(()))
        return Examples(inputs, targets, filled.to(self.dtype))

    def _augmented(self, augment: Augmentation, support: Examples, query: Examples, *, first: int) -> Episode:
        tasks, n_support = support.targets.shape
        n_query = query.targets.shape[1]
        largest = _span(self.way)[1] * (_span(self.shot)[1] + self.queries)
        draws = uniforms(self.seed, _AUGMENT, first=first, count=tasks, width=largest * augment.draws)
        draws = draws.reshape(tasks, largest, augment.draws)
        return Episode(
            _augment(augment, support, draws[:, :n_support]),
            _augment(augment, query, draws[:, n_support : n_support + n_query]),
        )


def _augment(augment: Augmentation, examples: Examples, draws: NDArray[np.float64]) -> Examples:
    flat: Tensor = augment(examples.inputs.flatten(0, 1), draws.reshape(-1, augment.draws))
    # Laid out channels-last, as normalise does: convolution and pooling then run several times faster on a CPU. Cloned,
    # because with one channel `contiguous` sees nothing to do.
    pixels_last = flat.reshape(examples.inputs.shape).movedim(-3, -1).clone(memory_format=torch.contiguous_format)
    return examples._replace(inputs=pixels_last.movedim(-1, -3))


def _slots(images: Ints, turns: Ints, ways: Ints, counts: Ints) -> Slots:
    """Class-major places of images (tasks, way, k), of which `ways` classes and `counts` images of each are filled."""
    tasks, way, k = images.shape
    targets = np.broadcast_to(np.arange(way)[:, None], images.shape)
    filled = (targets < ways[:, None, None]) & (np.arange(k) < counts[:, None, None])
    turned = np.broadcast_to(turns[..., None], images.shape)
    n = way * k
    return Slots(
        images.reshape(tasks, n), turned.reshape(tasks, n), targets.reshape(tasks, n), filled.reshape(tasks, n)
    )


def _span(value: Span) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
