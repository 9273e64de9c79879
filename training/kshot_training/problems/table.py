"""The closed table of problems: what `[problem] type = NAME` builds. A new problem is a new file and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from kshot_models.manifest import Component
from kshot_models.networks import conv4, mlp
from kshot_models.registry import build_component
from kshot_training.data import ImageClasses
from kshot_training.errors import RecipeError
from kshot_training.problems.base import ProblemFamily
from kshot_training.problems.gaussians import ClusterNetworks, LogisticRegressions
from kshot_training.problems.images import ImageNetworks
from kshot_training.problems.quadratic import Quadratics

__all__ = ["PROBLEMS", "Surroundings", "build_problems"]


class Surroundings(NamedTuple):
    """What a family of problems is built from beside its options."""

    seed: int
    classes: Callable[[], ImageClasses] | None  # None: the recipe has no [data]


def _quadratic(around: Surroundings, *, dimensions: int = 10, start_scale: float = 0.01) -> ProblemFamily:
    return Quadratics(dimensions=dimensions, start_scale=start_scale, seed=around.seed)


def _logistic(around: Surroundings, *, dimensions: int = 3, points: int = 100, decay: float = 5e-4) -> ProblemFamily:
    return LogisticRegressions(dimensions=dimensions, points=points, decay=decay, seed=around.seed)


def _clusters(
    around: Surroundings,
    *,
    hidden: int = 8,
    dimensions: int = 2,
    points: int = 100,
    decay: float = 5e-4,
    start_scale: float = 1.0,
) -> ProblemFamily:
    return ClusterNetworks(
        hidden=hidden, dimensions=dimensions, points=points, decay=decay, start_scale=start_scale, seed=around.seed
    )


def _mlp(
    around: Surroundings,
    *,
    hidden: tuple[int, ...] = (20,),
    activation: Literal["relu", "sigmoid", "tanh"] = "sigmoid",
    way: int = 10,
    batch: int = 128,
    start_scale: float | None = 0.01,
) -> ProblemFamily:
    classes = _classes(around)
    network = mlp(classes.spec, "none", hidden=hidden, activation=activation)
    return ImageNetworks(
        classes=classes, network=network, way=way, batch=batch, start_scale=start_scale, seed=around.seed
    )


def _conv(
    around: Surroundings,
    *,
    channels: tuple[int, ...] = (16, 16, 16),
    way: int = 10,
    batch: int = 128,
    start_scale: float | None = None,
) -> ProblemFamily:
    classes = _classes(around)
    network = conv4(classes.spec, "transductive", channels=channels)
    return ImageNetworks(
        classes=classes, network=network, way=way, batch=batch, start_scale=start_scale, seed=around.seed
    )


PROBLEMS: Mapping[str, Callable[..., ProblemFamily]] = {
    "clusters": _clusters,
    "conv": _conv,
    "logistic": _logistic,
    "mlp": _mlp,
    "quadratic": _quadratic,
}


def build_problems(spec: Component, around: Surroundings) -> ProblemFamily:
    """The family of problems that `spec` describes.

    Raises:
        SpecInvalid: an unknown name or option, or one of a wrong type.
        RecipeError: it is made of images and there are none.
    """
    return build_component("problem", PROBLEMS, spec, around)


def _classes(around: Surroundings) -> ImageClasses:
    if around.classes is None:
        raise RecipeError("a problem on images needs the sections [data] and [input] in the recipe")
    return around.classes()
