"""What the server's answers become: frozen values, nothing that talks.

Model            what is served: input, limits, measured accuracy
├── InputSpec
├── Limits
└── Measured
SessionInfo      one adapted task on the server
Prediction       the answer for one query image
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["InputSpec", "Limits", "Measured", "Model", "Prediction", "SessionInfo"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one query image.

    Attributes:
        label: the most probable class.
        probability: its probability, 0 to 1.
        probabilities: the probability of each class; they sum to 1.
        unknown: whether the probability lies below the model's threshold: the image may be of none of the classes.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float] = field(hash=False, repr=False)
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One adapted task on the server.

    Attributes:
        id: "s_" and 32 hexadecimal digits. The same support set for the same model version always has the same id.
        model: name of the model.
        version: its version; a session stays on the one that it was made with.
        model_digest: digest of that version.
        labels: the classes, sorted.
        support_size: how many images it has learned from.
        counts: how many of them for each label.
        created_at: when it was made, UTC.
        expires_at: when it will be forgotten unless it is used before, UTC.
        ttl_seconds: how far each use moves that moment.
        durability: "durable" (kept in the server's store) or "volatile".
        cached: whether the session existed before the call that answered this.
    """

    id: str
    model: str
    version: str
    model_digest: str
    labels: tuple[str, ...]
    support_size: int
    counts: Mapping[str, int] = field(hash=False)
    created_at: datetime
    expires_at: datetime
    ttl_seconds: int
    durability: str
    cached: bool


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model sees: each image is stretched to height x width pixels by the `resize` filter; 1 or 3 channels."""

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The most classes, support images and queries that one request to a model may hold."""

    max_way: int
    max_support: int
    max_queries: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured accuracy: the mean over test episodes and half the width of its 95% interval, both 0 to 1."""

    data: str
    way: int
    shot: int
    accuracy: float
    ci95: float
    queries: int = 0
    episodes: int = 0
    norm: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One model that the server offers.

    Attributes:
        name: what to pass as `model`; `name@version` pins the version.
        version: the newest version, or the one that was asked for.
        digest: digest of the artifact.
        description: for people.
        learner: its type ("gradient", "prototype"), number of inner steps and so on, as the server tells it.
        input: what it sees.
        limits: what one request may hold.
        norm: where its normalization statistics come from.
        measured: what it was measured to do.
        versions: all versions that the server has.
    """

    name: str
    version: str
    digest: str
    description: str
    learner: Mapping[str, Any] = field(hash=False)
    input: InputSpec
    limits: Limits
    norm: str
    measured: tuple[Measured, ...]
    versions: tuple[str, ...]
