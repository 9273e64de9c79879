"""The model and the tasks of a work item: an untrained artifact, and images that a seed tells.

Speed does not depend on what weights and pixels are, but for denormal numbers, which a CPU takes many times longer for:
so the images are noise around a pattern of their class, with no blank area.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kshot_bench.work import Work
from kshot_models.artifact import save_artifact
from kshot_models.load import meta_to_arrays, normalise
from kshot_models.manifest import Component, InputSpec, LearnerSpec, Limits, Manifest, NormMode
from kshot_models.registry import build_learner
from kshot_models.types import Episode, Examples, Learner, MetaParams

__all__ = [
    "Task",
    "draw_task",
    "draw_tasks",
    "episode_of",
    "learner_of",
    "learner_spec",
    "prototype_spec",
    "stacked",
    "write_artifact",
]

_SEED = 7


class Task(NamedTuple):
    """Images as a client has them."""

    support: NDArray[np.uint8]  # (way * shot, size, size, channels)
    targets: NDArray[np.int64]  # (way * shot,)
    queries: NDArray[np.uint8]  # (queries, size, size, channels)
    query_targets: NDArray[np.int64]  # (queries,)


def draw_task(work: Work, seed: int) -> Task:
    """The task of a seed: noise around one pattern for each class."""
    random = np.random.default_rng(seed)
    shape = (work.size, work.size, work.input_channels)
    patterns = random.integers(0, 256, (work.way, *shape))
    targets = np.repeat(np.arange(work.way), work.shot)
    query_targets = np.arange(work.queries) % work.way

    def drawn(classes: NDArray[np.int64]) -> NDArray[np.uint8]:
        noise = random.integers(-60, 60, (len(classes), *shape))
        pixels: NDArray[np.uint8] = np.clip(patterns[classes] + noise, 0, 255).astype(np.uint8)
        return pixels

    return Task(drawn(targets), targets, drawn(query_targets), query_targets)


def draw_tasks(work: Work, count: int, *, first: int = 0) -> list[Task]:
    """The tasks of seeds `first`, `first + 1`, ..."""
    return [draw_task(work, first + number) for number in range(count)]


def input_spec(work: Work) -> InputSpec:
    """How its images become inputs."""
    several = (0.5,) * work.input_channels
    return InputSpec(
        height=work.size, width=work.size, channels=work.input_channels, mean=several, std=several, resize="bilinear"
    )


def learner_spec(work: Work, *, norm: NormMode = "support", adapt: tuple[str, ...] = ("*",)) -> LearnerSpec:
    """A gradient learner with a fixed row for each class, as in the papers' protocols and as the peers have it."""
    return LearnerSpec(
        type="gradient",
        network=_network(work),
        head=_component("linear", way=work.way),
        norm=norm,
        inner=(_component("sgd", rate=work.rate),),
        steps=work.steps,
        adapt=adapt,
    )


def prototype_spec(work: Work) -> LearnerSpec:
    """A prototype learner over the same network: nothing of the encoder adapts."""
    return LearnerSpec(type="prototype", network=_network(work), head=_component("prototype"))


def manifest_of(work: Work, spec: LearnerSpec, *, name: str = "bench") -> Manifest:
    """The manifest of an artifact that takes just this work."""
    limits = Limits(max_way=work.way, max_support=max(work.support, 2), max_queries=max(work.queries, 1))
    return Manifest(name=name, version="1", learner=spec, input=input_spec(work), limits=limits)


def learner_of(work: Work, spec: LearnerSpec) -> tuple[Learner, MetaParams]:
    """The learner and its untrained meta-parameters, the same for everybody who asks."""
    learner = build_learner(spec, input_spec(work))
    return learner, learner.init(torch.Generator().manual_seed(_SEED))


def write_artifact(root: Path, work: Work, spec: LearnerSpec, *, name: str = "bench") -> Manifest:
    """Write the untrained artifact to ROOT/NAME/1, where a ModelRepository finds it."""
    manifest = manifest_of(work, spec, name=name)
    _, meta = learner_of(work, spec)
    arrays = {key: value.numpy() for key, value in meta_to_arrays(meta).items()}
    return save_artifact(root / name / manifest.version, manifest, arrays)


def episode_of(work: Work, task: Task, *, device: str = "cpu") -> Episode:
    """A task as learners take it: normalized, on a device."""
    spec = input_spec(work)

    def examples(pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> Examples:
        inputs = normalise(torch.tensor(pixels, device=device), spec)
        return Examples(inputs.contiguous(), _on(targets, device), torch.ones(len(targets), device=device))

    return Episode(examples(task.support, task.targets), examples(task.queries, task.query_targets))


def stacked(episodes: list[Episode]) -> Episode:
    """Episodes of one size as a meta-batch: every tensor with a leading `tasks` axis."""

    def stack(parts: list[Examples]) -> Examples:
        return Examples(*(torch.stack(column) for column in zip(*parts, strict=True)))

    return Episode(stack([e.support for e in episodes]), stack([e.query for e in episodes]))


def _network(work: Work) -> Component:
    return _component(work.network, channels=work.channels)


def _component(type_: str, **options: object) -> Component:
    return Component.model_validate({"type": type_, **options})


def _on(values: NDArray[Any], device: str) -> torch.Tensor:
    return torch.tensor(values, device=device)
