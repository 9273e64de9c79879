from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kshot_server.engine.backlog import Backlog
from kshot_server.engine.executors.base import BatchLimit, Place
from kshot_server.engine.work import Adaptation, Work


class Tag:
    """Stands where a ticket would: all that the backlog reads is when it arrived."""

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived


def work(name: str, *, arrived: float = 0.0, ripe_at: float = 0.0, model: str = "m", examples: int = 1) -> Adaptation:
    tags: list[Any] = [Tag(arrived)]
    support: Any = np.zeros(0)
    return Adaptation(model, name, support, Place("bucket", examples), ripe_at, tags)


def backlog(
    flops: float = 10.0,
    *,
    lanes: int = 1,
    example: float = 1.0,
    share: float = 1.0,
    dropped: tuple[str, ...] = (),
) -> Backlog:
    def keep(piece: Work) -> bool:
        return not (isinstance(piece, Adaptation) and piece.session in dropped)

    limits = {"adapt": BatchLimit(flops, share), "predict": BatchLimit(1.0)}
    return Backlog(limits=limits, lanes=lanes, example_flops=lambda op, model: example, keep=keep)


def names(works: list[Work]) -> list[str]:
    return [piece.session for piece in works if isinstance(piece, Adaptation)]


def test_a_batch_is_limited_by_cost_not_count() -> None:
    waiting = backlog(10.0)
    for i, examples in enumerate([4, 4, 4, 1, 1, 20, 1]):
        waiting.add(work(str(i), examples=examples))
    batches = [names(waiting.take(0.0)) for _ in range(4)]
    assert batches == [["0", "1"], ["2", "3", "4"], ["5"], ["6"]]
    assert waiting.take(0.0) == []
    assert len(waiting) == 0


def test_lanes_share_what_waits() -> None:
    waiting = backlog(100.0, lanes=2)
    for i in range(6):
        waiting.add(work(str(i)))
    assert names(waiting.take(0.0)) == ["0", "1", "2"]


def test_a_lane_may_take_less_than_its_share() -> None:
    waiting = backlog(4.0, lanes=2, share=0.5)
    for i in range(20):
        waiting.add(work(str(i)))
    batches = []
    while len(waiting):
        batches.append(len(waiting.take(0.0)))
    assert batches == [4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def test_what_is_not_ripe_waits_unless_its_bucket_is_full() -> None:
    waiting = backlog(3.0)
    assert waiting.ripe_at() == math.inf
    waiting.add(work("a", ripe_at=5.0))
    waiting.add(work("b", ripe_at=6.0))
    assert waiting.ripe_at() == 5.0
    assert waiting.take(4.9) == []
    waiting.add(work("c", ripe_at=7.0))
    assert waiting.ripe_at() == 0.0
    assert names(waiting.take(4.9)) == ["a", "b", "c"]


def test_the_bucket_of_the_oldest_goes_first_and_models_never_mix() -> None:
    waiting = backlog()
    for name, arrived, model in (("x1", 2.0, "x"), ("y1", 1.0, "y"), ("x2", 3.0, "x"), ("y2", 4.0, "y")):
        waiting.add(work(name, arrived=arrived, model=model))
    assert [names(waiting.take(9.0)), names(waiting.take(9.0))] == [["y1", "y2"], ["x1", "x2"]]


def test_a_model_of_unknown_cost_rides_alone() -> None:
    waiting = backlog(example=math.inf)
    for name in "ab":
        waiting.add(work(name))
    assert [names(waiting.take(0.0)), names(waiting.take(0.0))] == [["a"], ["b"]]


@pytest.mark.parametrize("dropped", [("a",), ("a", "b"), ("b", "c"), ("a", "b", "c")])
def test_what_is_not_kept_costs_nothing(dropped: tuple[str, ...]) -> None:
    waiting = backlog(2.0, dropped=dropped)
    for name in "abc":
        waiting.add(work(name))
    kept = []
    while batch := waiting.take(0.0):
        kept += names(batch)
    assert kept == [name for name in "abc" if name not in dropped]
    assert len(waiting) == 0


def test_drain_takes_all() -> None:
    waiting = backlog()
    for i in range(3):
        waiting.add(work(str(i), ripe_at=math.inf, model=f"m{i}"))
    assert len(waiting.drain()) == 3
    assert len(waiting) == 0
    assert waiting.ripe_at() == math.inf
