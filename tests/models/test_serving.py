"""The server's shorter way gives what the learner says, for every learner, and its derivatives are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from kshot_models.batched import native
from kshot_models.batched.native.classifier import Classifier
from kshot_models.batched.native.unrolled import descend_and_keep
from kshot_models.inner.transformation import Objective
from kshot_models.learners import GradientLearner
from kshot_models.losses import weighted_cross_entropy
from kshot_models.manifest import FIXED_MOMENTS
from kshot_models.native import classifier
from kshot_models.native.descent import Descent
from kshot_models.networks import cpu_descent
from kshot_models.serving import (
    inner_gradient,
    plain_autograd,
    predict_each,
    prepared,
    serving,
    transformable,
)
from kshot_models.tree import meta_map
from kshot_models.types import Examples, MetaParams

from .conftest import LEARNERS, NETWORKS, NORMS, make_learner

ANSWERS = [(name, "max_pool", "support") for name in LEARNERS] + [
    ("proto-sgd", network, norm) for network in NETWORKS for norm in (*NORMS, "transductive")
]
ANSWERS += [("prototype", network, "population") for network in NETWORKS]


@pytest.mark.parametrize(("name", "network", "norm"), ANSWERS)
def test_serving_changes_no_answer(name: str, network: str, norm: str, make_examples: Callable[..., Examples]) -> None:
    learner, meta = make_learner(name, network, norm)
    support, query = make_examples(), make_examples(seed=1)
    task = learner.adapt(meta, support, way=3)
    with serving():
        fast = learner.adapt(meta, support, way=3)
        logits = learner.predict(meta, fast, query.inputs)
    assert fast.keys() == task.keys()
    assert not any(values.requires_grad for values in [*fast.values(), logits])
    # Newton's line search takes the longest step that goes down: it may turn on a rounding error, but did not here.
    torch.testing.assert_close(fast, task, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        logits.softmax(-1), learner.predict(meta, task, query.inputs).softmax(-1), rtol=0, atol=1e-10
    )


PREPARED = [(name, network, "support") for name in LEARNERS for network in NETWORKS] + [
    ("proto-sgd", network, norm) for network in NETWORKS for norm in (*NORMS, "transductive")
]
PREPARED += [("prototype", network, "population") for network in NETWORKS]


@pytest.mark.parametrize(("name", "network", "norm"), PREPARED)
def test_who_is_prepared_answers_the_same(
    name: str, network: str, norm: str, make_examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, meta = make_learner(name, network, norm)
    meta = meta_map(Tensor.float, meta)
    support, query = (
        examples._replace(inputs=examples.inputs.float()) for examples in (make_examples(), make_examples(seed=1))
    )
    support.weights[-1] = 0  # padding, and a fourth class that nobody has
    calls = []

    def counted(asked: Classifier, images: Tensor) -> Tensor:
        calls.append(len(images))
        return ask(asked, images)

    ask = Classifier.__call__
    monkeypatch.setattr(Classifier, "__call__", counted)
    with serving():
        task = learner.adapt(meta, support._replace(weights=support.weights.float()), way=4)
        expected = learner.predict(meta, task, query.inputs).softmax(-1)
        predictor = prepared(learner, meta, task)
        for inputs in (query.inputs, query.inputs.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(predictor(inputs).softmax(-1), expected, rtol=0, atol=1e-5)
        (alone,) = predictor(query.inputs[1:2]).softmax(-1)
    if norm != "transductive":
        torch.testing.assert_close(alone, expected[1], rtol=0, atol=1e-5)
    # In single precision, Conv4 and a linear head are one function that refers to the weights.
    linear = not name.startswith(("matching", "snail"))
    assert bool(calls) == (linear and network not in {"mlp", "resnet12"} and norm in FIXED_MOMENTS)


@pytest.mark.parametrize("network", ["max_pool", "stride"])
def test_many_tasks_are_answered_in_one_call_as_each_alone(
    network: str, make_examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, meta = make_learner("proto-sgd", network, "support")
    meta = meta_map(Tensor.float, meta)
    calls = []

    def counted(classifiers: Any, *arguments: Any) -> Any:
        calls.append(len(classifiers))
        return answer(classifiers, *arguments)

    answer = classifier.classify
    monkeypatch.setattr(classifier, "classify", counted)
    inputs, counts = torch.cat([in_single(make_examples(seed=seed)).inputs for seed in (8, 9)])[:6], [1, 3, 2]
    with serving():
        tasks = [learner.adapt(meta, in_single(make_examples(seed=seed)), way=3) for seed in range(3)]
        predictors = [prepared(learner, meta, task) for task in tasks]
        together = predict_each(predictors, inputs, counts)
        assert calls == [3]
        others = [*predictors[:2], lambda some: learner.predict(meta, tasks[2], some)]  # which is of another kind
        one_by_one = predict_each(others, inputs, counts)
        for task, part, found, alone in zip(tasks, inputs.split(counts), together, one_by_one, strict=True):
            expected = learner.predict(meta, task, part).softmax(-1)
            torch.testing.assert_close(found.softmax(-1), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.softmax(-1), expected, rtol=0, atol=1e-5)


SHORT = [
    (name, network, "support") for name in LEARNERS if name.startswith(("shared", "proto-", "anil", "boil", "mamlpp"))
    for network in ("max_pool", "stride")
]  # fmt: skip
IN_ONE_GO = {"shared-sgd", "proto-sgd", "proto-lslr", "shared-meta-sgd", "boil"}  # of anil there is nothing to descend


@pytest.mark.parametrize(("name", "network", "norm"), SHORT)
def test_the_way_of_single_precision_gives_what_double_precision_says(
    name: str, network: str, norm: str, make_examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, meta = make_learner(name, network, norm)
    support, query = make_examples(), make_examples(seed=1)
    support.weights[-1] = 0  # padding, and a fourth class that nobody has
    expected = learner.predict(meta, learner.adapt(meta, support, way=4), query.inputs).softmax(-1)
    descents = []

    def counted(*arguments: Any, **more: Any) -> Any:
        descents.append(name)
        return Descent(*arguments, **more)

    monkeypatch.setattr(cpu_descent, "Descent", counted)
    single = meta_map(Tensor.float, meta)
    with serving():
        task = learner.adapt(single, in_single(support), way=4)
        logits = learner.predict(single, task, in_single(query).inputs)
    assert len(descents) == (name in IN_ONE_GO)
    torch.testing.assert_close(logits.softmax(-1).double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", sorted(IN_ONE_GO | {"shared-proximal", "anil"}))
def test_steps_of_first_order_are_taken_by_kernels_and_have_the_gradients_of_double_precision(
    name: str, make_examples: Callable[..., Examples], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, meta = make_learner(name, "stride")
    assert isinstance(made, GradientLearner)
    learner = dataclasses.replace(made, first_order=True)
    support, query = make_examples(), make_examples(seed=1)
    taken = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **more: Any) -> Any:
            taken.append(name)
            return function(*arguments, **more)

        return count

    monkeypatch.setattr(cpu_descent, "Descent", counted(Descent))
    monkeypatch.setattr(native, "linear_cross_entropy", counted(native.linear_cross_entropy))

    def meta_gradient(meta: MetaParams, support: Examples, query: Examples) -> list[Tensor]:
        meta = meta_map(lambda t: t.detach().requires_grad_(), meta)
        logits = learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs)
        trained = [*meta.init.values(), *meta.inner.values()]
        loss = weighted_cross_entropy(logits, query)
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    expected = meta_gradient(meta, support, query)
    assert not taken
    single = meta_map(Tensor.float, meta)
    found = meta_gradient(single, in_single(support), in_single(query))
    # Learned rates have gradients, so their steps come one by one, as those of other rules and those on features do.
    assert len(taken) == (1 if name in IN_ONE_GO and not meta.inner else learner.steps)
    scale = max(float(right.abs().max()) for right in expected)
    for each, right in zip(found, expected, strict=True):
        torch.testing.assert_close(each.double(), right, rtol=0, atol=2e-4 * scale)


UNROLLED = [
    (name, network, norm)
    for name in sorted(IN_ONE_GO)
    for network, norm in (("max_pool", "support"), ("stride", "support"), ("stride", "transductive"))
]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(("name", "network", "norm"), UNROLLED)
def test_steps_in_one_operation_have_the_meta_gradients_of_double_precision(
    name: str,
    network: str,
    norm: str,
    first_order: bool,
    make_examples: Callable[..., Examples],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, meta = make_learner(name, network, norm)
    assert isinstance(made, GradientLearner)
    learner = dataclasses.replace(made, first_order=first_order, steps=3)
    support, query = make_examples(), make_examples(seed=1)
    support.weights[-1] = 0  # padding, and a fourth class that nobody has

    def meta_gradient(meta: MetaParams, support: Examples, query: Examples) -> list[Tensor]:
        meta = meta_map(lambda t: t.detach().requires_grad_(), meta)
        logits = learner.predict(meta, learner.adapt(meta, support, way=4), query.inputs)
        trained = [*meta.init.values(), *meta.inner.values()]
        loss = weighted_cross_entropy(logits, query)
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    expected = meta_gradient(meta, support, query)
    kept = []

    def counted(*arguments: Any, **more: Any) -> Any:
        kept.append(name)
        return descend_and_keep(*arguments, **more)

    monkeypatch.setattr(cpu_descent, "descend_and_keep", counted)
    with plain_autograd():
        found = meta_gradient(meta_map(Tensor.float, meta), in_single(support), in_single(query))
    assert kept == [name]
    most = max(float(right.abs().max()) for right in expected)
    for each, right in zip(found, expected, strict=True):
        own = max(float(right.abs().max()), 0.02 * most)
        torch.testing.assert_close(each.double(), right, rtol=0, atol=2e-4 * own)


def test_one_operation_for_all_steps_is_differentiated_once(make_examples: Callable[..., Examples]) -> None:
    learner, meta = make_learner("proto-sgd", "stride")
    meta = meta_map(lambda t: t.float().requires_grad_(), meta)
    with plain_autograd():
        task = learner.adapt(meta, in_single(make_examples()), way=3)
    loss = torch.stack([values.square().sum() for values in task.values()]).sum()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(loss, meta.init["body.conv1.weight"], create_graph=True)


def in_single(examples: Examples) -> Examples:
    return Examples(examples.inputs.float(), examples.targets, examples.weights.float())


def test_padding_is_not_felt_while_serving(make_examples: Callable[..., Examples]) -> None:
    learner, meta = make_learner("shared-sgd")
    support, query = make_examples(), make_examples(seed=1)
    padded = Examples(*(torch.cat([values, values[:2]]) for values in support))
    padded.weights[-2:] = 0
    with serving():
        torch.testing.assert_close(
            learner.predict(meta, learner.adapt(meta, padded, way=3), query.inputs),
            learner.predict(meta, learner.adapt(meta, support, way=3), query.inputs),
        )


def test_the_promise_ends_with_the_block() -> None:
    at = torch.tensor(2.0, requires_grad=True)

    def differentiable() -> bool:
        return inner_gradient(cube, {"a": at})[0]["a"].requires_grad

    with serving():
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            assert not differentiable()
    assert differentiable()
    with pytest.raises(ValueError, match="inside"), serving():
        raise ValueError("inside")
    assert differentiable()


def cube(params: dict[str, Tensor]) -> Tensor:
    return (params["a"] ** 3).sum()


def test_inner_gradients_can_be_differentiated_unless_serving() -> None:
    params = {"a": torch.tensor([2.0, 3.0]), "unused": torch.ones(2)}
    second = grad(lambda at: inner_gradient(cube, at)[0]["a"].sum())(params)
    torch.testing.assert_close(second["a"], 6 * params["a"])
    with serving():
        grads, value = inner_gradient(cube, params)
    assert value == 35
    torch.testing.assert_close(grads, {"a": 3 * params["a"] ** 2, "unused": torch.zeros(2)})


def test_under_plain_autograd_inner_gradients_are_autograds_and_as_good() -> None:
    at = torch.tensor([2.0, 3.0], requires_grad=True)

    def objective(params: dict[str, Tensor]) -> Tensor:
        return (params["a"] ** 3 * params["made of a"]).sum() + params["constant"].sum()

    with plain_autograd():
        # A parameter that was made of another is none of the other's business in an inner step, only in the outer one.
        params = {"a": at, "made of a": at * 2, "constant": torch.ones(2)}
        grads, value = inner_gradient(objective, params)
    torch.testing.assert_close(value, torch.tensor(2.0 * (2**4 + 3**4) + 2))
    torch.testing.assert_close(grads["a"], 3 * at**2 * (2 * at))
    torch.testing.assert_close(grads["constant"], torch.ones(2))
    (second,) = torch.autograd.grad(grads["a"].sum(), at)
    torch.testing.assert_close(second, 18 * at.detach() ** 2)
    with plain_autograd(), torch.no_grad():
        assert not inner_gradient(cube, {"a": at})[0]["a"].requires_grad


def test_an_objective_may_be_made_transformable() -> None:
    at = {"a": torch.tensor(2.0)}

    def slope(params: dict[str, Tensor]) -> Tensor:
        return inner_gradient(cube, params)[0]["a"]

    objective: Objective = transformable(slope)
    with serving():
        assert objective(at) == 12
        torch.testing.assert_close(grad(objective)(at)["a"], torch.tensor(12.0))  # d 3 a^2 / da
        assert not slope(at).requires_grad


def test_a_constant_inner_gradient_is_taken_by_autograd_unless_something_is_transformed() -> None:
    at = {"a": torch.tensor([2.0, 3.0])}
    kinds = []

    def objective(params: dict[str, Tensor]) -> Tensor:
        kinds.append(torch._C._are_functorch_transforms_active())
        return cube(params)

    grads, _ = inner_gradient(objective, at, constant=True)
    assert kinds == [False]
    torch.testing.assert_close(grads["a"], 3 * at["a"] ** 2)
    many = vmap(lambda a: inner_gradient(objective, {"a": a}, constant=True)[0]["a"])(torch.stack([at["a"], at["a"]]))
    assert kinds == [False, True]
    torch.testing.assert_close(many[1], grads["a"])
