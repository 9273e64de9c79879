"""What the tests of the scheduler share: executors, and what outcomes and counts say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import BatchLimit
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.requests import Failed, Outcome

MakeTask = Callable[..., Any]
Hold = Callable[..., Any]


def one_lane(flops: float = 1e9) -> CpuExecutor:
    executor = CpuExecutor(threads=1)
    executor.adapting = executor.predicting = BatchLimit(flops)
    return executor


def codes(outcomes: list[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes if isinstance(outcome, Failed)]


def batch_sizes(engine: Engine, op: str) -> list[int]:
    return sorted(size for size, count in engine.stats()["batches"][op].items() for _ in range(count))
