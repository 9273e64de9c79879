"""What crosses the process border: numbered messages and their replies, in parcels of as many as have gathered.

    HTTP side                                         engine side (message_handler.py)
    number, AdaptRequest | ClassifyRequest  ──────▶   number, Outcome, or Cancelled
    number, Cancel(number of a request)     ──────▶   nothing; the work is dropped if it has not begun

They travel by channel.py, as parcels.py writes them: a new kind is a row there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome

__all__ = ["Cancel", "Cancelled", "Message", "Messages", "Replies", "Reply"]


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the work of the request of this number any longer."""

    number: int


@dataclass(frozen=True)
class Cancelled:
    """The end of a request that was cancelled in time."""


Message: TypeAlias = AdaptRequest | ClassifyRequest | Cancel
Reply: TypeAlias = Outcome | Cancelled
Messages: TypeAlias = list[tuple[int, Message]]
"""A parcel to an engine. Numbers are the sender's own and come once."""
Replies: TypeAlias = list[tuple[int, Reply]]
"""A parcel from an engine: replies by the numbers of their messages, in whatever order they were ready."""
