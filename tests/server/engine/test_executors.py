"""The battery of all executors: one task alone, in a batch, padded or not, must give one answer."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kshot_models.costs import measure_costs
from kshot_models.errors import WayUnsupported
from kshot_models.load import normalise
from kshot_models.manifest import Component, LearnerSpec, Limits
from kshot_models.native_learner import NativeTask
from kshot_models.types import Examples
from kshot_server.engine.executors.base import AdaptedWeights, Executor, Queries, ServedModel
from kshot_server.engine.executors.cpu import CpuExecutor, all_finite
from kshot_server.engine.executors.cuda import CudaExecutor, padded_size
from kshot_server.engine.executors.results import probabilities
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import Failed, Support

TOLERANCE = 1e-4  # in a probability: float32 sums in another order
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "cpu": lambda: CpuExecutor(threads=1),
    "vmap": lambda: CudaExecutor("cpu"),
}
both = functools.cache(lambda: (CpuExecutor(threads=1), CudaExecutor("cpu")))
NAMES = [
    "gradient",
    "head-only",
    "proto-maml",
    "per-step",
    "prototype",
    "ridge",
    "matching",
    "snail",
    "perceptron",
    "fixed-way",
]


@pytest.fixture(params=EXECUTORS, scope="module")
def executor(request: pytest.FixtureRequest) -> Executor:
    return EXECUTORS[request.param]()


@functools.cache
def prepared(executor: Executor, models: ModelRepository, name: str) -> ServedModel:
    return executor.prepare(models.load(models.find(name).digest))


def answers(executor: Executor, model: ServedModel, tasks: list[Any]) -> list[np.ndarray]:
    weights = executor.adapt(model, [task.support for task in tasks])
    assert all(isinstance(each, AdaptedWeights) for each in weights)
    results = executor.predict(model, [Queries(w, task.queries) for w, task in zip(weights, tasks, strict=True)])
    assert not any(isinstance(each, Failed) for each in results)
    return results


def reference(models: ModelRepository, name: str, task: Any) -> np.ndarray:
    """The learner called by hand, as kshot_models documents it."""
    loaded = models.load(models.find(name).digest)
    inputs = normalise(torch.from_numpy(task.support.inputs), loaded.manifest.input)
    support = Examples(inputs, torch.from_numpy(task.support.targets), torch.ones(len(inputs)))
    adapted = loaded.learner.adapt(loaded.meta_params, support, way=6 if name == "fixed-way" else task.support.way)
    queries = normalise(torch.from_numpy(task.queries), loaded.manifest.input)
    logits = loaded.learner.predict(loaded.meta_params, adapted, queries)[:, : task.support.way]
    return torch.softmax(logits / loaded.manifest.calibration.temperature, -1).detach().numpy()


@pytest.mark.parametrize("name", NAMES)
def test_executors_answer_as_the_learner_does(
    executor: Executor, models: ModelRepository, make_task: Callable[..., Any], name: str
) -> None:
    model = prepared(executor, models, name)
    largest = model.manifest.limits.max_way
    for i, (way, shot, queries) in enumerate([(2, 1, 1), (5, 3, 4), (largest, 2, 9)]):
        task = make_task(i, way=way, shot=shot, queries=queries)
        (probabilities,) = answers(executor, model, [task])
        assert probabilities.shape == (queries, way)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, reference(models, name, task), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_many_sessions_answers_each_as_if_alone(
    executor: Executor, models: ModelRepository, make_task: Callable[..., Any], name: str
) -> None:
    model = prepared(executor, models, name)
    tasks = [make_task(i, way=5, shot=1 + i % 2, queries=1 + i % 3) for i in range(6)]
    together = answers(executor, model, tasks)
    alone = [answers(executor, model, [task])[0] for task in tasks]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert np.abs(together[0][0] - together[3][0]).max() > 100 * TOLERANCE  # they could be told apart


@pytest.mark.parametrize("name", NAMES)
def test_both_executors_agree(models: ModelRepository, make_task: Callable[..., Any], name: str) -> None:
    cpu, vmapped = both()
    tasks = [make_task(i, way=5, shot=2, queries=5) for i in range(4)]
    for one, other in zip(
        answers(cpu, prepared(cpu, models, name), tasks),
        answers(vmapped, prepared(vmapped, models, name), tasks),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["gradient", "prototype"])
def test_a_query_does_not_feel_its_neighbours(
    executor: Executor, models: ModelRepository, make_task: Callable[..., Any], name: str
) -> None:
    model = prepared(executor, models, name)
    task = make_task(3, queries=15)
    (weights,) = executor.adapt(model, [task.support])
    assert isinstance(weights, AdaptedWeights)
    crowd = np.concatenate([task.queries] * 18)  # more than are computed at once
    (all_of_them,) = executor.predict(model, [Queries(weights, crowd)])
    for i in range(5):
        (one,) = executor.predict(model, [Queries(weights, task.queries[i : i + 1])])
        assert not isinstance(one, Failed)
        assert not isinstance(all_of_them, Failed)
        for repeat in range(18):
            np.testing.assert_allclose(one[0], all_of_them[15 * repeat + i], rtol=0, atol=TOLERANCE)


def test_an_evaluation_with_transductive_norms_is_not_cut(
    executor: Executor, tmp_path: Path, write_model: Callable[..., Any], specs: dict[str, LearnerSpec], make_task: Any
) -> None:
    write_model(tmp_path, "leaky", spec=specs["gradient"].model_copy(update={"norm": "transductive"}))
    models = ModelRepository([tmp_path], allow_transductive=True)
    task = make_task(0, shot=2, queries=10)
    many = make_task(0, shot=2, queries=10)
    object.__setattr__(many, "queries", np.concatenate([task.queries] * 20))
    (one,), (repeated,) = (answers(executor, prepared(executor, models, "leaky"), [each]) for each in (task, many))
    # The moments of a repeated batch are the moments of the batch; those of its first 128 rows are not.
    np.testing.assert_allclose(repeated, np.concatenate([one] * 20), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["gradient", "per-step"])
def test_weights_count_their_bytes_and_outlive_their_batch(
    executor: Executor, models: ModelRepository, make_task: Callable[..., Any], name: str
) -> None:
    model = prepared(executor, models, name)
    weights = executor.adapt(model, [make_task(i).support for i in range(4)])
    # conv 8x1x3x3 and 8x8x3x3, norms 4x8, head 5x(72+1), moments 4x8
    least = 4 * (72 + 576 + 32 + 365 + 32)
    for each in weights:
        assert isinstance(each, AdaptedWeights)
        if isinstance(each.values, NativeTask):
            assert name == "gradient"
            assert sum(array.nbytes for array in each.values.own) == each.size_bytes == least
            continue
        tensors = [each.values] if isinstance(executor, CudaExecutor) else list(each.values.params.values())
        [memory] = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors
        }.items()
        assert memory[1] == each.size_bytes
        assert least <= each.size_bytes <= least + 64 * len(tensors)


def test_divergence_is_answered_to_the_one_that_diverged(
    executor: Executor, gated: Any, make_task: Callable[..., Any]
) -> None:
    model = executor.prepare(gated.load(gated.digest, device="cpu"))
    tasks = [make_task(i, size=4) for i in range(3)]
    for i, task in enumerate(tasks):
        task.support.inputs[0, 0, 0, 0] = 254 if i == 1 else 0
    results = executor.adapt(model, [task.support for task in tasks])
    assert [isinstance(result, AdaptedWeights) for result in results] == [True, False, True]
    assert isinstance(results[1], Failed)
    assert results[1].code == "adaptation_diverged"


def test_steps_that_explode_are_a_divergence_of_that_task_alone(
    executor: Executor, tmp_path: Path, write_model: Callable[..., Any], make_task: Callable[..., Any]
) -> None:
    spec = LearnerSpec(
        type="gradient",
        network=Component(type="conv4", channels=(4,)),
        head=Component(type="shared"),
        inner=(Component(type="sgd", rate=1e30),),
        steps=4,
        norm="none",
    )
    write_model(tmp_path, "explosive", spec=spec)
    models = ModelRepository([tmp_path])
    model = prepared(executor, models, "explosive")
    (failed,) = executor.adapt(model, [make_task(0).support])
    assert isinstance(failed, Failed)
    assert failed.code == "adaptation_diverged"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(bad: float) -> None:
    numbers = torch.linspace(-1, 1, 1000)
    assert all_finite(numbers)
    assert all_finite(torch.full((4,), 3e38))  # their sum is not
    for place in (0, 7, 999):
        assert not all_finite(numbers.index_fill(0, torch.tensor([place]), bad))
    assert not all_finite(torch.tensor([bad, 0.0, -bad]))


def test_logits_that_are_not_finite_are_a_divergence() -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        failed = probabilities(np.float32([[0, 1], [bad, 0]]), 1.0)
        assert isinstance(failed, Failed)
        assert failed.code == "adaptation_diverged"


def test_probabilities_are_the_calibrated_softmax() -> None:
    result = probabilities(np.float32([[0, 2]]), 2.0)
    assert not isinstance(result, Failed)
    np.testing.assert_allclose(result, [[1 / (1 + np.e), np.e / (1 + np.e)]], rtol=1e-6)
    extreme = probabilities(np.float32([[-3e38, 3e38]]), 1e-3)
    assert not isinstance(extreme, Failed)
    np.testing.assert_array_equal(extreme, [[0, 1]])


def test_costs_are_found_by_trying(models: ModelRepository) -> None:
    costs = {name: measure_costs(models.load(models.find(name).digest), "cpu") for name in NAMES}
    forward = 2 * 9 * (144 * 8 + 36 * 8 * 8)  # the two convolutions of one image
    assert costs["gradient"].predict == pytest.approx(forward, rel=0.2)
    # Three steps forward and back, and the pass for the moments; the first layer needs no gradient of its input.
    assert 6 * forward < costs["gradient"].adapt < 12 * forward
    assert costs["prototype"].adapt < costs["gradient"].adapt / 5
    assert [costs[name].fixed_way for name in NAMES] == [None] * (len(NAMES) - 1) + [6]


def test_a_head_that_answers_for_no_way_that_is_allowed_cannot_be_prepared(
    tmp_path: Path, write_model: Callable[..., Any]
) -> None:
    write_model(tmp_path, "fixed-way", limits=Limits(max_way=5, max_support=40))
    models = ModelRepository([tmp_path])
    with pytest.raises(WayUnsupported):
        measure_costs(models.load(models.find("fixed-way").digest), "cpu")


def test_sizes_round_up_by_less_than_a_quarter_within_the_limit() -> None:
    for size in range(1, 500):
        padded = padded_size(size, 10_000)
        assert size <= padded < 1.25 * size
        assert padded_size(padded, 10_000) == padded
        assert padded_size(size, 97) <= max(97, size)
    assert [padded_size(size, 100) for size in (1, 5, 8, 9, 25, 75, 99)] == [1, 5, 8, 10, 28, 80, 100]


def test_only_what_is_padded_is_sorted_into_buckets(models: ModelRepository, make_task: Callable[..., Any]) -> None:
    limits = models.find("gradient").manifest.limits
    five, nine, ten = (make_task(0, way=way) for way in (5, 9, 10))
    cpu, vmapped = CpuExecutor(threads=1), CudaExecutor("cpu")
    assert len({cpu.place_support(task.support, limits).bucket for task in (five, nine, ten)}) == 1
    assert cpu.place_support(nine.support, limits).examples == 9
    buckets = [vmapped.place_support(task.support, limits) for task in (five, nine, ten)]
    assert buckets[0] != buckets[1] == buckets[2]
    assert buckets[1].examples == 10
    here = AdaptedWeights(None, 5, "layout", 0)
    assert vmapped.place_queries(Queries(here, five.queries), limits) == (("layout", 3), 3)
    assert cpu.place_queries(Queries(here, five.queries), limits) == (None, 3)


def test_a_lane_has_one_core_and_other_threads_keep_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    def look() -> None:
        seen.append((torch.get_num_threads(), (torch.full((8,), 1e-20) * 1e-20).sum().item() == 0))

    def lane() -> None:
        CpuExecutor(threads=1).enter_lane(lambda works: None)
        look()

    try:
        for target in (lane, look):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        look()
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, True), (2, False), (2, False)]


@pytest.mark.parametrize(
    ("by_torch", "flops", "idle", "expected"),
    [(True, 1e9, 3, 4), (True, 1e9, 1, 2), (True, 1e9, 0, 1), (True, 1e8, 3, 1), (False, 1e9, 3, 1)],
    ids=["three idle lanes", "one", "none", "too little to do", "kernels"],
)
def test_what_torch_computes_has_the_cores_of_idle_lanes(
    by_torch: bool, flops: float, idle: int, expected: int
) -> None:
    seen: dict[str, int] = {}

    class Stub:
        """Stands where a learner would, and looks."""

        network = SimpleNamespace(prepare=None if by_torch else object())

        def adapt(self, meta: object, support: Examples, *, way: int) -> dict[str, torch.Tensor]:
            seen["within"] = torch.get_num_threads()
            return {"weights.some": torch.zeros(2)}

        def predict(self, meta: object, task: object, inputs: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    def lend(works: Sequence[Callable[[], None]]) -> list[Future[None]] | None:
        futures = [Future[None]() for _ in works]
        for future in futures:
            future.set_result(None)
        return futures if len(works) <= idle else None

    spec = SimpleNamespace(input=SimpleNamespace(mean=(0.5,), std=(0.5,)))
    learner: Any = Stub()
    costs = {"adapt_flops": flops, "fixed_way": None}
    levels = np.zeros((1, 256), np.float32)
    model: Any = SimpleNamespace(learner=learner, meta_params=None, manifest=spec, levels=levels, **costs)
    support = Support(np.zeros((5, 4, 4, 1), np.uint8), np.arange(5), 5)
    executor = CpuExecutor(threads=4)

    def lane() -> None:
        executor.enter_lane(lend)
        assert len(executor.adapt(model, [support])) == 1
        seen["after"] = torch.get_num_threads()

    before = torch.get_num_threads()
    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    assert seen == {"within": expected, "after": 1}
    assert torch.get_num_threads() == before
