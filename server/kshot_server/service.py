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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kshot_models.manifest import Manifest
from kshot_server.bodies.base import Body
from kshot_server.calls import Call, Classification, Prediction, Taught
from kshot_server.decoding import Decoder, decode_images
from kshot_server.engine.repository import ModelEntry, ModelNotFound, ModelRepository
from kshot_server.engine.requests import (
    Adapted,
    AdaptRequest,
    Classified,
    ClassifyRequest,
    Failed,
    Outcome,
    Support,
    Timings,
)
from kshot_server.refusals import (
    check_queries,
    check_support,
    no_model,
    no_session,
    refusal,
    store_errors,
    version_gone,
)
from kshot_server.sessions.errors import StoreUnavailable
from kshot_server.sessions.identity import Canonical, canonicalise, new_record, union
from kshot_server.sessions.labels import check_label
from kshot_server.sessions.lifecycle import use_session
from kshot_server.sessions.record import SessionInfo, SessionRecord, is_session_id, merge
from kshot_server.sessions.stores.base import Page, SessionStore

__all__ = ["Engines", "Service"]

_log = logging.getLogger(__name__)


class Engines(Protocol):
    """What works on requests: the fleet of a server, or the one engine of local mode."""

    async def submit(self, request: AdaptRequest | ClassifyRequest) -> Outcome:
        """Have a request worked on; may raise `Fault`."""
        ...


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
        self._engines = engines
        self._decoder = decoder
        self._max_pixels = max_pixels
        self._ttl_seconds = ttl_seconds
        self._max_ttl_seconds = max_ttl_seconds
        self._clock = clock

    # -- models ------------------------------------------------------------------------------------------------------

    def list_models(self) -> list[tuple[ModelEntry, tuple[str, ...]]]:
        """The newest version of each model, with the names of all its versions."""
        return [(entry, self._models.versions(entry.name)) for entry in self._models.list()]

    def find_model(self, reference: str) -> tuple[ModelEntry, tuple[str, ...]]:
        """The model of `name` or `name@version`, with the names of all its versions."""
        entry = self._entry(reference)
        return entry, self._models.versions(entry.name)

    def _entry(self, reference: str) -> ModelEntry:
        try:
            return self._models.find(reference)
        except ModelNotFound:
            raise no_model() from None

    def _entry_of(self, info: SessionInfo) -> ModelEntry:
        try:
            return self._models.at(info.model_digest)
        except ModelNotFound:
            raise version_gone(info) from None

    # -- teaching ----------------------------------------------------------------------------------------------------

    async def teach(self, call: Call, reference: str, body: Body) -> Taught:
        """Adapt a model to a support set and keep it as a session."""
        entry = self._entry(reference)
        canonical = await self._decode_support(call, entry.manifest, body)
        return await self._teach(call, entry, canonical, body)

    async def extend(self, call: Call, session: str, body: Body) -> Taught:
        """Teach a new session with a known one's support set and more. What `body` does not say is as it was."""
        record = await self._use(call, session)
        entry = self._entry_of(record.info)
        canonical = await self._decode_support(call, entry.manifest, body, onto=record)
        durability = body.durability or record.info.durability
        inherited = dataclasses.replace(
            body, ttl_seconds=body.ttl_seconds or record.info.ttl_seconds, durability=durability
        )
        return await self._teach(call, entry, canonical, inherited)

    async def _teach(self, call: Call, entry: ModelEntry, canonical: Canonical, body: Body) -> Taught:
        record = await self._new_record(call, entry, canonical, body)
        known = await self._known(record)
        if known is not None:
            await self._put(record)  # it lives on as if it were new
            return Taught(merge(known, record).info, known=True, batch_size=0)
        outcome = await self._submit(call, _adapt_request(record, call.deadline))
        assert isinstance(outcome, Adapted)
        created = await self._put(record)
        return Taught(record.info, known=not created, batch_size=outcome.timings.batch_size)

    async def _new_record(self, call: Call, entry: ModelEntry, canonical: Canonical, body: Body) -> SessionRecord:
        with store_errors():
            key = await self._store.session_key()
        wish = body.ttl_seconds or self._ttl_seconds
        return new_record(
            key,
            call.tenant,
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
        with store_errors():
            return await self._store.put(record)

    # -- classifying -------------------------------------------------------------------------------------------------

    async def classify(self, call: Call, session: str, body: Body) -> Classification:
        """Classify queries with a session."""
        record = await self._use(call, session)
        entry = self._entry_of(record.info)
        queries = await self._decode_queries(call, entry.manifest, body)
        request = ClassifyRequest(entry.digest, record.info.id, queries, None, call.deadline)
        outcome = await self._submit(call, request)
        if not isinstance(outcome, Classified):
            # Not in that engine's cache: another replica made the session, or it was evicted, or the engine is new.
            outcome = await self._submit(call, dataclasses.replace(request, support=_support_of(record)))
        assert isinstance(outcome, Classified)
        return _classification(record.info, entry.manifest, outcome)

    async def classify_once(self, call: Call, reference: str, body: Body) -> Classification:
        """Classify queries with a support set that comes along. The session is kept too, if the store will have it."""
        entry = self._entry(reference)
        canonical = await self._decode_support(call, entry.manifest, body)
        queries = await self._decode_queries(call, entry.manifest, body)
        record = await self._new_record(call, entry, canonical, body)
        request = ClassifyRequest(entry.digest, record.info.id, queries, _support_of(record), call.deadline)
        outcome = await self._submit(call, request)
        assert isinstance(outcome, Classified)
        try:
            await self._store.put(record)
        except StoreUnavailable as error:
            # The answer is complete without it.
            _log.warning("the session of a one-call classification was not kept: %s", error)
        return _classification(record.info, entry.manifest, outcome)

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def list_sessions(self, call: Call, *, model: str | None, cursor: str | None, limit: int) -> Page:
        """A tenant's sessions, newest first."""
        with store_errors():
            return await self._store.list(call.tenant, model=model, cursor=cursor, limit=limit)

    async def inspect(self, call: Call, session: str) -> SessionInfo:
        """Look at a session; that does not renew its life."""
        record = None
        if is_session_id(session):
            with store_errors():
                record = await self._store.get(call.tenant, session)
        if record is None:
            raise no_session()
        return record.info

    async def forget(self, call: Call, session: str) -> None:
        """Delete a session."""
        with store_errors():
            gone = is_session_id(session) and await self._store.delete(call.tenant, session)
        if not gone:
            raise no_session()

    async def _use(self, call: Call, session: str) -> SessionRecord:
        with store_errors():
            record = await use_session(self._store, call.tenant, session) if is_session_id(session) else None
        if record is None:
            raise no_session()
        return record

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _decode_support(
        self, call: Call, manifest: Manifest, body: Body, onto: SessionRecord | None = None
    ) -> Canonical:
        check_support(body, manifest.limits, None if onto is None else onto.info)

        def work() -> Canonical:
            for label in set(body.labels):
                check_label(label)
            pixels = decode_images(
                body.support, manifest.input, name="support", max_pixels=self._max_pixels, deadline=call.deadline
            )
            return canonicalise(body.labels, pixels) if onto is None else union(onto, body.labels, pixels)

        begun = time.perf_counter()
        canonical = await self._decoder.run(work)
        call.spent("decode", time.perf_counter() - begun)
        return canonical

    async def _decode_queries(self, call: Call, manifest: Manifest, body: Body) -> NDArray[np.uint8]:
        check_queries(body.queries, manifest.limits)
        begun = time.perf_counter()
        pixels = await self._decoder.run(
            decode_images,
            body.queries,
            manifest.input,
            name="queries",
            max_pixels=self._max_pixels,
            deadline=call.deadline,
        )
        call.spent("decode", time.perf_counter() - begun)
        return pixels

    async def _submit(self, call: Call, request: AdaptRequest | ClassifyRequest) -> Outcome:
        outcome = await self._engines.submit(request)
        if isinstance(outcome, Failed):
            raise refusal(outcome)
        timings = getattr(outcome, "timings", None)
        if isinstance(timings, Timings):
            for phase, milliseconds in (
                ("queue", timings.queue_ms),
                ("adapt", timings.adapt_ms),
                ("predict", timings.predict_ms),
            ):
                call.spent(phase, milliseconds / 1e3)
        return outcome


def _support_of(record: SessionRecord) -> Support:
    return Support(record.support, record.targets, len(record.info.labels))


def _adapt_request(record: SessionRecord, deadline: float) -> AdaptRequest:
    return AdaptRequest(record.info.model_digest, record.info.id, _support_of(record), deadline)


def _classification(info: SessionInfo, manifest: Manifest, outcome: Classified) -> Classification:
    threshold = manifest.calibration.unknown_threshold
    best = outcome.probabilities.argmax(axis=1)
    predictions = [
        Prediction(int(i), row, unknown=threshold is not None and float(row[i]) < threshold)
        for i, row in zip(best, outcome.probabilities, strict=True)
    ]
    return Classification(info, predictions, outcome.cache, outcome.timings.batch_size)
