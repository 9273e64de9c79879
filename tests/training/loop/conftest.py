"""A small recipe over glyphs, and what is made of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kshot_training.recipe import Recipe
from kshot_training.sampling import Place

BASE: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {"source": "glyphs:classes=12,drawings=6"},
    "input": {"height": 10, "width": 10, "channels": 1, "mean": [0.9], "std": [0.25]},
    "learner": {
        "type": "gradient",
        "network": {"type": "conv4", "channels": [4, 8]},
        "head": {"type": "shared"},
        "inner": [{"type": "lslr", "rate": 0.2, "steps": 2}],
        "steps": 2,
    },
    "episodes": {"way": 3, "shot": 1, "queries": 2, "tasks": 2},
    "meta_gradient": {"type": "through_adaptation"},
    "outer": {"optimizer": "adam", "learning_rate": 0.01, "steps": 6, "average_decay": 0.9},
    "validation": {"every": 2, "episodes": 4, "queries": 2, "settings": [{"way": 3, "shot": 1}]},
    "measure": {"episodes": 4, "queries": 2, "settings": [{"way": 3, "shot": 1}], "transductive": True},
    "artifact": {"name": "small", "limits": {"max_way": 5, "max_support": 50}},
    "checkpoint_every": 2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A cache, so that each split of glyphs is drawn once."""
    return Place(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """The recipe with some values replaced: `make_recipe(**{"outer.steps": 3})`; None removes a key."""

    def make(**values: Any) -> Recipe:
        raw = copy.deepcopy(BASE)
        for key, value in values.items():
            node = raw
            *path, last = key.split(".")
            for part in path:
                node = node[part]
            if value is None:
                del node[last]
            else:
                node[last] = value
        return Recipe.model_validate(raw)

    return make
