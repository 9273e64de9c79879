"""Recipes of learned optimizers: a TOML file with a [problem] instead of a learner and episodes.

OptimizerRecipe
├── name, description, seed
├── [problem]         type = "quadratic" | "logistic" | "clusters" | "mlp" | "conv", and its options:
│                     problems/table.py
├── [data], [input]   for problems on images: as in a learner's recipe
├── [[optimizer]]     the links of the update rule: as `inner` of a learner
├── [unroll]          how long problems are worked on, and how much of that is differentiated at once
├── [policy_gradient] or, instead: how long they are worked on, and how widely steps are tried
├── [outer]           as in a learner's recipe
├── [validation]      problems on which the best rule is chosen
├── [measure]         problems whose final losses are written into the artifact
└── [artifact]        name, version
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kshot_models.manifest import Component, InputSpec
from kshot_training.recipe import DataSection, OuterSection
from kshot_training.sections import Positive, PositiveFloat, Section, Share

__all__ = [
    "HorizonSection",
    "OptimizerArtifactSection",
    "OptimizerMeasureSection",
    "OptimizerRecipe",
    "OptimizerValidationSection",
    "PolicyGradientSection",
    "UnrollSection",
]


class HorizonSection(Section):
    """From outer step `since` on, a problem is worked on for `steps` steps before the next one is drawn."""

    since: Annotated[int, Field(ge=0)] = 0
    steps: Positive


class _Curriculum(Section):
    """What both ways to train have: problems, and how long they are worked on."""

    tasks: Positive  # problems side by side
    horizons: Annotated[tuple[HorizonSection, ...], Field(min_length=1)]  # a curriculum, shortest first as a rule

    def horizon(self, step: int) -> int:
        """How long a problem that is drawn at outer step `step` is worked on."""
        return next(h.steps for h in reversed(self.horizons) if h.since <= step)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        since = [h.since for h in self.horizons]
        if since[0] != 0 or since != sorted(set(since)):
            raise ValueError(
                "horizons begin at outer steps that rise from 0: [{steps = 20}, {since = 500, steps = 100}]"
            )
        return self


class UnrollSection(_Curriculum):
    """The stretch of work that one outer step differentiates; see unroll.py."""

    steps: Positive  # truncation: gradients reach back so far
    weights: Literal["all", "last"] | tuple[Annotated[float, Field(ge=0)], ...] = "all"  # of the losses after each step
    measure: Literal["loss", "log"] = "loss"
    recompute: Annotated[int, Field(ge=0)] | None = None  # steps per segment that is computed again; 0: sqrt

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """w_1 ... w_steps."""
        if self.weights == "last":
            return (*(0.0,) * (self.steps - 1), 1.0)
        return (1.0,) * self.steps if self.weights == "all" else self.weights

    @model_validator(mode="after")
    def _fits_together(self) -> UnrollSection:
        if odd := [h.steps for h in self.horizons if h.steps % self.steps]:
            raise ValueError(f"a horizon is a multiple of unroll.steps = {self.steps}, got {odd[0]}")
        if len(self.loss_weights) != self.steps or sum(self.loss_weights) <= 0:
            raise ValueError(f"weights: expected {self.steps}, one for the loss after each step, not all of them 0")
        return self


class PolicyGradientSection(_Curriculum):
    """Rollouts that one outer step compares; see policy_gradient.py."""

    rollouts: Annotated[int, Field(ge=2)]  # per problem
    noise: PositiveFloat  # what is tried, as a share of a step's size
    measure: Literal["loss", "log"] = "loss"
    floor: Share = 0.0  # of the logarithm: a problem whose loss is this share of its first one counts as solved


class OptimizerValidationSection(Section):
    """Validation while training; the lowest mean loss after `steps` steps decides which rule is best."""

    every: Positive = 200
    runs: Positive = 64
    steps: Positive = 100
    split: str = "val"


class OptimizerMeasureSection(Section):
    """What is measured at the end on problems of their own."""

    runs: Positive = 100
    steps: tuple[Positive, ...] = (100, 200)
    split: str = "test"


class OptimizerArtifactSection(Section):
    """What is exported at the end."""

    name: str
    version: str = "1"
    description: str = ""
    select: Literal["best", "last"] = "best"


class OptimizerRecipe(Section):
    """Everything about the training of a learned optimizer."""

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    problem: Component
    data: DataSection | None = None
    input: InputSpec | None = None
    split: str = "train"  # of [data], which training problems are made of
    optimizer: Annotated[tuple[Component, ...], Field(min_length=1)]
    unroll: UnrollSection | None = None
    policy_gradient: PolicyGradientSection | None = None
    outer: OuterSection
    validation: OptimizerValidationSection = OptimizerValidationSection()
    measure: OptimizerMeasureSection | None = None
    artifact: OptimizerArtifactSection
    checkpoint_every: Positive = 200  # outer steps

    @model_validator(mode="after")
    def _images_have_a_form(self) -> OptimizerRecipe:
        if (self.data is None) != (self.input is None):
            raise ValueError("[data] and [input] go together: where images come from, and what is made of them")
        return self

    @model_validator(mode="after")
    def _is_trained_one_way(self) -> OptimizerRecipe:
        if (self.unroll is None) == (self.policy_gradient is None):
            raise ValueError("expected one of [unroll] and [policy_gradient], which are two ways to train")
        return self

    @property
    def way_to_train(self) -> UnrollSection | PolicyGradientSection:
        """The section that is there."""
        if self.policy_gradient is not None:
            return self.policy_gradient
        if self.unroll is None:
            raise ValueError("expected one of [unroll] and [policy_gradient]")
        return self.unroll

    @property
    def digest(self) -> str:
        """SHA-256 over the settings that decide the trained numbers; see Recipe.digest."""
        indecisive = {"measure", "artifact", "checkpoint_every", "description"}
        decisive = self.model_dump(mode="json", exclude=indecisive, exclude_defaults=True)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
