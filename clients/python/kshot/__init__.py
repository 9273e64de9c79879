"""kshot: an image model that learns new classes over HTTP. This is its client; see Client, and README.md beside it."""

from ._async_client import AsyncClient
from ._client import Client
from ._errors import (
    AdaptationDivergedError,
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidInputError,
    KshotError,
    MissingExtraError,
    ModelNotFoundError,
    NotFoundError,
    PayloadTooLargeError,
    Problem,
    RateLimitedError,
    ServerError,
    ServiceUnavailableError,
    SessionNotFoundError,
    UnauthorizedError,
    UnprocessableEntityError,
    UnsupportedMediaTypeError,
)
from ._images import ImageInput, ImagesInput
from ._retry import RetryPolicy
from ._sessions import AsyncSession, Session
from ._support import SupportInput
from ._types import InputSpec, Limits, Measured, Model, Prediction, SessionInfo
from ._version import __version__

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AdaptationDivergedError",
    "AsyncClient",
    "AsyncSession",
    "BadRequestError",
    "Client",
    "ConfigurationError",
    "DeadlineExceededError",
    "ForbiddenError",
    "ImageInput",
    "ImagesInput",
    "InputSpec",
    "InvalidInputError",
    "KshotError",
    "Limits",
    "Measured",
    "MissingExtraError",
    "Model",
    "ModelNotFoundError",
    "NotFoundError",
    "PayloadTooLargeError",
    "Prediction",
    "Problem",
    "RateLimitedError",
    "RetryPolicy",
    "ServerError",
    "ServiceUnavailableError",
    "Session",
    "SessionInfo",
    "SessionNotFoundError",
    "SupportInput",
    "UnauthorizedError",
    "UnprocessableEntityError",
    "UnsupportedMediaTypeError",
    "__version__",
]
