"""kshot: an image model that learns new classes over HTTP. This is its client; see Client, and README.md beside it."""

import importlib
from typing import TYPE_CHECKING

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
from ._retry import RetryPolicy
from ._types import InputSpec, Limits, Measured, Model, Prediction, SessionInfo
from ._version import __version__

if TYPE_CHECKING:
    from ._async_client import AsyncClient
    from ._client import Client
    from ._images import ImageInput, ImagesInput
    from ._sessions import AsyncSession, Session
    from ._support import SupportInput

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

# Imported when they are asked for: httpx, numpy and Pillow take a third of a second, which the `kshot` command, and
# each process that multiprocessing starts for it, would spend for nothing.
_WHEN_ASKED = {
    "AsyncClient": "._async_client",
    "AsyncSession": "._sessions",
    "Client": "._client",
    "ImageInput": "._images",
    "ImagesInput": "._images",
    "Session": "._sessions",
    "SupportInput": "._support",
}


def __getattr__(name: str) -> object:
    if name not in _WHEN_ASKED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHEN_ASKED[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHEN_ASKED})
