"""Recipes: TOML files that say everything about a training run, read into strict models.

    Recipe
    ├── name, description, seed, init_from
    ├── [data]            where classes come from and how they are split
    ├── [input]           the artifact's InputSpec: size, channels, mean, std
    ├── [learner]         the artifact's LearnerSpec: network, head, norm, inner, steps
    ├── [episodes]        way, shot and queries of training episodes, episodes per outer step
    ├── [meta_gradient]   type = "through_adaptation" | "in_turn" | "imaml" | "reptile" | "joint":
    │                     meta_gradient_sections.py
    ├── [outer]           optimizer, learning rate, schedule, clipping, averaging
    ├── [validation]      how often, on which episodes; the best meta-parameters are kept
    ├── [measure]         the test episodes whose accuracies are written into the artifact
    └── [artifact]        name, version, limits, what is exported

An unknown key is an error, and so is a value of the wrong type. Any key can be overridden on the command line:
`outer.steps=200`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kshot_models.manifest import InputSpec, LearnerSpec, Limits
from kshot_models.registry import build_inner_optimizer
from kshot_training.meta_gradient_sections import Imaml, InTurn, Joint, Reptile, ThroughAdaptation
from kshot_training.sections import Positive, PositiveFloat, Section, Share, Span

__all__ = [
    "ArtifactSection",
    "AugmentSection",
    "DataSection",
    "EpisodesSection",
    "MeasureSection",
    "OuterSection",
    "Recipe",
    "ScheduleSection",
    "Setting",
    "ValidationSection",
]


class DataSection(Section):
    """Which classes there are. `source` and `scheme` are resolved by `kshot_training.data`."""

    source: str  # NAME or NAME:ARGUMENT, or "sinusoids"
    scheme: str | None = None  # how the data set is split; None: its usual way
    rotations: bool = False  # each class counts four times, turned by quarters
    options: dict[str, Any] = Field(default_factory=dict)


class AugmentSection(Section):
    """Small random changes of each training image; bounds as in `kshot_training.data.Warp`."""

    rotation_degrees: Annotated[float, Field(ge=0)] = 10.0
    scale: Share = 0.1
    shear: Annotated[float, Field(ge=0)] = 0.1
    translation: Annotated[float, Field(ge=0)] = 0.1
    deformation: Annotated[float, Field(ge=0)] = 0.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class EpisodesSection(Section):
    """Training episodes. A pair [low, high] is drawn uniformly."""

    way: Span
    shot: Span
    queries: Positive  # per class
    tasks: Positive  # episodes per outer step
    split: str = "train"
    vary: Literal["step", "task"] = "step"  # pairs are drawn once a step, or for each task, which pads the smaller ones
    mirrored: bool = False  # the mirror image of each class is another class
    augment: AugmentSection | None = None


class ScheduleSection(Section):
    """The learning rate over the outer steps; see schedules.py. `final` is a share of the first rate."""

    type: Literal["constant", "cosine", "linear", "step"] = "constant"
    final: Annotated[float, Field(ge=0)] = 0.0
    every: Positive | None = None  # of "step"
    factor: PositiveFloat = 0.5  # of "step"
    warmup: Annotated[int, Field(ge=0)] = 0  # steps

    @model_validator(mode="after")
    def _step_needs_every(self) -> ScheduleSection:
        if self.type == "step" and self.every is None:
            raise ValueError("a schedule of type 'step' needs `every`")
        return self


class OuterSection(Section):
    """The outer optimizer and what is done to the meta-gradient before it."""

    optimizer: Literal["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"] = "adam"
    learning_rate: PositiveFloat
    steps: Positive
    schedule: ScheduleSection = ScheduleSection()
    betas: tuple[Share, Share] | None = None  # of the Adam family
    epsilon: PositiveFloat | None = None  # of all but sgd
    momentum: Share | None = None  # of sgd and rmsprop
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    scales: dict[str, PositiveFloat] = Field(default_factory=dict)  # name prefix -> multiple of the learning rate
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    average_decay: Share = 0.0  # of the moving average of meta-parameters; 0: none

    @model_validator(mode="after")
    def _options_belong(self) -> OuterSection:
        adam_family = self.optimizer not in {"sgd", "rmsprop"}
        if self.betas is not None and not adam_family:
            raise ValueError(f"{self.optimizer} has no `betas`")
        if self.momentum is not None and adam_family:
            raise ValueError(f"{self.optimizer} has no `momentum`; it has `betas`")
        if self.epsilon is not None and self.optimizer == "sgd":
            raise ValueError("sgd has no `epsilon`")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the torch class is given beyond rate and decay."""
        given = {"betas": self.betas, "eps": self.epsilon, "momentum": self.momentum}
        return {name: value for name, value in given.items() if value is not None}


