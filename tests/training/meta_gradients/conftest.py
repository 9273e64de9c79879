"""Small double-precision learners and episodes: mathematics is checked where rounding cannot hide an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Examples, Learner, MetaParams

INPUT = InputSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.5,))

Case = tuple[Learner, MetaParams]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """A learner and meta-parameters in fp64, every tensor moved off its special start (zeros, ones, equal rates)."""

    def make(
        *,
        head: dict[str, Any] | None = None,
        inner: list[dict[str, Any]] | None = None,
        network: dict[str, Any] | None = None,
        type: str = "gradient",  # noqa: A002 - the manifest's word
        steps: int = 2,
        seed: int = 0,
        input_spec: InputSpec = INPUT,
        **more: Any,
    ) -> Case:
        spec = LearnerSpec.model_validate(
            {
                "type": type,
                "network": network or {"type": "conv4", "channels": (3, 4), "downsample": "max_pool"},
                "head": head or {"type": "shared"},
                "inner": inner if inner is not None else [{"type": "sgd", "rate": 0.3}],
                "steps": steps,
                **more,
            }
        )
        learner = build_learner(spec, input_spec)
        generator = torch.Generator().manual_seed(seed)
        meta = learner.init(generator)

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return tensor.double() + 0.05 * noise

        return learner, meta_map(moved, meta)

    return make


@pytest.fixture
def make_episodes() -> Callable[..., Episode]:
    """A meta-batch of random episodes in fp64."""

    def make(*, tasks: int = 2, way: int = 3, shot: int = 2, queries: int = 2, size: int = 8, seed: int = 1) -> Episode:
        generator = torch.Generator().manual_seed(seed)

        def examples(per_class: int) -> Examples:
            count = way * per_class
            inputs = torch.randn(tasks, count, 1, size, size, generator=generator, dtype=torch.float64)
            targets = torch.arange(way).repeat_interleave(per_class).expand(tasks, -1).contiguous()
            return Examples(inputs, targets, torch.ones(tasks, count, dtype=torch.float64))

        return Episode(examples(shot), examples(queries))

    return make
