"""What crosses the process border: numbered messages and their replies, in parcels of as many as have gathered.

    HTTP side                                         engine side (message_handler.py)
    number, AdaptRequest | ClassifyRequest  ──────▶   number, Outcome
    number, Cancel(number of a request)     ──────▶   number, Pong; the work is dropped if it has not begun
    number, Ping                            ──────▶   number, Pong

A parcel costs LitServe's queues and their manager process half a millisecond, whatever is in it; so there is no hurry:
what comes while one is being handed over waits for the next (gathering.py), in both directions.

Plain frozen values: everything here is pickled, so nothing here may hold an exception, a callable or a handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Outcome

__all__ = ["Cancel", "Message", "Messages", "Ping", "Pong", "Replies", "Reply"]


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the work of the request of this number any longer."""

    number: int


@dataclass(frozen=True)
class Ping:
    """Is anybody there?"""


@dataclass(frozen=True)
class Pong:
    """The answer to what needs none."""


Message: TypeAlias = AdaptRequest | ClassifyRequest | Cancel | Ping
Reply: TypeAlias = Outcome | Pong
Messages: TypeAlias = list[tuple[int, Message]]
"""A parcel to an engine. Numbers are the sender's own and come once."""
Replies: TypeAlias = list[tuple[int, Reply]]
"""A parcel from an engine: replies by the numbers of their messages, in whatever order they were ready."""
