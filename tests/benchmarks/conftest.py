"""What the benchmarks' tests share: a work item that takes milliseconds. No test here looks at a time."""

from __future__ import annotations

import pytest
import torch

from kshot_bench.work import Work


@pytest.fixture
def tiny() -> Work:
    return Work(way=3, shot=2, steps=2, queries=4, size=16, input_channels=3, channels=(4, 6), rate=0.2)


@pytest.fixture(params=["conv4", "resnet12"])
def either(request: pytest.FixtureRequest, tiny: Work) -> Work:
    """The same with each network."""
    return tiny.model_copy(update={"network": request.param})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
