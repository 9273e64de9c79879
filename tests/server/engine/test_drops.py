"""What the scheduler does not compute: what is late, what nobody waits for, what is too much, what comes at the end."""

from __future__ import annotations

import threading
import time

from kshot_server.engine.requests import Adapted, Classified

from .scheduled import Hold, MakeTask, codes, one_lane


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
