"""What the scheduler does with requests, seen through an engine whose learner waits at a gate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kshot_models.costs import measure_costs
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.base import AdaptedWeights, Place, Queries, ServedModel
from kshot_server.engine.executors.cpu import CpuExecutor
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.requests import Adapted, Classified, Failed, NeedsSupport, Outcome, Support

MakeTask = Callable[..., Any]
Hold = Callable[..., Any]


def one_lane(flops: float = 1e9) -> CpuExecutor:
    executor = CpuExecutor(threads=1)
    executor.batch_flops = flops
    return executor


def codes(outcomes: list[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes if isinstance(outcome, Failed)]


def batch_sizes(engine: Engine, op: str) -> list[int]:
    return sorted(size for size, count in engine.stats()["batches"][op].items() for _ in range(count))


@pytest.mark.parametrize("executor", [one_lane, lambda: CudaExecutor("cpu")], ids=["cpu", "vmap"])
def test_sessions_that_wait_ride_in_one_batch(hold: Hold, make_task: MakeTask, executor: Callable[[], Any]) -> None:
    bench = hold(executor=executor(), max_wait_ms=0)
    tasks = [make_task(i, size=4) for i in range(8)]
    futures = [bench.engine.submit(task.classify(bench.models.digest, with_support=True)) for task in tasks]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    assert all(isinstance(outcome, Classified) for outcome in outcomes)
    assert batch_sizes(bench.engine, "adapt") == [1, 8]
    assert batch_sizes(bench.engine, "predict") == [8]
    assert {outcome.timings.batch_size for outcome in outcomes if isinstance(outcome, Classified)} == {8}


def test_batches_are_split_by_cost(gated: Any, hold: Hold, make_task: MakeTask) -> None:
    example = measure_costs(gated.load(gated.digest, device="cpu"), "cpu").adapt
    bench = hold(executor=one_lane(flops=10 * example))
    shapes = [(5, 1), (5, 1), (2, 1), (2, 4), (2, 10), (2, 1)]  # 5, 5 | 2, 8 | 20 | 2 examples
    tasks = [make_task(i, way=way, shot=shot, size=4) for i, (way, shot) in enumerate(shapes)]
    futures = [bench.engine.submit(task.adapt(bench.models.digest)) for task in tasks]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    sizes = [outcome.timings.batch_size for outcome in outcomes if isinstance(outcome, Adapted)]
    assert sizes == [2, 2, 2, 2, 1, 1]


def test_a_hundred_adaptations_of_one_session_are_computed_once(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    task = make_task(0, size=4)
    futures = [bench.engine.submit(task.adapt(bench.models.digest)) for _ in range(100)]
    bench.release()
    outcomes = [future.result(20) for future in futures]
    assert [outcome.timings.batch_size for outcome in outcomes if isinstance(outcome, Adapted)] == [1] * 100
    assert bench.models.learner.adapted == 1
    assert bench.engine.stats()["joined"] == 99


def test_a_classification_waits_for_the_adaptation_of_its_session(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    running = make_task(1000, size=4)  # the one that holds the lane
    queued = make_task(0, size=4)
    adapting = bench.engine.submit(queued.adapt(bench.models.digest))
    waiting = [
        bench.engine.submit(task.classify(bench.models.digest, with_support=with_support))
        for task in (running, queued)
        for with_support in (False, True)
    ]
    assert not any(future.done() for future in waiting)
    bench.release()
    outcomes = [future.result(20) for future in waiting]
    assert [outcome.cache for outcome in outcomes if isinstance(outcome, Classified)] == ["recomputed"] * 4
    assert isinstance(adapting.result(20), Adapted)
    assert bench.models.learner.adapted == 1
    stranger = bench.engine.submit(make_task(7, size=4).classify(bench.models.digest))
    assert stranger.result(20) == NeedsSupport()


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


def test_work_whose_deadline_passed_is_dropped(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    digest = bench.models.digest
    soon = time.time() + 0.05
    late = [bench.engine.submit(make_task(i, size=4).adapt(digest, deadline=soon)) for i in range(3)]
    mixed = make_task(5, size=4)
    first, second = (bench.engine.submit(mixed.adapt(digest, deadline=when)) for when in (soon, soon + 60))
    time.sleep(0.1)
    bench.release()
    assert codes([future.result(20) for future in [*late, first]]) == ["deadline_exceeded"] * 4
    assert isinstance(second.result(20), Adapted)
    assert bench.models.learner.adapted == 1
    # A session whose adaptation was dropped can begin anew.
    again = bench.engine.submit(make_task(0, size=4).adapt(digest, deadline=time.time() + 60))
    assert isinstance(again.result(20), Adapted)


def test_work_that_nobody_waits_for_is_dropped(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    tasks = [make_task(i, size=4) for i in range(3)]
    futures = [bench.engine.submit(task.classify(bench.models.digest, with_support=True)) for task in tasks]
    assert futures[1].cancel()
    bench.release()
    assert isinstance(futures[0].result(20), Classified)
    assert isinstance(futures[2].result(20), Classified)
    assert bench.models.learner.adapted == 2
    assert bench.engine.stats()["outcomes"]["cancelled"] == 1
    assert bench.engine.stats()["pending"] == 0


def test_a_cancelled_request_whose_work_has_begun_harms_nobody(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    assert bench.first.cancel()
    bench.release()
    assert isinstance(bench.engine.submit(make_task(1000, size=4).classify(bench.models.digest)).result(20), Classified)


def test_a_full_engine_refuses_at_once_and_keeps_what_it_took(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane(), max_pending=5)
    digest = bench.models.digest
    taken = [bench.engine.submit(make_task(i, size=4).adapt(digest)) for i in range(4)]
    started = time.perf_counter()
    refused = [bench.engine.submit(make_task(i, size=4).adapt(digest)) for i in range(4, 24)]
    assert time.perf_counter() - started < 20 * 0.01
    assert all(future.done() for future in refused)
    assert codes([future.result() for future in refused]) == ["overloaded"] * 20
    assert not any(future.done() for future in taken)
    bench.release()
    assert all(isinstance(future.result(20), Adapted) for future in taken)
    assert isinstance(bench.engine.submit(make_task(4, size=4).adapt(digest)).result(20), Adapted)


def test_close_finishes_what_runs_and_refuses_the_rest(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    digest = bench.models.digest
    follows = bench.engine.submit(make_task(1000, size=4).classify(digest))  # of the adaptation that runs
    waits = [bench.engine.submit(make_task(i, size=4).adapt(digest)) for i in range(3)]
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    assert codes([future.result(20) for future in waits]) == ["draining"] * 3
    assert closing.is_alive()
    assert not follows.done()
    bench.release()
    closing.join(20)
    assert isinstance(bench.first.result(0), Adapted)
    assert isinstance(follows.result(0), Classified)


def test_close_refuses_queries_that_wait(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane())
    digest, learner = bench.models.digest, bench.models.learner
    known, other = make_task(0, size=4), make_task(1, size=4)
    bench.release()
    assert isinstance(bench.engine.submit(known.adapt(digest)).result(20), Adapted)
    learner.gate.clear()
    running = bench.engine.submit(other.adapt(digest))
    while learner.adapted < 2:
        time.sleep(0.001)
    waits = bench.engine.submit(known.classify(digest))
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    assert codes([waits.result(20)]) == ["draining"]
    bench.release()
    closing.join(20)
    assert isinstance(running.result(0), Adapted)


def test_an_idle_engine_starts_at_once_and_a_busy_one_waits_for_company(gated: Any, make_task: MakeTask) -> None:
    with Engine(gated, executor=CudaExecutor("cpu"), max_wait_ms=60_000) as engine:
        assert engine.warm_up() == {}
        alone = engine.submit(make_task(0, size=4).classify(gated.digest, with_support=True))
        # Its adaptation starts at once, and its prediction, on an engine that is idle again, too.
        assert isinstance(alone.result(20), Classified)


def test_company_is_waited_for_no_longer_than_allowed(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=CudaExecutor("cpu"), max_wait_ms=1000)
    first = bench.engine.submit(make_task(0, size=4).adapt(bench.models.digest))
    bench.release()
    bench.first.result(20)
    second = bench.engine.submit(make_task(1, size=4).adapt(bench.models.digest))
    assert isinstance(first.result(20), Adapted)
    assert isinstance(second.result(20), Adapted)
    assert batch_sizes(bench.engine, "adapt") == [1, 2]


def test_weights_too_large_for_the_cache_still_answer_their_own_request(hold: Hold, make_task: MakeTask) -> None:
    bench = hold(executor=one_lane(), cache_bytes=0)
    bench.release()
    task = make_task(0, size=4)
    for _ in range(2):
        outcome = bench.engine.submit(task.classify(bench.models.digest, with_support=True)).result(20)
        assert isinstance(outcome, Classified)
        assert outcome.cache == "recomputed"
    assert bench.models.learner.adapted == 2
    assert bench.engine.submit(task.classify(bench.models.digest)).result(20) == NeedsSupport()


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
    executor.batch_flops = 1e9
    bench = hold(executor=executor)
    futures = [bench.engine.submit(make_task(i, size=4).adapt(bench.models.digest)) for i in range(10)]
    bench.release()
    assert all(isinstance(future.result(20), Adapted) for future in futures)
    assert batch_sizes(bench.engine, "adapt") == [1, 10]


def test_models_do_not_share_a_batch_or_a_session(models: Any, make_task: MakeTask) -> None:
    task = make_task(0)
    with Engine(models, executor=one_lane()) as engine:
        digests = [models.find(name).digest for name in ("gradient", "prototype")]
        futures = [engine.submit(task.classify(digest, with_support=True)) for digest in digests]
        one, other = (future.result(30) for future in futures)
        assert isinstance(one, Classified)
        assert isinstance(other, Classified)
        assert np.abs(one.probabilities - other.probabilities).max() > 1e-2
        assert engine.stats()["cache"]["entries"] == 2
