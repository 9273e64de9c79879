"""What tests of the training package share: inputs and classes whose every image tells which one it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_training.data import EpisodeSampler, ImageClasses

MakeClasses = Callable[..., ImageClasses]


@pytest.fixture
def gray() -> InputSpec:
    """28 x 28, one channel, values from 0 to 1."""
    return InputSpec(height=28, width=28, channels=1, mean=(0.0,), std=(1.0,))


@pytest.fixture
def numbered() -> MakeClasses:
    """Makes classes of 2 x 2 images with the pixels (class, image within it, 0, 1): episodes show what they hold."""

    def make(counts: list[int], *, rotations: bool = False) -> ImageClasses:
        spec = InputSpec(height=2, width=2, channels=1, mean=(0.0,), std=(1.0,))
        groups = {
            f"class{c}": np.array([[c, i, 0, 1] for i in range(count)], np.uint8).reshape(count, 2, 2, 1)
            for c, count in enumerate(counts)
        }
        return ImageClasses.of(groups, spec, rotations=rotations)

    return make


@pytest.fixture
def nearest_neighbour() -> Callable[[EpisodeSampler, int], float]:
    """The accuracy of answering with the label of the support image of the largest cosine."""

    def accuracy(sampler: EpisodeSampler, episodes: int) -> float:
        support, query = sampler.sample(0, episodes)
        known = torch.nn.functional.normalize(support.inputs.flatten(2), dim=-1)
        asked = torch.nn.functional.normalize(query.inputs.flatten(2), dim=-1)
        nearest = (asked @ known.mT).argmax(-1)
        return float((support.targets.gather(1, nearest) == query.targets).double().mean())

    return accuracy
