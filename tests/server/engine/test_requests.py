from __future__ import annotations

import pickle

import numpy as np

from kshot_server.engine.requests import (
    Adapted,
    AdaptRequest,
    Classified,
    ClassifyRequest,
    Failed,
    NeedsSupport,
    Support,
    Timings,
)


def test_requests_and_outcomes_cross_a_process_border() -> None:
    support = Support(np.zeros((2, 3, 3, 1), np.uint8), np.arange(2), 2)
    adapt = pickle.loads(pickle.dumps(AdaptRequest("m", "s", support, 1.5)))
    assert (adapt.model, adapt.session, adapt.deadline) == ("m", "s", 1.5)
    np.testing.assert_array_equal(adapt.support.targets, support.targets)
    assert pickle.loads(pickle.dumps(ClassifyRequest("m", "s", support.inputs, None, 1.5))).support is None
    timings = Timings(1.0, 2.0, 3.0, 4)
    for outcome in (Adapted(timings), NeedsSupport(), Failed("overloaded", "full", expected=3)):
        assert pickle.loads(pickle.dumps(outcome)) == outcome
    classified = pickle.loads(pickle.dumps(Classified(np.ones((1, 2), np.float32), timings, "device")))
    assert (classified.timings, classified.cache) == (timings, "device")
