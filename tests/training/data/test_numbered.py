"""Targets that number the classes of the whole data set: each image has the number of the class that it is of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_training.data import EpisodeSampler, ImageClasses, NumberedClasses, Sampler

SPEC = InputSpec(height=2, width=2, channels=1, mean=(0.0,), std=(1.0 / 255,))


@pytest.mark.parametrize("rotations", [False, True])
def test_targets_are_classes_of_the_data_set(rotations: bool) -> None:
    # The pixels of class c are 10 c + [[0, 1], [2, 3]]: they tell the class, and by how much it was turned.
    corner = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    groups = {f"class {c}": np.repeat(10 * c + corner, 4, axis=0) for c in range(5)}
    classes = ImageClasses.of(groups, SPEC, rotations=rotations)
    plain = EpisodeSampler(classes, way=4, shot=1, queries=2, seed=3)
    sampler: Sampler = NumberedClasses(plain)
    assert sampler.way_at(0) == (20 if rotations else 5)
    episode, same = sampler.sample(7, 6), plain.sample(7, 6)
    turns = {(0, 1, 2, 3): 0, (1, 3, 0, 2): 1, (3, 2, 1, 0): 2, (2, 0, 3, 1): 3}
    for examples, unnumbered in zip(episode, same, strict=True):
        assert torch.equal(examples.inputs, unnumbered.inputs)
        pixels = examples.inputs.round().long().flatten(2)
        for target, seen in zip(examples.targets.flatten().tolist(), pixels.flatten(0, 1).tolist(), strict=True):
            name, turn = seen[0] // 10, turns[tuple(value % 10 for value in seen)]
            assert target == (4 * name + turn if rotations else name)
