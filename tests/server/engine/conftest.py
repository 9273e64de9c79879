"""What the engine's tests share: small untrained artifacts on disk, random sessions, and a learner with a gate."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kshot_models.artifact import save_artifact
from kshot_models.load import LoadedLearner, meta_to_arrays
from kshot_models.manifest import Calibration, Component, InputSpec, LearnerSpec, Limits, Manifest
from kshot_models.registry import build_learner
from kshot_models.types import Examples, MetaParams, TaskParams
from kshot_server.engine.engine import Engine
from kshot_server.engine.repository import ModelEntry, ModelNotFound, ModelRepository
from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Support

CONV4 = Component(type="conv4", channels=(8, 8))
SGD = (Component(type="sgd", rate=0.4),)
SPECS = {
    "gradient": LearnerSpec(type="gradient", network=CONV4, head=Component(type="shared"), inner=SGD, steps=3),
    "head-only": LearnerSpec(
        type="gradient", network=CONV4, head=Component(type="shared"), inner=SGD, steps=3, adapt=("head.*",)
    ),
    "proto-maml": LearnerSpec(
        type="gradient",
        network=CONV4,
        head=Component(type="prototype"),
        inner=(Component(type="lslr", rate=0.05, steps=2),),
        steps=2,
        norm="group",
    ),
    "per-step": LearnerSpec(
        type="gradient",
        network=CONV4,
        head=Component(type="shared"),
        inner=(Component(type="lslr", rate=0.2, steps=2),),
        steps=2,
        norm="per_step",
        per_step_gains=True,
    ),
    "prototype": LearnerSpec(type="prototype", network=CONV4, head=Component(type="prototype")),
    "population": LearnerSpec(type="prototype", network=CONV4, head=Component(type="prototype"), norm="population"),
    "ridge": LearnerSpec(type="ridge", network=CONV4, head=Component(type="ridge", regularizer=1.0)),
    "matching": LearnerSpec(
        type="matching", network=CONV4, head=Component(type="matching", full_context=True, reads=2, orders=2)
    ),
    "snail": LearnerSpec(
        type="snail",
        network=CONV4,
        head=Component(type="snail", max_way=12, max_length=16, filters=8, attention=((80, 16), (8, 8)), orders=2),
    ),
    "fixed-way": LearnerSpec(
        type="gradient", network=CONV4, head=Component(type="linear", way=6), inner=SGD, steps=2, norm="none"
    ),
    "perceptron": LearnerSpec(
        type="gradient",
        network=Component(type="mlp", hidden=(16,)),
        head=Component(type="shared"),
        # Adam makes full steps of vanishing gradients, rounding errors included, where epsilon is small.
        inner=(Component(type="adam", rate=0.01, epsilon=1e-3),),
        steps=2,
    ),
}

# Untrained prototypes are far apart, an untrained SNAIL is undecided: probabilities that are all 0 or 1, or all alike,
# would hide differences.
TEMPERATURES = {"prototype": 40.0, "snail": 0.05}


def _manifest(name: str, version: str, spec: LearnerSpec, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "input": InputSpec(height=12, width=12, channels=1, mean=(0.5,), std=(0.5,)),
        "limits": Limits(max_way=6 if name == "fixed-way" else 12, max_support=40, max_queries=300),
        "calibration": Calibration(temperature=TEMPERATURES.get(spec.head.type, 0.7)),
    }
    return Manifest(name=name, version=version, learner=spec, **(fields | changes))


WriteModel = Callable[..., Manifest]


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    """A function that writes an untrained artifact to ROOT/<name>/<version>."""

    def write(
        root: Path, name: str, version: str = "1", *, spec: LearnerSpec | None = None, **changes: Any
    ) -> Manifest:
        manifest = _manifest(name, version, spec or SPECS[name], **changes)
        meta = build_learner(manifest.learner, manifest.input).init(torch.Generator().manual_seed(7))
        arrays = {key: value.numpy() for key, value in meta_to_arrays(meta).items()}
        return save_artifact(root / name / version, manifest, arrays)

    return write


@pytest.fixture(scope="session")
def specs() -> dict[str, LearnerSpec]:
    """One specification of each kind of learner."""
    return SPECS


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, write_model: WriteModel) -> ModelRepository:
    """A repository with one artifact of each specification."""
    root = tmp_path_factory.mktemp("models")
    for name in SPECS:
        write_model(root, name)
    return ModelRepository([root])


@dataclass(frozen=True)
class Task:
    """A session's support set and some queries."""

    session: str
    support: Support
    queries: np.ndarray[Any, Any]

    def adapt(self, model: str, deadline: float = math.inf) -> AdaptRequest:
        return AdaptRequest(model, self.session, self.support, deadline)

    def classify(self, model: str, deadline: float = math.inf, *, with_support: bool = False) -> ClassifyRequest:
        return ClassifyRequest(model, self.session, self.queries, self.support if with_support else None, deadline)


