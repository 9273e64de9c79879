from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kshot_server.engine.cache import WeightCache

CAPACITY = 10


@dataclass(frozen=True)
class Blob:
    size_bytes: int
    mark: int = 0


class CacheMachine(RuleBasedStateMachine):
    """The cache against a plain dict in order of use."""

    keys = st.tuples(st.sampled_from("ab"), st.sampled_from("stuv"))

    def __init__(self) -> None:
        super().__init__()
        self.cache: WeightCache[Blob] = WeightCache(CAPACITY)
        self.model: dict[tuple[str, str], Blob] = {}
        self.hits = self.misses = self.evictions = self.marks = 0

    @rule(key=keys, size=st.integers(0, CAPACITY + 2))
    def put(self, key: tuple[str, str], size: int) -> None:
        self.marks += 1
        blob = Blob(size, self.marks)
        self.cache.put(*key, blob)
        self.model.pop(key, None)
        if size <= CAPACITY:
            self.model[key] = blob
        while sum(kept.size_bytes for kept in self.model.values()) > CAPACITY:
            del self.model[next(iter(self.model))]
            self.evictions += 1

    @rule(key=keys)
    def get(self, key: tuple[str, str]) -> None:
        expected = self.model.pop(key, None)
        assert self.cache.get(*key) is expected
        if expected is None:
            self.misses += 1
        else:
            self.model[key] = expected
            self.hits += 1

    @invariant()
    def counts_agree(self) -> None:
        stats = self.cache.stats()
        assert stats.bytes == sum(kept.size_bytes for kept in self.model.values()) <= CAPACITY
        assert (stats.entries, stats.hits, stats.misses) == (len(self.model), self.hits, self.misses)
        assert (stats.evictions, stats.capacity_bytes) == (self.evictions, CAPACITY)


CacheMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
TestCache = CacheMachine.TestCase


def test_a_session_id_under_another_model_is_another_entry() -> None:
    cache: WeightCache[Blob] = WeightCache(CAPACITY)
    cache.put("one", "s", Blob(1, mark=1))
    assert cache.get("other", "s") is None
    cache.put("other", "s", Blob(1, mark=2))
    assert cache.get("one", "s") == Blob(1, mark=1)
