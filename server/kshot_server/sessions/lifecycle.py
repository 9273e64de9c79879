"""Using a session: reading its record, and letting it live on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.record import SessionRecord
from kshot_server.sessions.stores.base import SessionStore, renewal_due

__all__ = ["use_session"]

_logger = logging.getLogger(__name__)


async def use_session(
    store: SessionStore, tenant: str, session: str, *, clock: Callable[[], float] = time.time
) -> SessionRecord | None:
    """Read a session's record because it is going to be used, and renew its life if a quarter of it is gone.

    Args:
        store: where it is.
        tenant: who asks.
        session: its id.
        clock: unix seconds.

    Returns:
        The record, None if the tenant has no such session.

    Raises:
        StoreUnavailable: it could not be read. That it could not be renewed is no reason to refuse its use.
    """
    record = await store.get(tenant, session)
    if record is None or not renewal_due(record.info.expires_at, record.info.ttl_seconds, clock()):
        return record
    try:
        expires_at = await store.touch(tenant, session, record.info.ttl_seconds)
    except StoreUnavailable as error:
        _logger.warning("session %s was used but its life could not be renewed: %s", session, error)
        return record
    return record if expires_at is None else record.expiring(expires_at)
