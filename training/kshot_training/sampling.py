"""From a recipe's data and episode sections to episodes by number; training, validation and test are apart.

[data] ──load_classes(split)──> ImageClasses ──> EpisodeSampler ──> Sample: number -> MetaBatch
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from kshot_models.manifest import InputSpec
from kshot_training.build import joint_classes
from kshot_training.data import (
    EpisodeSampler,
    ImageClasses,
    NumberedClasses,
    Sampler,
    SinusoidSampler,
    Warp,
    load_classes,
    sinusoid_frequency,
)
from kshot_training.errors import RecipeError
from kshot_training.outer_loop import MetaBatch, Sample
from kshot_training.recipe import DataSection, Recipe, Setting
from kshot_training.training_run import Episodes

__all__ = ["SINUSOIDS", "Place", "SampledBatches", "batches", "recipe_episodes", "setting_episodes"]

SINUSOIDS = "sinusoids"  # tasks that are drawn, not made of classes
_VALIDATION_SEED, _TEST_SEED = 1_000_003, 2_000_003  # added to the recipe's: other streams than training's
_EVALUATION_BATCH = {"cpu": 4, "cuda": 50}  # episodes drawn at once: few keep memory low, many fill a GPU


class Place(NamedTuple):
    """Where data are found and held."""

    root: Path | None = None  # where a data set without a path of its own is looked for
    cache: Path | None = None  # folder of decoded images; None: none are kept
    device: str = "cpu"  # where images are held and episodes are made


def recipe_episodes(recipe: Recipe, place: Place = Place()) -> Episodes:  # noqa: B008 - an immutable value
    """All episodes of a run.

    Args:
        recipe: The run.
        place: Where the data are.

    Raises:
        DataError: The data are missing or broken, or cannot give such episodes.
    """
    data = recipe.data
    validation, measure = recipe.validation, recipe.measure
    train = _training(recipe, place)
    return Episodes(
        train=batches(train, recipe.episodes.tasks),
        validation={}
        if validation is None
        else setting_episodes(
            data,
            validation.settings,
            recipe.input,
            split=validation.split,
            queries=validation.queries,
            seed=recipe.seed + _VALIDATION_SEED,
            place=place,
        ),
        test={}
        if measure is None
        else setting_episodes(
            data,
            measure.settings,
            recipe.input,
            split=measure.split,
            queries=measure.queries,
            seed=recipe.seed + _TEST_SEED,
            place=place,
        ),
    )


def setting_episodes(
    data: DataSection,
    settings: Iterable[Setting],
    spec: InputSpec,
    *,
    split: str,
    queries: int,
    seed: int,
    place: Place,
) -> dict[Setting, Sample]:
    """Evaluation episodes of each setting, never augmented.

    Args:
        data: Which data set.
        settings: Ways and shots.
        spec: The input that images are made for.
        split: Which classes.
        queries: Per class.
        seed: Of the episodes; the same seed gives the same episodes.
        place: Where the data are.
    """
    at_once = _EVALUATION_BATCH[torch.device(place.device).type]
    if data.source == SINUSOIDS:
        return {s: batches(_sinusoids(data, s.shot, queries, seed, place.device), at_once) for s in settings}
    classes = _classes(data, spec, split=split, place=place)
    return {s: batches(EpisodeSampler(classes, s.way, s.shot, queries, seed=seed), at_once) for s in settings}


@dataclass(frozen=True)
class SampledBatches:
    """Meta-batches of a sampler by number, each of `tasks` episodes."""

    sampler: Sampler
    tasks: int

    @property
    def steady(self) -> bool:
        """Whether all have one shape."""
        return self.sampler.steady

    def __call__(self, number: int) -> MetaBatch:
        """One of them."""
        return self.together(number, 1)

    def together(self, number: int, steps: int) -> MetaBatch:
        """Those of the numbers number * steps .. (number + 1) * steps - 1, one after another."""
        return MetaBatch(self.sampler.sample(number, steps * self.tasks), self.sampler.way_at(number))


def batches(sampler: Sampler, tasks: int) -> SampledBatches:
    """Meta-batches of `tasks` episodes by number."""
    return SampledBatches(sampler, tasks)


def _training(recipe: Recipe, place: Place) -> Sampler:
    data, section, seed = recipe.data, recipe.episodes, recipe.seed
    classes = joint_classes(recipe)
    if data.source == SINUSOIDS:
        shot = section.shot if isinstance(section.shot, int) else section.shot[1]
        return _sinusoids(data, shot, section.queries, seed, place.device)
    augment = None if section.augment is None else Warp(**section.augment.model_dump())
    images = _classes(data, recipe.input, split=section.split, place=place)
    sampler = EpisodeSampler(
        replace(images, mirrored=True) if section.mirrored else images,
        section.way,
        section.shot,
        section.queries,
        seed=seed,
        augment=augment,
        vary=section.vary,
    )
    if classes is None:
        return sampler
    if classes != sampler.classes.num_classes:
        raise RecipeError(
            f"meta_gradient.classes is {classes}, but {data.source} has {sampler.classes.num_classes} to train on, "
            "rotations and mirror images counted: give that number"
        )
    return NumberedClasses(sampler)


def _sinusoids(data: DataSection, shot: int, queries: int, seed: int, device: str) -> Sampler:
    frequency = sinusoid_frequency(data.options)
    return SinusoidSampler(shot=shot, queries=queries, seed=seed, frequency=frequency, device=device)


def _classes(data: DataSection, spec: InputSpec, *, split: str, place: Place) -> ImageClasses:
    classes = load_classes(
        data.source,
        spec=spec,
        split=split,
        scheme=data.scheme,
        rotations=data.rotations,
        root=place.root,
        cache=place.cache,
        options=data.options,
    )
    return classes.to(place.device)
