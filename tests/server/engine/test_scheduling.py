"""Which requests the scheduler computes together, and when, seen through an engine whose learner waits at a gate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kshot_models.costs import measure_costs
from kshot_server.engine.engine import Engine
from kshot_server.engine.executors.cuda import CudaExecutor
from kshot_server.engine.requests import Adapted, Classified, NeedsSupport

from .scheduled import Hold, MakeTask, batch_sizes, one_lane


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


def test_what_is_submitted_together_is_one_batch_on_an_idle_engine(gated: Any, make_task: MakeTask) -> None:
    gated.learner.gate.set()
    with Engine(gated, executor=one_lane(), max_wait_ms=0) as engine:
        engine.submit(make_task(1000, size=4).adapt(gated.digest)).result(20)  # what it costs is known from now on
        tasks = [make_task(i, size=4) for i in range(8)]
        with engine.together():
            futures = [engine.submit(task.adapt(gated.digest)) for task in tasks]
            with engine.together():
                futures.append(engine.submit(tasks[0].classify(gated.digest)))
            assert not any(future.done() for future in futures)
        assert all(isinstance(future.result(20), Adapted | Classified) for future in futures)
        assert batch_sizes(engine, "adapt") == [1, 8]


def test_who_is_answered_may_submit_before_it_returns(gated: Any, make_task: MakeTask) -> None:
    gated.learner.gate.set()
    task, found = make_task(0, size=4), list[Any]()
    with Engine(gated, executor=one_lane()) as engine:
        done = threading.Event()

        def go_on(_: Any) -> None:
            found.append(engine.submit(task.classify(gated.digest)))
            done.set()

        engine.submit(task.adapt(gated.digest)).add_done_callback(go_on)
        assert done.wait(20)
        assert isinstance(found[0].result(20), Classified)


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
