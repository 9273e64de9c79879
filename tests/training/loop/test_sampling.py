"""From recipe sections to episodes: spans, streams and augmentation arrive where they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kshot_training.errors import RecipeError
from kshot_training.recipe import Recipe, Setting
from kshot_training.sampling import Place, recipe_episodes

Make = Callable[..., Recipe]


def test_a_span_is_drawn_once_a_step_without_padding(make_recipe: Make, place: Place) -> None:
    episodes = recipe_episodes(make_recipe(**{"episodes.way": (2, 5), "episodes.shot": (1, 3)}), place)
    ways = set()
    for step in range(20):
        batch = episodes.train(step)
        support = batch.episodes.support
        assert (support.weights == 1).all()
        assert support.inputs.shape[:2] == (2, len(support.targets[0]))
        assert int(support.targets.max()) == batch.way - 1
        ways.add(batch.way)
    assert ways == {2, 3, 4, 5}


def test_spans_by_task_are_padded(make_recipe: Make, place: Place) -> None:
    episodes = recipe_episodes(make_recipe(**{"episodes.way": (2, 5), "episodes.vary": "task"}), place)
    batches = [episodes.train(step) for step in range(5)]
    assert {batch.way for batch in batches} == {5}
    assert any((batch.episodes.support.weights == 0).any() for batch in batches)


def test_each_stream_is_its_own_and_repeats(make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(**{"measure.split": "val", "episodes.split": "val"})  # even over the same classes
    setting = Setting(way=3, shot=1)
    first, again = recipe_episodes(recipe, place), recipe_episodes(recipe, place)
    streams = [first.train(0), first.validation[setting](0), first.test[setting](0)]
    inputs = [batch.episodes.support.inputs[0] for batch in streams]
    assert not torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[1], inputs[2])
    assert torch.equal(inputs[2], again.test[setting](0).episodes.support.inputs[0])


def test_only_training_is_augmented(make_recipe: Make, place: Place) -> None:
    plain = recipe_episodes(make_recipe(), place)
    augmented = recipe_episodes(make_recipe(**{"episodes.augment": {"rotation_degrees": 30.0}}), place)
    setting = Setting(way=3, shot=1)
    assert not torch.equal(plain.train(0).episodes.query.inputs, augmented.train(0).episodes.query.inputs)
    plain_test, augmented_test = plain.test[setting](0), augmented.test[setting](0)
    assert torch.equal(plain_test.episodes.query.inputs, augmented_test.episodes.query.inputs)


def test_sinusoids(make_recipe: Make) -> None:
    recipe = make_recipe(**{"data": {"source": "sinusoids"}, "validation.settings": [{"way": 1, "shot": 4}]})
    episodes = recipe_episodes(recipe)
    batch = episodes.train(0)
    assert batch.way == 1
    assert batch.episodes.query.targets.is_floating_point()
    assert episodes.validation[Setting(way=1, shot=4)](0).episodes.support.inputs.shape == (4, 4, 1)


def test_waves_of_the_frequencies_that_a_recipe_asks_for(make_recipe: Make) -> None:
    setting = {"validation.settings": [{"way": 1, "shot": 4}]}
    plain = make_recipe(**{"data": {"source": "sinusoids"}, **setting})
    other = make_recipe(**{"data": {"source": "sinusoids", "options": {"frequency": [0.8, 1.2]}}, **setting})
    same, drawn = (recipe_episodes(recipe).train(0).episodes.support for recipe in (plain, other))
    assert torch.equal(same.inputs, drawn.inputs)
    assert not torch.equal(same.targets, drawn.targets)


def test_joint_training_numbers_the_classes(make_recipe: Make, place: Place) -> None:
    joint = {"type": "joint", "classes": 12}
    batch = recipe_episodes(make_recipe(meta_gradient=joint), place).train(0)
    assert batch.way == 12
    assert batch.episodes.query.targets.shape == (2, 6)
    assert batch.episodes.query.targets.max() >= 3
    assert recipe_episodes(make_recipe(), place).train(0).way == 3
    with pytest.raises(RecipeError, match="classes is 11, but glyphs:classes=12,drawings=6 has 12"):
        recipe_episodes(make_recipe(meta_gradient={**joint, "classes": 11}), place)
