"""What a session is: its canonical support set, and the id that follows from it.

    labels and pixels, in the order of the request
      -> canonicalise   labels sorted and unique; examples sorted by label, then by the SHA-256 of their pixels
      -> session_id     keyed BLAKE2b over tenant, model digest and the canonical support set

The same support set has one canonical form, so it has one id, on any replica and in any order, and the engine adapts to
one order only. Nothing needs a lock, and a retry costs nothing. An example that was sent twice counts twice: it weighs
twice in the mean loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot_server.sessions.record import Durability, SessionInfo, SessionRecord

__all__ = ["Canonical", "canonicalise", "new_record", "session_id", "union"]

_PURPOSE = b"kshot session 1"  # at most 16 bytes; another layout of the fields below needs another number


class Canonical(NamedTuple):
    """A support set in its one order. The arrays cannot be written to."""

    labels: tuple[str, ...]  # sorted by code point, unique
    targets: NDArray[np.int64]  # (n,), ascending indices into labels
    support: NDArray[np.uint8]  # (n, H, W, C)


def canonicalise(labels: Sequence[str], pixels: NDArray[np.uint8]) -> Canonical:
    """Bring a support set into its canonical order.

    Args:
        labels: one for each example, checked by `check_label`.
        pixels: uint8 (n, H, W, C), already of the model's input size.

    Raises:
        ValueError: the pixels are not uint8 (n, H, W, C), or there is not one label for each.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"expected uint8 pixels (n, H, W, C), got {pixels.dtype} {pixels.shape}")
    if len(labels) != len(pixels):
        raise ValueError(f"expected one label for each of {len(pixels)} examples, got {len(labels)}")
    keys = [(label, hashlib.sha256(one.tobytes()).digest()) for label, one in zip(labels, pixels, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    names = tuple(sorted(set(labels)))
    index = {name: i for i, name in enumerate(names)}
    targets = np.array([index[labels[i]] for i in order], dtype=np.int64)
    support = np.ascontiguousarray(pixels[order])
    targets.setflags(write=False)
    support.setflags(write=False)
    return Canonical(names, targets, support)


def session_id(key: bytes, tenant: str, model_digest: str, canonical: Canonical) -> str:
    """Name a session by what it is: "s_" and 32 hexadecimal digits.

    Without the key an id cannot be computed, so nobody can find out whether a tenant has taught a certain support set.

    Args:
        key: the deployment's session key, at most 64 bytes.
        tenant: who owns the session.
        model_digest: the artifact's digest.
        canonical: the support set.
    """
    digest = hashlib.blake2b(digest_size=16, key=key, person=_PURPOSE)
    for field in _fields(tenant, model_digest, canonical):
        # A length before each field: no two lists of fields are the same bytes.
        digest.update(len(field).to_bytes(8, "little"))
        digest.update(field)
    return "s_" + digest.hexdigest()


def union(record: SessionRecord, labels: Sequence[str], pixels: NDArray[np.uint8]) -> Canonical:
    """Add examples, of old or new classes, to a session's support set.

    Equals `canonicalise` of all examples at once: however a support set was built up, it is the same session.

    Raises:
        ValueError: as `canonicalise`, or the pixels have another size than the session's.
    """
    if pixels.shape[1:] != record.support.shape[1:]:
        raise ValueError(f"expected examples of shape {record.support.shape[1:]}, got {pixels.shape[1:]}")
    known = [record.info.labels[target] for target in record.targets]
    return canonicalise([*known, *labels], np.concatenate([record.support, pixels]))


def new_record(
    key: bytes,
    tenant: str,
    model: tuple[str, str, str],
    canonical: Canonical,
    *,
    now: float,
    ttl_seconds: int,
    durability: Durability = "durable",
) -> SessionRecord:
    """Make the record of a session that begins now.

    Args:
        key: the deployment's session key, from `SessionStore.session_key`.
        tenant: who owns the session.
        model: name, version and digest of the artifact.
        canonical: the support set.
        now: unix seconds.
        ttl_seconds: how long it lives after its last use.
        durability: whether it may live in this process only while the store is away.
    """
    name, version, digest = model
    info = SessionInfo(
        id=session_id(key, tenant, digest, canonical),
        tenant=tenant,
        model=name,
        version=version,
        model_digest=digest,
        labels=canonical.labels,
        counts=tuple(int(count) for count in np.bincount(canonical.targets, minlength=len(canonical.labels))),
        created_at=now,
        ttl_seconds=ttl_seconds,
        durability=durability,
        expires_at=now + ttl_seconds,
    )
    return SessionRecord(info, canonical.support)


def _fields(tenant: str, model_digest: str, canonical: Canonical) -> Iterator[bytes | memoryview]:
    yield tenant.encode()
    yield model_digest.encode()
    yield np.array(canonical.support.shape, dtype="<u8").tobytes()
    yield len(canonical.labels).to_bytes(8, "little")
    for label in canonical.labels:
        yield label.encode()
    yield canonical.targets.astype("<i8").tobytes()
    yield canonical.support.tobytes()