MakeTask = Callable[..., Task]


@pytest.fixture(scope="session")
def make_task() -> MakeTask:
    """A function that draws a task; another seed is another session with other content."""

    def make(seed: int, *, way: int = 5, shot: int = 1, queries: int = 3, size: int = 12) -> Task:
        random = np.random.default_rng(seed)
        classes = random.integers(0, 256, (way, 1, size, size, 1))

        def drawn(count: int) -> np.ndarray[Any, Any]:
            noise = random.integers(-60, 60, (way, count, size, size, 1))
            return np.clip(classes + noise, 0, 255).astype(np.uint8).reshape(-1, size, size, 1)

        support = Support(drawn(shot), np.repeat(np.arange(way), shot), way)
        return Task(f"s_{seed}", support, random.permutation(drawn(queries))[:queries])

    return make


@dataclass
class GateLearner:
    """Learns the mean of each class and does as the first pixel of the support set says; waits at its gate.

    first pixel 254: answers what is not finite (as that of the queries does). 255: raises, if `fragile`.
    """

    fragile: bool = False
    diverges: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    adapted: int = 0

    def init(self, generator: torch.Generator) -> MetaParams:
        return MetaParams({}, {}, {})

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        self.adapted += 1
        self.entered.release()
        assert self.gate.wait(20)
        mark = support.inputs[0, 0, 0, 0].round()
        if self.fragile and mark == 255:
            raise ValueError("a support set that breaks the learner")
        member = torch.nn.functional.one_hot(support.targets, way).to(support.inputs.dtype)
        means = member.T @ support.inputs.flatten(1)
        return {"means": means / ((mark != 254) & (not self.diverges))}

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        yield self.adapt(meta, support, way=way)

    def predict(
        self, meta: MetaParams, task: TaskParams, inputs: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        logits = -torch.cdist(inputs.flatten(1), task["means"]) / 100
        return logits / (inputs[:1, 0, :1, 0].round() != 254)


@dataclass
class GatedModels:
    """A source of one model, `gated`, whose learner is in the test's hands."""

    learner: GateLearner
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def at(self, digest: str) -> ModelEntry:
        if digest != self.digest:
            raise ModelNotFound(digest)
        return ModelEntry(self.manifest, digest, Path())

    def list(self) -> tuple[ModelEntry, ...]:
        return (self.at(self.digest),)

    def load(self, digest: str, *, device: str) -> LoadedLearner:
        return LoadedLearner(self.learner, MetaParams({}, {}, {}), self.manifest, digest)


@pytest.fixture
def gated() -> GatedModels:
    """A model whose adaptations wait at `gated.learner.gate`, which is open at first."""
    pixels = InputSpec(height=4, width=4, channels=1, mean=(0.0,), std=(1 / 255,))  # the learner sees 0 to 255
    learner = GateLearner()
    learner.gate.set()
    # A kind that kernels do not compute alone, so that executors ask the learner.
    return GatedModels(learner, _manifest("gated", "1", SPECS["ridge"], input=pixels))


@dataclass
class Bench:
    """An engine over a gated model: loaded, and with the one lane that there is held by a first adaptation."""

    engine: Engine
    models: GatedModels
    first: Any

    def release(self) -> None:
        """Let the first adaptation, and all that come, go on."""
        self.models.learner.gate.set()


@pytest.fixture
def hold(gated: GatedModels, make_task: MakeTask) -> Iterator[Callable[..., Bench]]:
    """A function that makes an engine and keeps it busy until `release`, so that what is submitted then queues up."""
    benches = []

    def held(**options: Any) -> Bench:
        engine = Engine(gated, **options)
        assert engine.warm_up() == {}
        gated.learner.gate.clear()
        while gated.learner.entered.acquire(blocking=False):
            pass
        first = engine.submit(make_task(1000, size=4).adapt(gated.digest))
        assert gated.learner.entered.acquire(timeout=10)
        gated.learner.adapted = 0
        benches.append(Bench(engine, gated, first))
        return benches[-1]

    yield held
    gated.learner.gate.set()
    for bench in benches:
        bench.engine.close()
