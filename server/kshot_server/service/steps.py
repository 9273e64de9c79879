"""The steps that the service's flows share: find the model, decode images, have an engine work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kshot_models.manifest import Manifest
from kshot_server.bodies.base import Body
from kshot_server.decoding import Decoder, Images, decode_images
from kshot_server.engine.repository import ModelEntry, ModelNotFound, ModelRepository
from kshot_server.engine.requests import Adapted, AdaptRequest, Classified, ClassifyRequest, Failed, Outcome
from kshot_server.service.context import RequestContext
from kshot_server.service.refusals import (
    check_query_count,
    check_support_counts,
    no_model,
    refusal,
    version_gone,
)
from kshot_server.sessions.identity import Canonical, canonicalise, union
from kshot_server.sessions.labels import check_label
from kshot_server.sessions.record import SessionInfo, SessionRecord

__all__ = ["Engines", "Steps"]

T = TypeVar("T")


class Engines(Protocol):
    """What works on requests: the fleet of a server, or the one engine of local mode."""

    async def submit(self, request: AdaptRequest | ClassifyRequest) -> Outcome:
        """Have a request worked on; may raise `Fault`."""
        ...


class Steps:
    """One step each; the order is the service's.

    Args:
        models: what is served.
        engines: what computes.
        decoder: threads for bodies and images.
        max_pixels: most pixels of one image.
    """

    def __init__(self, *, models: ModelRepository, engines: Engines, decoder: Decoder, max_pixels: int) -> None:
        self._models = models
        self._engines = engines
        self._decoder = decoder
        self._max_pixels = max_pixels

    def find_model(self, reference: str) -> ModelEntry:
        """The model of `name` or `name@version`.

        Raises:
            InputError: `model_not_found`.
        """
        try:
            return self._models.find(reference)
        except ModelNotFound:
            raise no_model() from None

    def model_of(self, info: SessionInfo) -> ModelEntry:
        """The model version that a session was adapted from.

        Raises:
            InputError: `model_not_found`: it is not served any more.
        """
        try:
            return self._models.at(info.model_digest)
        except ModelNotFound:
            raise version_gone(info) from None

    async def decode_support(
        self, context: RequestContext, manifest: Manifest, body: Body, onto: SessionRecord | None = None
    ) -> Canonical:
        """Count, check labels, decode, and bring into canonical order.

        Args:
            context: of the request.
            manifest: of the model.
            body: what was sent.
            onto: the session that the examples are added to, if they are.

        Raises:
            InputError: too much or too little, a label or an image that cannot be used.
        """
        check_support_counts(body, manifest.limits, None if onto is None else onto.info)
        return await self._decode(context, self._support_of(context, manifest, body, onto), body.support)

    async def decode_queries(self, context: RequestContext, manifest: Manifest, body: Body) -> NDArray[np.uint8]:
        """Count and decode.

        Returns:
            uint8 (q, height, width, channels).

        Raises:
            InputError: too many, or an image that cannot be used.
        """
        check_query_count(body.queries, manifest.limits)
        return await self._decode(context, self._queries_of(context, manifest, body), body.queries)

    async def decode_both(
        self, context: RequestContext, manifest: Manifest, body: Body
    ) -> tuple[Canonical, NDArray[np.uint8]]:
        """`decode_support` and `decode_queries`, in one go."""
        check_support_counts(body, manifest.limits, None)
        check_query_count(body.queries, manifest.limits)
        support, queries = self._support_of(context, manifest, body), self._queries_of(context, manifest, body)
        return await self._decode(context, lambda: (support(), queries()), body.support, body.queries)

    def _support_of(
        self, context: RequestContext, manifest: Manifest, body: Body, onto: SessionRecord | None = None
    ) -> Callable[[], Canonical]:
        def work() -> Canonical:
            for label in set(body.labels):
                check_label(label)
            pixels = decode_images(
                body.support, manifest.input, name="support", max_pixels=self._max_pixels, deadline=context.deadline
            )
            return canonicalise(body.labels, pixels) if onto is None else union(onto, body.labels, pixels)

        return work

    def _queries_of(self, context: RequestContext, manifest: Manifest, body: Body) -> Callable[[], NDArray[np.uint8]]:
        return partial(
            decode_images,
            body.queries,
            manifest.input,
            name="queries",
            max_pixels=self._max_pixels,
            deadline=context.deadline,
        )

    async def _decode(self, context: RequestContext, work: Callable[[], T], *images: Images) -> T:
        begun = time.perf_counter()
        done = await self._decoder.decode(work, *images)
        context.spent("decode", time.perf_counter() - begun)
        return done

    async def submit(self, context: RequestContext, request: AdaptRequest | ClassifyRequest) -> Outcome:
        """Have an engine work on a request.

        Raises:
            InputError: the engine refused it for what was sent.
            Fault: no engine could do it.
        """
        outcome = await self._engines.submit(request)
        if isinstance(outcome, Failed):
            raise refusal(outcome)
        if isinstance(outcome, Adapted | Classified):
            timings = outcome.timings
            context.spent("queue", timings.queue_ms / 1e3)
            context.spent("adapt", timings.adapt_ms / 1e3)
            context.spent("predict", timings.predict_ms / 1e3)
        return outcome