class Setting(Section):
    """One kind of evaluation episode."""

    way: Positive
    shot: Positive

    @property
    def name(self) -> str:
        """As in "5w1s"."""
        return f"{self.way}w{self.shot}s"


class ValidationSection(Section):
    """Validation while training. The mean accuracy over all settings decides which meta-parameters are best."""

    every: Positive = 1000
    episodes: Positive = 200
    queries: Positive = 15
    settings: Annotated[tuple[Setting, ...], Field(min_length=1)]
    split: str = "val"


class MeasureSection(Section):
    """What is measured at the end on test classes."""

    episodes: Positive = 2000
    queries: Positive = 15
    settings: Annotated[tuple[Setting, ...], Field(min_length=1)]
    split: str = "test"
    transductive: bool = False  # measured beside the norm mode of the learner


class ArtifactSection(Section):
    """What is exported at the end."""

    name: str
    version: str = "1"
    description: str = ""
    limits: Limits
    select: Literal["best", "last"] = "best"  # on validation, or the end of training
    calibrate: bool = True  # fit the temperature on validation episodes
    unknown_share: Share | None = None  # of right validation answers that `unknown` may flag; None: never flag


class Recipe(Section):
    """Everything about a training run."""

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    init_from: str | None = None  # a zoo name or an artifact folder to start from
    data: DataSection
    input: InputSpec
    learner: LearnerSpec
    episodes: EpisodesSection
    meta_gradient: Annotated[ThroughAdaptation | InTurn | Imaml | Reptile | Joint, Field(discriminator="type")]
    outer: OuterSection
    validation: ValidationSection | None = None
    measure: MeasureSection | None = None
    artifact: ArtifactSection
    checkpoint_every: Positive = 500  # outer steps

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Recipe:
        if self.validation is None and self.artifact.select == "best":
            raise ValueError("artifact.select = 'best' needs a [validation] section; or select = 'last'")
        return self

    @model_validator(mode="after")
    def _one_inner_problem(self) -> Recipe:
        if not isinstance(self.meta_gradient, Imaml):
            return self
        strength = build_inner_optimizer(self.learner.inner).strength if self.learner.inner else None
        if strength is None:
            raise ValueError(
                "meta_gradient 'imaml' needs a learner.inner that begins with a pull back to the start, such as "
                "{type = 'proximal', strength = 2.0}: only then is there a minimum to differentiate"
            )
        if strength != self.meta_gradient.strength:
            raise ValueError(
                f"meta_gradient.strength is {self.meta_gradient.strength}, that of learner.inner {strength}: "
                "one inner problem has one strength"
            )
        return self

    @model_validator(mode="after")
    def _moments_to_go_by(self) -> Recipe:
        counted = self.learner.norm in {"per_step", "population"}
        brought = self.learner.norm == "population" and self.init_from is not None
        if counted and getattr(self.meta_gradient, "norm_momentum", None) == 0 and not brought:
            raise ValueError(
                "meta_gradient.norm_momentum = 0 counts no moments, and there are none to go by: it is for norm = "
                "'population' with `init_from` an artifact that has some"
            )
        return self

    @model_validator(mode="after")
    def _turns_of_whole_classes(self) -> Recipe:
        spans = (self.episodes.way, self.episodes.shot)
        padded = self.episodes.vary == "task" and any(not isinstance(span, int) for span in spans)
        if padded and isinstance(self.meta_gradient, InTurn):
            raise ValueError(
                "meta_gradient 'in_turn' takes no padded episodes: episodes.vary = 'step', or one way and one shot"
            )
        return self

    @model_validator(mode="after")
    def _carried_moments_move_by_themselves(self) -> Recipe:
        outer = self.outer
        plain = outer.optimizer == "sgd" and not outer.momentum and outer.learning_rate <= 1
        if plain or not isinstance(self.meta_gradient, Reptile) or not self.learner.inner:
            return self
        if build_inner_optimizer(self.learner.inner).carries:
            raise ValueError(
                "what an inner optimizer carries from task to task (carry_moments) is averaged by plain outer steps: "
                "use outer.optimizer = 'sgd' with a learning_rate of at most 1 and no momentum, or carry nothing"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 over the settings that decide the trained numbers: not the measuring, export and checkpointing.

        Values that are the defaults do not count, so that a key added later changes no digest.
        """
        indecisive = {"measure", "artifact", "checkpoint_every", "description"}
        decisive = self.model_dump(mode="json", exclude=indecisive, exclude_defaults=True)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
