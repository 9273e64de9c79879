"""One task of the demo: a few classes drawn at random, a few images of each to teach, others to ask about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kshot._errors import InvalidInputError
from kshot._images import Picture

__all__ = ["DrawnClass", "Episode", "Labelled", "sample_episode"]


@dataclass(frozen=True)
class DrawnClass:
    """A class: its name, how many images there are of it, and a function from an index to an image."""

    name: str
    size: int
    image: Callable[[int], Picture]


class Labelled(NamedTuple):
    """An image and the class that it shows."""

    label: str
    picture: Picture


class Episode(NamedTuple):
    """A task: `way * shot` support images and `way * queries` query images, class by class."""

    support: list[Labelled]
    queries: list[Labelled]


def sample_episode(
    classes: Sequence[DrawnClass], generator: np.random.Generator, *, way: int, shot: int, queries: int
) -> Episode:
    """Draw an episode: classes and their images without replacement.

    Raises:
        InvalidInputError: there are not enough classes with `shot + queries` images.
    """
    large = [one for one in classes if one.size >= shot + queries]
    if len(large) < way:
        raise InvalidInputError(
            f"{way}-way episodes with {shot} + {queries} images a class need {way} classes that have as many; "
            f"there are {len(large)} (of {len(classes)}). Choose a smaller --way, --shot or --queries"
        )
    episode = Episode([], [])
    for index in generator.choice(len(large), way, replace=False):
        chosen = large[index]
        order = generator.choice(chosen.size, shot + queries, replace=False)
        drawn = [Labelled(chosen.name, chosen.image(int(image))) for image in order]
        episode.support.extend(drawn[:shot])
        episode.queries.extend(drawn[shot:])
    return episode
