"""What a request goes through, without HTTP: the same for a server, for local mode and for tests.

    POST /v1/models/{model}/sessions          POST /v1/sessions/{id}/classify
    ────────────────────────────────          ───────────────────────────────
    repository.find   which model             store: use_session     which session, so which model
    decoding          body -> uint8 pixels    decoding               body -> uint8 pixels
    canonicalise      one order, one id       engine: classify       weights in the cache? probabilities
    store.get         known already? done       └─ NeedsSupport      no: once more, with the record's support set
    engine: adapt     inner loop -> weights   labels of the record   -> predictions
    store.put         before it is answered

The record in the store is the truth, the weights in the engine are a cache: losing them costs time and is never an
error. Nothing is stored for a support set that cannot be adapted to.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from kshot_models.manifest import Manifest
from kshot_server.bodies.base import Body
from kshot_server.decoding import Decoder
from kshot_server.engine.repository import ModelEntry, ModelRepository
from kshot_server.engine.requests import Adapted, AdaptRequest, Classified, ClassifyRequest, Support
from kshot_server.service.context import RequestContext
from kshot_server.service.refusals import no_session, store_errors
from kshot_server.service.results import Classification, Taught
from kshot_server.service.steps import Engines, Steps
from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.identity import Canonical, new_record
from kshot_server.sessions.lifecycle import use_session
from kshot_server.sessions.record import SessionInfo, SessionRecord, is_session_id, merge
from kshot_server.sessions.stores.base import Page, SessionStore

__all__ = ["Service"]

_log = logging.getLogger(__name__)


class Service:
    """Teaches and classifies.

    Args:
        models: what is served.
        store: where records are.
        engines: what computes.
        decoder: threads for bodies and images.
        max_pixels: most pixels of one image.
        ttl_seconds: how long a session lives unless its request says otherwise.
        max_ttl_seconds: the longest life that is granted; wishes for more get this.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        models: ModelRepository,
        store: SessionStore,
        engines: Engines,
        decoder: Decoder,
        max_pixels: int,
        ttl_seconds: int,
        max_ttl_seconds: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._models = models
        self._store = store
        self._steps = Steps(models=models, engines=engines, decoder=decoder, max_pixels=max_pixels)
        self._ttl_seconds = ttl_seconds
        self._max_ttl_seconds = max_ttl_seconds
        self._clock = clock

    # -- models ------------------------------------------------------------------------------------------------------

    def list_models(self) -> list[tuple[ModelEntry, tuple[str, ...]]]:
        """The newest version of each model, with the names of all its versions."""
        return [(entry, self._models.versions(entry.name)) for entry in self._models.list()]

    def find_model(self, reference: str) -> tuple[ModelEntry, tuple[str, ...]]:
        """The model of `name` or `name@version`, with the names of all its versions."""
        entry = self._steps.find_model(reference)
        return entry, self._models.versions(entry.name)

    # -- teaching ----------------------------------------------------------------------------------------------------

    async def teach(self, context: RequestContext, reference: str, body: Body) -> Taught:
        """Adapt a model to a support set and keep it as a session."""
        entry = self._steps.find_model(reference)
        canonical = await self._steps.decode_support(context, entry.manifest, body)
        return await self._teach(context, entry, canonical, body)

    async def extend(self, context: RequestContext, session: str, body: Body) -> Taught:
        """Teach a new session with a known one's support set and more. What `body` does not say is as it was."""
        record = await self._use(context, session)
        entry = self._steps.model_of(record.info)
        canonical = await self._steps.decode_support(context, entry.manifest, body, onto=record)
        durability = body.durability or record.info.durability
        inherited = dataclasses.replace(
            body, ttl_seconds=body.ttl_seconds or record.info.ttl_seconds, durability=durability
        )
        return await self._teach(context, entry, canonical, inherited)

    async def _teach(self, context: RequestContext, entry: ModelEntry, canonical: Canonical, body: Body) -> Taught:
        record = await self._new_record(context, entry, canonical, body)
        known = await self._known(record)
        if known is not None:
            await self._put(record)  # it lives on as if it were new
            return Taught(merge(known, record).info, known=True, batch_size=0)
        outcome = await self._steps.submit(context, _adapt_request(record, context.deadline))
        assert isinstance(outcome, Adapted)
        created = await self._put(record)
        return Taught(record.info, known=not created, batch_size=outcome.timings.batch_size)

    async def _new_record(
        self, context: RequestContext, entry: ModelEntry, canonical: Canonical, body: Body
    ) -> SessionRecord:
        with store_errors:
            key = await self._store.session_key()
        wish = body.ttl_seconds or self._ttl_seconds
        return new_record(
            key,
            context.tenant,
            (entry.name, entry.version, entry.digest),
            canonical,
            now=self._clock(),
            ttl_seconds=min(wish, self._max_ttl_seconds),
            durability=body.durability or "durable",
        )

    async def _known(self, record: SessionRecord) -> SessionRecord | None:
        try:
            return await self._store.get(record.info.tenant, record.info.id)
        except StoreUnavailable:
            return None  # whether a new one can be kept is for `put` to say

    async def _put(self, record: SessionRecord) -> bool:
        with store_errors:
            return await self._store.put(record)

    # -- classifying -------------------------------------------------------------------------------------------------

    async def classify(self, context: RequestContext, session: str, body: Body) -> Classification:
        """Classify queries with a session."""
        record = await self._use(context, session)
        entry = self._steps.model_of(record.info)
        queries = await self._steps.decode_queries(context, entry.manifest, body)
        request = ClassifyRequest(entry.digest, record.info.id, queries, None, context.deadline)
        outcome = await self._steps.submit(context, request)
        if not isinstance(outcome, Classified):
            # Not in that engine's cache: another replica made the session, or it was evicted, or the engine is new.
            outcome = await self._steps.submit(context, dataclasses.replace(request, support=_support_of(record)))
        assert isinstance(outcome, Classified)
        return _classification(record.info, entry.manifest, outcome)

    async def classify_once(self, context: RequestContext, reference: str, body: Body) -> Classification:
        """Classify queries with a support set that comes along. The session is kept too, if the store will have it."""
        entry = self._steps.find_model(reference)
        canonical, queries = await self._steps.decode_both(context, entry.manifest, body)
        record = await self._new_record(context, entry, canonical, body)
        request = ClassifyRequest(entry.digest, record.info.id, queries, _support_of(record), context.deadline)
        outcome = await self._steps.submit(context, request)
        assert isinstance(outcome, Classified)
        try:
            await self._store.put(record)
        except StoreUnavailable as error:
            # The answer is complete without it.
            _log.warning("the session of a one-call classification was not kept: %s", error)
        return _classification(record.info, entry.manifest, outcome)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def list_sessions(
        self, context: RequestContext, *, model: str | None, cursor: str | None, limit: int
    ) -> Page:
        """A tenant's sessions, newest first."""
        with store_errors:
            return await self._store.list(context.tenant, model=model, cursor=cursor, limit=limit)

    async def inspect(self, context: RequestContext, session: str) -> SessionInfo:
        """Look at a session; that does not renew its life."""
        record = None
        if is_session_id(session):
            with store_errors:
                record = await self._store.get(context.tenant, session)
        if record is None:
            raise no_session()
        return record.info

    async def forget(self, context: RequestContext, session: str) -> None:
        """Delete a session."""
        with store_errors:
            gone = is_session_id(session) and await self._store.delete(context.tenant, session)
        if not gone:
            raise no_session()

    async def _use(self, context: RequestContext, session: str) -> SessionRecord:
        with store_errors:
            record = await use_session(self._store, context.tenant, session) if is_session_id(session) else None
        if record is None:
            raise no_session()
        return record


def _support_of(record: SessionRecord) -> Support:
    return Support(record.support, record.targets, len(record.info.labels))


def _adapt_request(record: SessionRecord, deadline: float) -> AdaptRequest:
    return AdaptRequest(record.info.model_digest, record.info.id, _support_of(record), deadline)


def _classification(info: SessionInfo, manifest: Manifest, outcome: Classified) -> Classification:
    threshold = manifest.calibration.unknown_threshold
    return Classification(info, outcome.probabilities, threshold, outcome.cache, outcome.timings.batch_size)
