"""The work that waits, in buckets, and the rule by which the next batch is made of it. No threads, no clock.

bucket  (op, model, the executor's bucket)       what can be one batch
ripe    full, or its oldest has waited enough    what may be taken
batch   from the bucket of the oldest, until the cost of a batch is reached or the lanes have their share
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from kshot_server.engine.executors.base import BatchLimit
from kshot_server.engine.work import Work, bucket_of

__all__ = ["Backlog"]


@dataclass
class _Bucket:
    works: deque[Work] = field(default_factory=deque)
    examples: int = 0

    def pop(self) -> Work:
        work = self.works.popleft()
        self.examples -= work.place.examples
        return work


class Backlog:
    """Owned by one thread.

    Args:
        limits: of a batch, by op.
        lanes: how many batches can run at once.
        example_flops: what one example costs, by op and model digest; infinite while that is not known.
        keep: asked when a batch is formed; work that it answers False for is left out, and is the caller's again.
    """

    def __init__(
        self,
        *,
        limits: Mapping[str, BatchLimit],
        lanes: int,
        example_flops: Callable[[str, str], float],
        keep: Callable[[Work], bool],
    ) -> None:
        self._keep = keep
        self._limits = limits
        self._lanes = lanes
        self._example_flops = example_flops
        self._buckets: dict[Hashable, _Bucket] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, work: Work) -> None:
        """Let `work` wait."""
        bucket = self._buckets.setdefault(bucket_of(work), _Bucket())
        bucket.works.append(work)
        bucket.examples += work.place.examples
        self._size += 1

    def ripe_at(self) -> float:
        """When the next bucket will be ripe, monotonic seconds: 0 if one is full, infinite if nothing waits."""
        return min((self._ripe_at(bucket) for bucket in self._buckets.values()), default=float("inf"))

    def take(self, now: float) -> list[Work]:
        """The next batch: work of one bucket, oldest first. Empty if none is ripe."""
        while ripe := [(key, bucket) for key, bucket in self._buckets.items() if self._ripe_at(bucket) <= now]:
            key, bucket = min(ripe, key=lambda item: _age_key(item[1]))
            batch = self._fill(bucket)
            if not bucket.works:
                del self._buckets[key]
            if batch:
                return batch
        return []

    def drain(self) -> list[Work]:
        """All that waits; none of it waits any longer."""
        works = [work for bucket in self._buckets.values() for work in bucket.works]
        self._buckets.clear()
        self._size = 0
        return works

    def _fill(self, bucket: _Bucket) -> list[Work]:
        head = bucket.works[0]
        flops = self._example_flops(head.op, head.model)
        # A lane that takes everything would leave the others idle; each takes its share of what waits.
        of_batch = self._limits[head.op]
        limit = min(of_batch.flops, of_batch.share * flops * bucket.examples / self._lanes)
        batch: list[Work] = []
        spent = 0.0
        while bucket.works:
            cost = flops * bucket.works[0].place.examples
            if batch and spent + cost > limit:
                break
            work = bucket.pop()
            self._size -= 1
            if self._keep(work):
                batch.append(work)
                spent += cost
        return batch

    def _ripe_at(self, bucket: _Bucket) -> float:
        head = bucket.works[0]
        full = self._example_flops(head.op, head.model) * bucket.examples >= self._limits[head.op].flops
        return 0.0 if full else head.ripe_at


def _age_key(bucket: _Bucket) -> float:
    return min(ticket.arrived for ticket in bucket.works[0].tickets)
