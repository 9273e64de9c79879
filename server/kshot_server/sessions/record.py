"""The record of a session: the truth from which any replica can compute the adapted weights again.

    SessionRecord
    ├── info: SessionInfo    what lists and answers show: everything but the pixels
    └── support              the canonical support set, uint8

A record never changes. What changes while it lives is when it expires, and that is the store's business: a store fills
`expires_at` in whenever it hands a record out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from kshot_server.errors import InputError
from kshot_server.sessions.labels import check_label

__all__ = ["Durability", "SessionInfo", "SessionRecord", "is_session_id", "merge"]

Durability = Literal["durable", "volatile"]

_Value = TypeVar("_Value")

_SESSION_ID = re.compile(r"s_[0-9a-f]{32}")
_MODEL_DIGEST = re.compile(r"[0-9a-f]{64}")
_YEAR_5138 = 1e11  # unix seconds; a larger "time" is a mistaken unit


def is_session_id(text: str) -> bool:
    """Whether `text` has the form of a session id. Look others up nowhere: they become part of no key."""
    return _SESSION_ID.fullmatch(text) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionInfo:
    """A session without its pixels.

    Args:
        id: "s_" and 32 hexadecimal digits, from `session_id`.
        tenant: who owns it.
        model: name of the model that it was adapted from.
        version: version of that model.
        model_digest: digest of that version's artifact, 64 hexadecimal digits.
        labels: sorted by code point, unique.
        counts: examples of each label, in the order of `labels`, each at least 1.
        created_at: unix seconds.
        ttl_seconds: how long it lives after its last use.
        durability: "durable": stored before it is answered for; "volatile": may live in one process while the store is
            away.
        expires_at: unix seconds, when it goes if nobody uses it.

    Raises:
        ValueError: a field is not as described.
    """

    id: str
    tenant: str
    model: str
    version: str
    model_digest: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    created_at: float
    ttl_seconds: int
    durability: Durability
    expires_at: float

    def __post_init__(self) -> None:
        if not is_session_id(self.id):
            raise ValueError("id must be s_ and 32 hexadecimal digits")
        if _MODEL_DIGEST.fullmatch(self.model_digest) is None:
            raise ValueError("model_digest must be 64 hexadecimal digits")
        _check_words(self.tenant, self.model, self.version, *self.labels)
        _check_counts(self.labels, self.counts)
        _check_life(self)

    def expiring(self, expires_at: float) -> SessionInfo:
        """The same session, with the time at which it now expires (unix seconds)."""
        # At each use of a session; the other fields were checked when it was made.
        return _with(self, expires_at=expires_at)

    @property
    def support_size(self) -> int:
        """How many examples the support set has."""
        return sum(self.counts)

    @property
    def created_ms(self) -> int:
        """`created_at` in whole milliseconds: what lists are sorted by, the same number in every store."""
        return int(self.created_at * 1000)


@dataclasses.dataclass(frozen=True, eq=False)
class SessionRecord:
    """A session: its description and its support set.

    Args:
        info: everything but the pixels.
        support: uint8 (n, H, W, C) with n = info.support_size, in canonical order; it becomes read-only.

    Raises:
        ValueError: the support set is of another dtype or shape.
    """

    info: SessionInfo
    support: NDArray[np.uint8]

    def __post_init__(self) -> None:
        support = self.support
        if support.dtype != np.uint8 or support.ndim != 4 or 0 in support.shape:
            raise ValueError(f"expected a uint8 support set (n, H, W, C), got {support.dtype} {support.shape}")
        if len(support) != self.info.support_size:
            raise ValueError(f"expected {self.info.support_size} examples, got {len(support)}")
        support.setflags(write=False)

    @property
    def targets(self) -> NDArray[np.int64]:
        """The class of each example, (n,): indices into `info.labels`, ascending, as the canonical order has it."""
        return np.repeat(np.arange(len(self.info.counts), dtype=np.int64), self.info.counts)

    def expiring(self, expires_at: float) -> SessionRecord:
        """The same session, with the time at which it now expires (unix seconds)."""
        return _with(self, info=self.info.expiring(expires_at))


def _with(value: _Value, **changed: Any) -> _Value:
    """A copy of a frozen value that differs in some fields, and is not checked again."""
    made = object.__new__(type(value))
    vars(made).update(vars(value), **changed)
    return made


def merge(existing: SessionRecord, new: SessionRecord) -> SessionRecord:
    """What a store keeps when a session that it has is put again: the longer life and the stronger durability win."""
    info = dataclasses.replace(
        existing.info,
        ttl_seconds=max(existing.info.ttl_seconds, new.info.ttl_seconds),
        durability="durable" if "durable" in {existing.info.durability, new.info.durability} else "volatile",
        expires_at=max(existing.info.expires_at, new.info.expires_at),
    )
    return dataclasses.replace(existing, info=info)


def _check_words(*words: str) -> None:
    for word in words:
        try:
            check_label(word)
        except InputError as error:
            raise ValueError(f"tenant, model, version or a label: {error.detail} {error.received}") from None


def _check_counts(labels: tuple[str, ...], counts: tuple[int, ...]) -> None:
    if not labels or list(labels) != sorted(set(labels)):
        raise ValueError("labels must be sorted, unique and at least one")
    if len(counts) != len(labels) or min(counts) < 1:
        raise ValueError("each label needs a count of at least 1")


def _check_life(info: SessionInfo) -> None:
    if not all(math.isfinite(time) and 0 <= time < _YEAR_5138 for time in (info.created_at, info.expires_at)):
        raise ValueError("created_at and expires_at must be unix seconds")
    if not 1 <= info.ttl_seconds < _YEAR_5138:
        raise ValueError("ttl_seconds must be at least 1")
    if info.durability not in get_args(Durability):
        raise ValueError("durability must be durable or volatile")
