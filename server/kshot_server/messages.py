"""What crosses the process border between the HTTP side and an engine, beside the engine's own requests and outcomes.

    HTTP side                                      engine side (message_handler.py)
    Submit(submission, request)    ─────────────▶  one Outcome
    Cancel(submission)             ─────────────▶  Pong; the work is dropped if it has not begun
    Ping()                         ─────────────▶  Pong

Plain frozen values: everything here is pickled, so nothing here may hold an exception, a callable or a handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome

__all__ = ["Cancel", "Message", "Ping", "Pong", "Reply", "Submit"]


@dataclass(frozen=True)
class Submit:
    """A request for the engine. `submission` names it for a later `Cancel`."""

    submission: str
    request: AdaptRequest | ClassifyRequest


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the work of this submission any longer."""

    submission: str


@dataclass(frozen=True)
class Ping:
    """Is anybody there?"""


@dataclass(frozen=True)
class Pong:
    """The answer to what needs none."""


Message: TypeAlias = Submit | Cancel | Ping
Reply: TypeAlias = Outcome | Pong
