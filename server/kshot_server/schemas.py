"""The JSON of the interface, as types: what requests may hold, what answers do. The OpenAPI document comes from these.

Requests are read strictly: unknown keys are errors, and nothing is coerced ("5" is no number, true is no 1).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

__all__ = [
    "ClassificationOut",
    "ClassifyBody",
    "ClassifyOnceBody",
    "ErrorOut",
    "InputOut",
    "LearnerOut",
    "LimitsOut",
    "LiveOut",
    "MeasuredOut",
    "ModelListOut",
    "ModelOut",
    "PredictionOut",
    "ProblemOut",
    "QueryIn",
    "ReadyOut",
    "SessionListOut",
    "SessionOut",
    "SupportIn",
    "TeachBody",
]

# Strokes of 8 x 8 pixels, so that whoever tries the examples gets a real answer.
_FALLING = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAAGElEQVR42mP4z3SASYFJgImDiYWJieE/ABxuAwnGERAJAAAAAElFTkSuQmCC"
)
_RISING = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAIAQAAAADsdIMmAAAAGUlEQVR42mP4z/SP6R/TH6YfTB+YHjD8BwA/MAfLRFgouAAAAABJRU5ErkJggg=="
)
_SUPPORT: list[Any] = [{"label": "falling", "image": _FALLING}, {"label": "rising", "image": _RISING}]
_QUERIES: list[Any] = [{"image": _RISING}]

_ID = "s_0123456789abcdef0123456789abcdef"
_DIGEST = "9f" * 32

Label = Annotated[
    str,
    Field(
        description="Names a class: 1 to 256 characters of any script, none of them a control character.",
        json_schema_extra={"minLength": 1, "maxLength": 256},
    ),
]
Image = Annotated[
    str,
    Field(
        description="A PNG, JPEG or WEBP file in base64 (RFC 4648, section 4).",
        json_schema_extra={"contentEncoding": "base64", "minLength": 1},
    ),
]
Durability = Literal["durable", "volatile"]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SupportIn(_Request):
    """One labelled image."""

    label: Label
    image: Image


class QueryIn(_Request):
    """One image to classify."""

    image: Image


class _SupportBody(_Request):
    # Emptiness is a problem of its own (`empty_support`), so it is documented here and checked later. A list of a
    # million wrong items is given up at the first.
    support: Annotated[list[SupportIn], FailFast(), Field(json_schema_extra={"minItems": 1})]
    ttl_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            description="How long the session lives after its last use. The server has a default and an upper limit.",
        ),
    ] = None
    durability: Annotated[
        Durability | None,
        Field(
            description="`durable` (default): the session is stored before it is answered for. "
            "`volatile`: it may live in one server alone while the store is away."
        ),
    ] = None


class TeachBody(_SupportBody):
    """A labelled support set."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"support": _SUPPORT}]})


class ClassifyBody(_Request):
    """Images to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"queries": _QUERIES}]})

    queries: Annotated[list[QueryIn], FailFast(), Field(json_schema_extra={"minItems": 1})]


class ClassifyOnceBody(_SupportBody):
    """A labelled support set and the images to classify with it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"support": _SUPPORT, "queries": _QUERIES}]})

    queries: Annotated[list[QueryIn], FailFast(), Field(json_schema_extra={"minItems": 1})]


class InputOut(BaseModel):
    """What the model sees: every image is stretched to height x width by the `resize` filter."""

    height: int
    width: int
    channels: Literal[1, 3]
    mean: list[float]
    std: list[float]
    resize: str


class LimitsOut(BaseModel):
    """The most that one request to the model may hold."""

    max_way: int
    max_support: int
    max_queries: int


class LearnerOut(BaseModel):
    """How the model learns."""

    type: Annotated[str, Field(examples=["gradient", "prototype"])]
    inner_steps: Count
    network: str
    head: str
    inner: Annotated[list[str], Field(description="The links of the inner optimizer, in order.")]


class MeasuredOut(BaseModel):
    """One measured accuracy: the mean over `episodes` test episodes and half the width of its 95% interval."""

    data: str
    split: str
    way: int
    shot: int
    queries: int
    episodes: int
    norm: str
    accuracy: Probability
    ci95: float


class ModelOut(BaseModel):
    """One model that is served."""

    name: Annotated[str, Field(examples=["omniglot"])]
    version: Annotated[str, Field(examples=["1"])]
    digest: Annotated[str, Field(examples=[_DIGEST])]
    description: str
    learner: LearnerOut
    input: InputOut
    limits: LimitsOut
    norm: Annotated[str, Field(description="Where its normalization statistics come from.", examples=["support"])]
    measured: list[MeasuredOut]
    versions: Annotated[list[str], Field(description="All versions that are served, the newest last.")]


class ModelListOut(BaseModel):
    """All models, by name."""

    models: list[ModelOut]


class SessionOut(BaseModel):
    """A session: a model adapted to one support set. Sessions never change; the same support set has the same id."""

    id: Annotated[str, Field(pattern="^s_[0-9a-f]{32}$", examples=[_ID])]
    model: Annotated[str, Field(examples=["omniglot"])]
    version: Annotated[str, Field(examples=["1"])]
    model_digest: Annotated[str, Field(examples=[_DIGEST])]
    labels: Annotated[list[str], Field(description="Sorted.", examples=[["falling", "rising"]])]
    support_size: Annotated[Count, Field(examples=[2])]
    counts: Annotated[
        dict[str, int], Field(description="Images of each label.", examples=[{"falling": 1, "rising": 1}])
    ]
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-21T09:30:00.000Z"])]
    expires_at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T09:30:00.000Z"])]
    ttl_seconds: Annotated[int, Field(description="Each use lets it live so much longer.", examples=[86400])]
    durability: Durability
    cached: Annotated[bool, Field(description="Whether it existed before the call that answers this.")]


class SessionListOut(BaseModel):
    """Some of the tenant's sessions, the newest first."""

    sessions: list[SessionOut]
    next_cursor: Annotated[
        str | None, Field(description="Pass as `cursor` for the next page; null: these were the last.")
    ]


class PredictionOut(BaseModel):
    """The answer for one query."""

    label: Annotated[str, Field(description="The most probable class.", examples=["rising"])]
    probability: Annotated[Probability, Field(examples=[0.97])]
    probabilities: Annotated[dict[str, float], Field(examples=[{"falling": 0.03, "rising": 0.97}])]
    unknown: Annotated[bool, Field(description="Below the model's threshold: the image may be of none of the classes.")]


class ClassificationOut(BaseModel):
    """The answers for all queries, in their order."""

    session: Annotated[str, Field(description="The session that the support set has.", examples=[_ID])]
    model: Annotated[str, Field(examples=["omniglot"])]
    version: Annotated[str, Field(examples=["1"])]
    predictions: list[PredictionOut]


class LiveOut(BaseModel):
    """The process runs."""

    status: Literal["live"] = "live"


class ReadyOut(BaseModel):
    """Requests will be answered."""

    status: Literal["ready"] = "ready"


class ErrorOut(BaseModel):
    """One wrong field."""

    loc: Annotated[list[int | str], Field(description="Where it is.", examples=[["support", 0, "image"]])]
    msg: str
    type: str


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457). `code` is stable and for programs, the sentences are for people."""

    type: Annotated[str, Field(examples=["urn:kshot:problem:invalid_image"])]
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(examples=["invalid_image"])]
    request_id: Annotated[str, Field(description="The log of the server has this request under this id.")]
    expected: str | None = None
    received: str | None = None
    action: Annotated[str | None, Field(description="What to do about it.")] = None
    errors: list[ErrorOut] | None = None
