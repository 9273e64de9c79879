"""What crosses the process border between the HTTP side and an engine, beside the engine's own requests and outcomes.

    HTTP side                                   engine side (desk.py)
    Work(ticket, request)    ────────────────▶  one Outcome
    Cancel(ticket)           ────────────────▶  Pong; the work is dropped if it has not begun
    Ping()                   ────────────────▶  Pong

Plain frozen values: everything here is pickled, so nothing here may hold an exception, a callable or a handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome

__all__ = ["Cancel", "Message", "Ping", "Pong", "Reply", "Work"]


@dataclass(frozen=True)
class Work:
    """A request for the engine. `ticket` names it for a later `Cancel`."""

    ticket: str
    request: AdaptRequest | ClassifyRequest


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the work of this ticket any longer."""

    ticket: str


@dataclass(frozen=True)
class Ping:
    """Is anybody there?"""


@dataclass(frozen=True)
class Pong:
    """The answer to what needs none."""


Message: TypeAlias = Work | Cancel | Ping
Reply: TypeAlias = Outcome | Pong
