"""The manifest: what an artifact says of itself. No torch here: a server without torch reads it too.

Manifest
├── learner: LearnerSpec        what to build; components are {"type": NAME, option: value}, see registry.py
├── input: InputSpec            how an image becomes the network's input
├── limits: Limits              the largest way, support set and query list that it was made for
├── provenance: Provenance      where it comes from and what it was measured to do
├── calibration: Calibration    temperature of the softmax, threshold of `unknown`
└── files: {name: sha256}       the bytes that belong to it

OptimizerManifest               kind = "optimizer": an update rule on its own, which no server serves
├── optimizer: (Component, ...)
├── provenance: OptimizerProvenance
└── files
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = [
    "CLASSIFIERS",
    "ENCODER_NETWORK",
    "FIXED_MOMENTS",
    "FORMAT",
    "Calibration",
    "Component",
    "InputSpec",
    "LearnerSpec",
    "Limits",
    "Manifest",
    "Measured",
    "NormMode",
    "OptimizerManifest",
    "OptimizerMeasured",
    "OptimizerProvenance",
    "Provenance",
    "ResizeFilter",
    "SelfDescription",
]

FORMAT = 1

# Learners whose outputs are logits of classes; the others are for training and research only.
CLASSIFIERS = frozenset({"gradient", "matching", "prototype", "ridge", "snail"})

# The network of learners on the features of an `encoder.onnx`; see encoder.py.
ENCODER_NETWORK = "encoder"

NormMode = Literal["support", "transductive", "per_step", "population", "group", "none"]
# Whose queries are normalized by moments that the query batch has no part in: `transductive` answers differently.
FIXED_MOMENTS: frozenset[NormMode] = frozenset({"support", "per_step", "population"})
ResizeFilter = Literal["box", "bilinear", "bicubic", "lanczos"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,31}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Component(BaseModel):
    """A name in one of registry.py's tables, and the options of what it builds."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str

    @property
    def options(self) -> dict[str, Any]:
        """All keys but `type`."""
        return dict(self.model_extra or {})


class LearnerSpec(Strict):
    """Which learner to build.

    `network` and `head` name the model, `inner` the links of the inner optimizer, in order, and `steps` how often it
    steps. `adapt` lists shell patterns of the parameters that the inner loop changes (`body.conv1.weight`, `head.*`);
    the others are meta-learned only. With `per_step_gains` each inner step has its own gains and biases of the norms,
    which do not adapt.
    """

    type: str
    network: Component
    head: Component
    norm: NormMode = "support"
    inner: tuple[Component, ...] = ()
    steps: Annotated[int, Field(ge=0, le=1000)] = 0
    adapt: tuple[str, ...] = ("*",)
    per_step_gains: bool = False

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A key that came after the first artifacts is written only where it says something: the others keep their
        # digest, and are still read by what they were made for.
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key != "per_step_gains" or value}


class InputSpec(Strict):
    """How an image becomes an input: stretched to height x width, then (value / 255 - mean) / std per channel."""

    height: Annotated[int, Field(ge=1, le=1024)]
    width: Annotated[int, Field(ge=1, le=1024)]
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: ResizeFilter = "bilinear"

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> InputSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if any(s <= 0 for s in self.std):
            raise ValueError("std must be above 0")
        return self


class Limits(Strict):
    """The largest episode that the model was made for. Sizes are counts of images."""

    max_way: Annotated[int, Field(ge=2)]
    max_support: Annotated[int, Field(ge=1)]
    max_queries: Annotated[int, Field(ge=1)] = 1024


class Measured(Strict):
    """One measured accuracy: mean over `episodes` test episodes and half the width of its 95% interval, both 0 to 1."""

    data: str
    split: str
    way: int
    shot: int
    queries: int
    episodes: int
    norm: NormMode
    accuracy: Annotated[float, Field(ge=0, le=1)]
    ci95: Annotated[float, Field(ge=0)]


class Provenance(Strict):
    """Where the artifact comes from."""

    recipe: str = ""
    recipe_sha256: str = ""
    data: str = ""
    seed: int | None = None
    revision: str = ""
    episodes: int = 0
    created_at: str = ""
    measured: tuple[Measured, ...] = ()


class Calibration(Strict):
    """Logits are divided by `temperature`; a best probability below `unknown_threshold` is flagged as unknown."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    unknown_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


def _plain_relative_names(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or any(p in {"", ".", ".."} for p in parts):
            raise ValueError(f"{name!r} is no plain path inside the artifact")
    return files


Files = Annotated[dict[str, Sha256], AfterValidator(_plain_relative_names)]


class SelfDescription(Strict):
    """What every kind of manifest can do."""

    def to_json(self) -> str:
        """Indented JSON, as it stands in manifest.json."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 in hex over the canonical JSON: as it names the digest of each file, it names the whole artifact."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class Manifest(SelfDescription):
    """What the artifact of a learner says of itself."""

    format: int = FORMAT
    name: Name
    version: Version
    description: str = ""
    learner: LearnerSpec
    input: InputSpec
    limits: Limits
    provenance: Provenance = Provenance()
    calibration: Calibration = Calibration()
    files: Files = Field(default_factory=dict)


class OptimizerMeasured(Strict):
    """log10 of the mean final loss over `runs` problems that were never trained on, after `steps` steps."""

    problem: str
    steps: int
    runs: int
    log10_mean_loss: float


class OptimizerProvenance(Strict):
    """Where a learned optimizer comes from."""

    recipe: str = ""
    recipe_sha256: str = ""
    problem: str = ""
    seed: int | None = None
    revision: str = ""
    created_at: str = ""
    measured: tuple[OptimizerMeasured, ...] = ()


class OptimizerManifest(SelfDescription):
    """What the artifact of a learned optimizer says of itself: it classifies nothing, and no server serves it.

    `optimizer` names the links of the update rule, as `inner` of a learner does; its tensors are the artifact's
    `inner/` ones.
    """

    format: int = FORMAT
    kind: Literal["optimizer"] = "optimizer"
    name: Name
    version: Version
    description: str = ""
    optimizer: Annotated[tuple[Component, ...], Field(min_length=1)]
    provenance: OptimizerProvenance = OptimizerProvenance()
    files: Files = Field(default_factory=dict)
