"""A learner behind a frozen encoder: each image is embedded once, and the learner proper sees features alone.

    images (n, channels, height, width) ──encoder.onnx──> features (n, features) ──> the learner

The encoder is no function of torch: no gradient passes it, and under vmap all tasks are embedded as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.types import Examples, Learner, MetaParams, TaskParams

__all__ = ["Embed", "FrozenLearner"]

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images (n, channels, height, width) -> features (n, features)."""


@dataclass(frozen=True)
class FrozenLearner:
    """Learns on what an encoder makes of images.

    `flops` is what the encoder costs an image, in floating-point operations, which torch cannot count.
    """

    embed: Embed
    features: Learner
    flops: float

    def init(self, generator: torch.Generator) -> MetaParams:
        """See Learner."""
        return self.features.init(generator)

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """See Learner."""
        return self.features.adapt(meta, self._embedded(support), way=way)

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """See Learner."""
        return iter(self.features.trajectory(meta, self._embedded(support), way=way))

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """See Learner."""
        return self.features.predict(meta, task, _embed(inputs, self.embed), weights)

    def _embedded(self, support: Examples) -> Examples:
        return support._replace(inputs=_embed(support.inputs, self.embed))


def _embed(inputs: Tensor, embed: Embed) -> Tensor:
    features: Tensor = _Frozen.apply(inputs, embed)  # type: ignore[no-untyped-call] # torch's own
    return features


class _Frozen(torch.autograd.Function):
    """Inputs (n, *x) -> features (n, features), constants to every derivative."""

    @staticmethod
    def forward(inputs: Tensor, embed: Embed) -> Tensor:
        images = inputs.detach().to("cpu", torch.float32).numpy()
        return torch.from_numpy(embed(images)).to(inputs.device, inputs.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Embed], output: Tensor) -> None:
        del inputs
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        del ctx, grads
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], inputs: Tensor, embed: Embed) -> tuple[Tensor, int | None]:
        del info
        if in_dims[0] is None:
            return _embed(inputs, embed), None
        tasks = inputs.movedim(in_dims[0], 0)  # (tasks, n, *x)
        return _embed(tasks.flatten(0, 1), embed).reshape(*tasks.shape[:2], -1), 0
