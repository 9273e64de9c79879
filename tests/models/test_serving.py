"""The server's shorter way gives what the learner says, for every learner, and its derivatives are right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad

from kshot_models.inner.transformation import Objective
from kshot_models.networks.block import BlockShape, Layer, blocks, blocks_with_moments
from kshot_models.norm import normalize, weighted_moments
from kshot_models.serving import (
    differentiated_at_most_once,
    inner_gradient,
    moments_unseen,
    plain_autograd,
    remembered,
    serving,
    transformable,
)
from kshot_models.types import Examples

from .conftest import LEARNERS, NETWORKS, NORMS, make_learner

SHAPES = {
    "pooled": (BlockShape(1, True, 1e-5), (6, 6, 8)),
    "odd rows are dropped": (BlockShape(1, True, 1e-5), (6, 7, 5)),
    "strided": (BlockShape(2, False, 1e-5), (6, 7, 5)),
    "plain": (BlockShape(1, False, 1e-3), (6, 3, 3)),
    "one channel": (BlockShape(1, True, 1e-5), (1, 8, 8)),
    "three channels, strided": (BlockShape(2, False, 1e-5), (3, 7, 6)),
}


def by_hand(inputs: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, shape: BlockShape) -> Tensor:
    raw = torch.nn.functional.conv2d(inputs, weight, stride=shape.stride, padding=1)
    normal = normalize(raw, *weighted_moments(raw, None), gain, bias, epsilon=shape.epsilon)
    return torch.relu(torch.nn.functional.max_pool2d(normal, 2) if shape.pool else normal)


def drawn(name: str, *, outside: int = 5) -> tuple[BlockShape, list[Tensor]]:
    shape, (inside, height, width) = SHAPES[name]
    generator = torch.Generator().manual_seed(1)
    sizes = [(3, inside, height, width), (outside, inside, 3, 3), (outside,), (outside,)]
    inputs, weight, gain, bias = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)[:outside]
    return shape, [inputs.contiguous(memory_format=torch.channels_last), weight, gain.abs() * signs, bias]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rises", [True, False])
def test_a_block_is_its_four_operations_and_so_are_its_derivatives(name: str, rises: bool) -> None:
    shape, values = drawn(name)
    values[2] = values[2].abs() if rises else values[2]
    leaves = [value.requires_grad_() for value in values]
    expected = by_hand(*leaves, shape)
    out, [(mean, variance)] = blocks(leaves[0], [Layer(*leaves[1:])], shape)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    raw = torch.nn.functional.conv2d(leaves[0], leaves[1], stride=shape.stride, padding=1)
    torch.testing.assert_close((mean, variance), weighted_moments(raw.detach(), None), rtol=0, atol=1e-12)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    torch.testing.assert_close(
        torch.autograd.grad(out, leaves, along), torch.autograd.grad(expected, leaves, along), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", ["odd rows are dropped", "strided", "one channel"])
def test_a_blocks_derivatives_are_finite_differences(name: str) -> None:
    shape, values = drawn(name, outside=3)
    assert torch.autograd.gradcheck(
        lambda *leaves: blocks(leaves[0], [Layer(*leaves[1:])], shape)[0],
        [value.requires_grad_() for value in values],
        eps=1e-7,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_block_with_given_moments_is_its_four_operations(name: str) -> None:
    shape, (inputs, weight, gain, bias) = drawn(name)
    mean, variance = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0, 2, 5, dtype=torch.float64)
    raw = torch.nn.functional.conv2d(inputs, weight, stride=shape.stride, padding=1)
    normal = normalize(raw, mean, variance, gain, bias, epsilon=shape.epsilon)
    expected = torch.relu(torch.nn.functional.max_pool2d(normal, 2) if shape.pool else normal)
    out = blocks_with_moments(inputs, [Layer(weight, gain, bias)], [(mean, variance)], shape)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_where_all_of_a_window_are_equal_the_gradient_goes_where_max_pool_sends_it() -> None:
    shape, (inputs, weight, gain, bias) = drawn("pooled")
    blank = torch.zeros_like(inputs)
    blank[0, :, 2, 3] = 1
    leaves = [value.requires_grad_() for value in (blank, weight, gain, bias)]
    found, expected = (
        torch.autograd.grad(f(*leaves).sum(), leaves)
        for f in (
            lambda *at: blocks(at[0], [Layer(*at[1:])], shape)[0].square(),
            lambda *at: by_hand(*at, shape).square(),
        )
    )
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=1e-9)


ANSWERS = [(name, "max_pool", "support") for name in LEARNERS] + [
    ("proto-sgd", network, norm) for network in NETWORKS for norm in (*NORMS, "transductive")
]


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
    made = []

    def make() -> Tensor:
        made.append(1)
        return torch.zeros(())

    of = torch.zeros(2)
    with serving():
        assert differentiated_at_most_once()
        assert not torch.is_grad_enabled()
        assert remembered(of, "sum", make) is remembered(of, "sum", make)
        assert remembered(of, "mean", make) is not remembered(of, "sum", make)
    assert len(made) == 2
    assert not differentiated_at_most_once()
    assert remembered(of, "sum", make) is not remembered(of, "sum", make)
    with pytest.raises(ValueError, match="inside"), serving():
        raise ValueError("inside")
    assert not differentiated_at_most_once()


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
    seen = []

    def objective(params: dict[str, Tensor]) -> Tensor:
        seen.append(moments_unseen())
        return (params["a"] ** 3 * params["made of a"]).sum() + params["constant"].sum()

    with plain_autograd():
        # A parameter that was made of another is none of the other's business in an inner step, only in the outer one.
        params = {"a": at, "made of a": at * 2, "constant": torch.ones(2)}
        grads, value = inner_gradient(objective, params)
        assert not moments_unseen()
    assert seen == [True]
    torch.testing.assert_close(value, torch.tensor(2.0 * (2**4 + 3**4) + 2))
    torch.testing.assert_close(grads["a"], 3 * at**2 * (2 * at))
    torch.testing.assert_close(grads["constant"], torch.ones(2))
    (second,) = torch.autograd.grad(grads["a"].sum(), at)
    torch.testing.assert_close(second, 18 * at.detach() ** 2)
    with plain_autograd(), torch.no_grad():
        assert not inner_gradient(cube, {"a": at})[0]["a"].requires_grad


def test_an_objective_may_be_made_transformable() -> None:
    def seen(params: dict[str, Tensor]) -> Tensor:
        assert not differentiated_at_most_once()
        return cube(params)

    objective: Objective = transformable(seen)
    with serving():
        assert objective({"a": torch.tensor(2.0)}) == 8
        assert differentiated_at_most_once()
