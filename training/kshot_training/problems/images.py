"""Small networks that learn to tell images apart: the optimizees that learned optimizers are meant for.

Each task picks some classes of the data and trains a fresh network on mini-batches of their images, drawn with
replacement; the loss is the cross-entropy. Networks are those of kshot_models, with a linear layer for the classes.

Reference: Andrychowicz et al., 2016, arXiv 1606.04474, sections 3.2 and 3.3, on MNIST and CIFAR-10.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap

from kshot_models.networks.network import Network
from kshot_models.tree import prefixed, under
from kshot_models.types import Params
from kshot_training.data import ImageClasses
from kshot_training.data.draws import choose_distinct, uniforms, whole
from kshot_training.problems.base import Problem

__all__ = ["ImageNetworks"]

Ints = NDArray[np.int64]

_CLASSES, _BATCHES = 11, 12  # streams of draws
_MOST_STEPS = 1 << 20  # of one problem, so that the batches of no two problems overlap


@dataclass(frozen=True, kw_only=True)
class ImageNetworks:
    """A family of image classifiers.

    Args:
        classes: where the images come from.
        network: what is trained, without its last layer. A norm is that of the mini-batch.
        way: classes per task.
        batch: images per step.
        start_scale: all weights start at normal(0, start_scale^2), as in the paper; None takes the network's own start.
        seed: of all draws.
    """

    classes: ImageClasses
    network: Network
    way: int = 10
    batch: int = 128
    start_scale: float | None = None
    seed: int = 0

    def draw(self, number: int, tasks: int) -> Problem:
        """See ProblemFamily."""
        first, count = number * tasks, tasks
        picks = uniforms(self.seed, _CLASSES, first=first, count=count, width=2 * self.way)
        population = np.full(count, self.classes.num_classes)
        chosen = choose_distinct(picks[:, : self.way], picks[:, self.way :], population)  # (tasks, way)
        starts = [self._start(number, task) for task in range(tasks)]
        start = {name: torch.stack([s[name] for s in starts]) for name in starts[0]}

        def losses(params: Params, step: int) -> Tensor:
            images, targets = self._batch(chosen, number, step)
            return vmap(self._loss)(params, images.to(params["head.weight"].dtype), targets)

        return Problem(start, losses)

    def _start(self, number: int, task: int) -> Params:
        generator = torch.Generator().manual_seed((((self.seed << 24) + number) << 8) + task)
        params = prefixed("body.", self.network.init(generator))
        scale = self.network.features**-0.5
        params["head.weight"] = scale * torch.randn(self.way, self.network.features, generator=generator)
        params["head.bias"] = torch.zeros(self.way)
        if self.start_scale is not None:
            return {
                name: p if name.endswith(".gain") else self.start_scale * torch.randn(p.shape, generator=generator)
                for name, p in params.items()
            }
        return params

    def _batch(self, chosen: Ints, number: int, step: int) -> tuple[Tensor, Tensor]:
        """The mini-batch of a step: inputs (tasks, batch, C, H, W), targets (tasks, batch)."""
        tasks, turns = len(chosen), self.classes.turns
        row = (number * _MOST_STEPS + step) * tasks
        draws = uniforms(self.seed, _BATCHES, first=row, count=tasks, width=2 * self.batch)
        targets = whole(draws[:, : self.batch], 0, self.way - 1)
        drawn = np.take_along_axis(chosen, targets, axis=1)
        names = drawn // turns
        images = self.classes.starts[names] + whole(draws[:, self.batch :], 0, self.classes.counts[names] - 1)
        device = self.classes.device
        inputs = self.classes.inputs(torch.from_numpy(images).to(device), torch.from_numpy(drawn % turns).to(device))
        return inputs, torch.from_numpy(targets).to(device)

    def _loss(self, params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        features, _ = self.network.apply(under("body.", params), inputs, weights=None, moments=None)
        return nn.functional.cross_entropy(features @ params["head.weight"].T + params["head.bias"], targets)
