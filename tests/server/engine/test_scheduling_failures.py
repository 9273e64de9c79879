"""What fails in a batch, or in the scheduler itself, is the failure of whom it concerns and of nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import AdaptedWeights, BatchLimit, Place, Queries, ServedModel
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.requests import Adapted, Classified, Failed, NeedsSupport, Support

from .scheduled import Hold, MakeTask, batch_sizes, codes, one_lane


@pytest.mark.parametrize(("mark", "code"), [(255, "internal_error"), (254, "adaptation_diverged")])
def test_one_bad_item_of_32_fails_alone(
    hold: Hold, make_task: MakeTask, caplog: pytest.LogCaptureFixture, mark: int, code: str
) -> None:
    bench = hold(executor=one_lane())
    bench.models.learner.fragile = True
    tasks = [make_task(i, size=4) for i in range(32)]
    for i, task in enumerate(tasks):
        task.support.inputs[0, 0, 0, 0] = mark if i == 17 else 0
    futures = [bench.engine.submit(task.classify(bench.models.digest, with_support=True)) for task in tasks]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    assert [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Classified)] == [17]
    assert codes(outcomes) == [code]
    assert batch_sizes(bench.engine, "adapt") == [1, 32]
    # Nothing of it was kept, and it can be tried again.
    assert bench.engine.stats()["cache"]["entries"] == 32
    assert bench.engine.submit(tasks[17].classify(bench.models.digest)).result(20) == NeedsSupport()


def test_a_divergence_in_a_vmapped_batch_is_that_sessions_alone(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=CudaExecutor("cpu"), max_wait_ms=0)
    tasks = [make_task(i, size=4) for i in range(32)]
    for i, task in enumerate(tasks):
        task.support.inputs[0, 0, 0, 0] = 254 if i == 17 else 0
    futures = [bench.engine.submit(task.adapt(bench.models.digest)) for task in tasks]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    assert [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Adapted)] == [17]
    assert codes(outcomes) == ["adaptation_diverged"]
    assert batch_sizes(bench.engine, "adapt") == [1, 32]


@pytest.mark.parametrize("executor", [one_lane, lambda: CudaExecutor("cpu")], ids=["cpu", "vmap"])
def test_queries_without_a_finite_answer_fail_alone(
    hold: Hold, make_task: MakeTask, executor: Callable[[], Any]
) -> None:
    bench = hold(executor=executor(), max_wait_ms=0)
    tasks = [make_task(i, size=4) for i in range(8)]
    for i, task in enumerate(tasks):
        task.queries[0, 0, 0, 0] = 254 if i == 3 else 0
    futures = [bench.engine.submit(task.classify(bench.models.digest, with_support=True)) for task in tasks]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    assert [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Classified)] == [3]
    assert codes(outcomes) == ["adaptation_diverged"]
    assert batch_sizes(bench.engine, "predict") == [8]


class Clumsy(CpuExecutor):
    """Stumbles where the scheduler itself asks it something, or where it should begin."""

    stumble_at = ""

    def place_support(self, support: Support, limits: Any) -> Place:
        if self.stumble_at == "support":
            raise ValueError("no place")
        return super().place_support(support, limits)

    def place_queries(self, queries: Queries, limits: Any) -> Place:
        if self.stumble_at == "queries":
            raise ValueError("no place")
        return super().place_queries(queries, limits)


@pytest.mark.parametrize("where", ["support", "queries"])
def test_no_failure_stops_the_scheduler(
    gated: Any, make_task: MakeTask, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    executor = Clumsy(threads=1)
    task = make_task(0, size=4)
    with Engine(gated, executor=executor) as engine:
        executor.stumble_at = where
        for _ in range(2):
            outcome = engine.submit(task.classify(gated.digest, with_support=True)).result(20)
            assert codes([outcome]) == ["internal_error"]
        executor.stumble_at = ""
        assert isinstance(engine.submit(task.classify(gated.digest, with_support=True)).result(20), Classified)
        assert engine.stats()["pending"] == 0


def test_who_was_answered_before_a_failure_keeps_the_answer(
    gated: Any, hold: Hold, make_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Clumsy(threads=1)
    bench = hold(executor=executor)
    executor.stumble_at = "queries"
    classify = bench.engine.submit(make_task(1000, size=4).classify(gated.digest))
    bench.release()
    assert isinstance(bench.first.result(20), Adapted)
    assert codes([classify.result(20)]) == ["internal_error"]
    assert bench.engine.stats()["pending"] == 0


def test_a_machine_without_threads_to_give_fails_the_request_and_no_more(
    gated: Any, make_task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(gated, executor=one_lane())
    engine._lanes.shutdown()  # from here on it raises as it does when no thread can be started
    outcome = engine.submit(make_task(0, size=4).adapt(gated.digest)).result(20)
    assert codes([outcome]) == ["internal_error"]
    engine.close()


class Cramped(CpuExecutor):
    """Has memory for three tasks."""

    def adapt(self, model: ServedModel, supports: Any) -> list[AdaptedWeights | Failed]:
        if len(supports) > 3:
            raise MemoryError
        return super().adapt(model, supports)


def test_a_batch_too_large_for_the_memory_is_split(hold: Hold, make_task: MakeTask) -> None:
    executor = Cramped(threads=1)
    executor.adapting = BatchLimit(1e9)
    bench = hold(executor=executor)
    futures = [bench.engine.submit(make_task(i, size=4).adapt(bench.models.digest)) for i in range(10)]
    bench.release()
    assert all(isinstance(future.result(20), Adapted) for future in futures)
    assert batch_sizes(bench.engine, "adapt") == [1, 10]
