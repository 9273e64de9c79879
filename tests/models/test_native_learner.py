"""Learners by kernels alone: what torch says of the same artifact, and no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kshot_models.load import meta_to_arrays, normalise
from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.native_learner import NativeLearner
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Examples, MetaParams

from ..without_torch import run_without_torch
from .conftest import LEARNERS, NETWORKS

INPUT = InputSpec(height=12, width=12, channels=3, mean=(0.4, 0.5, 0.6), std=(0.3, 0.5, 0.7))
LINEAR = {**LEARNERS["shared-sgd"], "head": {"type": "linear", "way": 4}}
SCALED = {**LEARNERS["prototype"], "head": {"type": "prototype", "learned_scale": True}}
COVERED: list[tuple[dict[str, Any], str]] = [
    (LEARNERS["shared-sgd"], "support"),
    (LEARNERS["proto-sgd"], "support"),
    (LEARNERS["proto-lslr"], "support"),
    (LEARNERS["shared-meta-sgd"], "support"),
    (LEARNERS["boil"], "support"),
    (LINEAR, "support"),
    (LEARNERS["prototype"], "support"),
    (LEARNERS["prototype"], "population"),
    (SCALED, "population"),
]
SHAPES = {name: NETWORKS[name] for name in ("max_pool", "stride")} | {"mean": {**NETWORKS["stride"], "readout": "mean"}}


def made(spec: dict[str, Any], norm: str, network: dict[str, Any]) -> tuple[LearnerSpec, Any, MetaParams]:
    """A learner of random weights, of which none is a 0 or a 1."""
    full = LearnerSpec.model_validate({**spec, "norm": norm, "network": network})
    learner = build_learner(full, INPUT)
    generator = torch.Generator().manual_seed(3)

    def shaken(tensor: torch.Tensor) -> torch.Tensor:
        by, more = (torch.rand(tensor.shape, generator=generator) for _ in range(2))
        return tensor * (1 + 0.2 * by) + 0.01 * more

    return full, learner, meta_map(shaken, learner.init(generator))


def arrays_of(meta: MetaParams) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in meta_to_arrays(meta).items()}


def drawn(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("spec", "norm"), COVERED)
def test_answers_are_those_of_double_precision(spec: dict[str, Any], norm: str, shape: str) -> None:
    full, learner, meta = made(spec, norm, SHAPES[shape])
    native = NativeLearner.of(full, INPUT, arrays_of(meta))
    assert native is not None
    exact = meta_map(torch.Tensor.double, meta)
    tasks, asked, expected = [], [], []
    for number, targets in enumerate([[0, 1, 2, 3], [2, 0, 1, 1, 3, 0], [0, 1, 2, 2]]):  # the last has no fourth class
        support, queries = drawn(len(targets), number), drawn(3 + number, 10 + number)
        tasks.append(native.adapt(support, np.array(targets), way=4))
        asked.append(queries)
        inputs = normalise(torch.from_numpy(support), INPUT, dtype=torch.float64)
        examples = Examples(inputs, torch.tensor(targets), torch.ones(len(targets), dtype=torch.float64))
        task = learner.adapt(exact, examples, way=4)
        logits = learner.predict(exact, task, normalise(torch.from_numpy(queries), INPUT, dtype=torch.float64))
        expected.append(logits.softmax(-1).numpy())
    found = native.predict(tasks, np.concatenate(asked), [len(each) for each in asked])
    for one, task, logits, exactly in zip(asked, tasks, found, expected, strict=True):
        chances = torch.from_numpy(logits).softmax(-1).numpy()
        np.testing.assert_allclose(chances, exactly, rtol=0, atol=2e-4)
        (alone,) = native.predict([task], one, [len(one)])
        np.testing.assert_allclose(alone, logits, rtol=0, atol=1e-4 * np.abs(logits[np.abs(logits) < 1e30]).max())
        assert task.is_finite()
    assert expected[2][:, 3].max() == 0
    assert np.abs(expected[0][0] - expected[0][1]).max() > 10 * 2e-4  # they could be told apart


def test_what_a_task_holds_is_counted_and_divergence_is_told() -> None:
    full, _, meta = made(LEARNERS["shared-sgd"], "support", NETWORKS["max_pool"])
    native = NativeLearner.of(full, INPUT, arrays_of(meta))
    assert native is not None
    task = native.adapt(drawn(4, 0), np.arange(4), way=4)
    weights = sum(tensor.numel() for name, tensor in meta.init.items() if name.startswith("body."))
    norms = sum(tensor.numel() for name, tensor in meta.init.items() if name.endswith("gain"))
    head = 4 * (meta.init["head.weight"].numel() + 1)
    assert task.nbytes == 4 * (weights + head + 2 * norms)
    wild = full.model_copy(update={"inner": tuple(link.model_copy(update={"rate": 1e30}) for link in full.inner)})
    exploding = NativeLearner.of(wild, INPUT, arrays_of(meta))
    assert exploding is not None
    assert not exploding.adapt(drawn(4, 0), np.arange(4), way=4).is_finite()


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "group"},
        {"network": {"type": "resnet12", "channels": (4, 4)}},
        {"inner": [{"type": "adam", "rate": 0.1}]},
        {"inner": [{"type": "meta_sgd", "rate": 0.5}, {"type": "sgd", "rate": -0.4}]},
        {"adapt": ["head.*"]},
        {"head": {"type": "ridge"}},
        {"type": "ridge", "head": {"type": "ridge"}, "inner": [], "steps": 0},
        {"per_step_gains": True},
    ],
)
def test_what_kernels_do_not_compute_is_left_to_others(change: dict[str, Any]) -> None:
    spec = LearnerSpec.model_validate({**LEARNERS["shared-sgd"], "network": NETWORKS["max_pool"], **change})
    assert NativeLearner.of(spec, INPUT, {}) is None


@pytest.mark.parametrize(("spec", "norm"), COVERED)
def test_learning_several_tasks_is_learning_each(spec: dict[str, Any], norm: str) -> None:
    full, _, meta = made(spec, norm, NETWORKS["max_pool"])
    native = NativeLearner.of(full, INPUT, arrays_of(meta))
    assert native is not None
    tasks = [(drawn(len(targets), len(targets)), np.array(targets), 4) for targets in ([0, 1, 2, 3], [2, 0, 1, 3, 0])]
    given: list[Any] = []

    def memory(count: int) -> Any:
        given.append(np.full(count, np.nan, np.float32))
        return given[-1]

    together = native.adapt_each(tasks, memory)
    queries = drawn(3, 9)
    for one, (pixels, targets, way) in zip(together, tasks, strict=True):
        alone = native.adapt(pixels, targets, way=way)
        np.testing.assert_array_equal(*(native.predict([task], queries, [3])[0] for task in (one, alone)))
    # What steps lead to lies in the memory that was given.
    held = [each for one in together for each in one.own if any(each is memory for memory in given)]
    assert len(held) == len(given) == (len(tasks) if full.type == "gradient" else 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(bad: float) -> None:
    full, _, meta = made(LEARNERS["shared-sgd"], "support", NETWORKS["max_pool"])
    native = NativeLearner.of(full, INPUT, arrays_of(meta))
    assert native is not None
    task = native.adapt(drawn(4, 0), np.arange(4), way=4)
    weights = task.own[0]
    for place in (0, 7, len(weights) - 1):
        before, weights[place] = weights[place], bad
        assert not task.is_finite()
        weights[place] = before
    weights[:] = 3e38  # their sum is not finite
    assert task.is_finite()
    weights[:2] = bad, -bad
    assert not task.is_finite()


def test_there_is_no_torch_behind_it() -> None:
    run_without_torch("import kshot_models.native_learner, kshot_models.native.denormals, kshot_models.native.__main__")
