"""The kernels for CPUs: each against the operations in double precision, and the blocks that are made of them."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kshot_models.batched import Features, Pooling, everywhere, native, normalization_reference, reference, suits
from kshot_models.batched.native import blocks
from kshot_models.manifest import InputSpec, NormMode
from kshot_models.native import jit, products
from kshot_models.networks.network import Network
from kshot_models.registry import NETWORKS
from kshot_models.types import Params

Kernels = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours: Sequence[Tensor | None], exact: Sequence[Tensor], *, within: float) -> None:
    """Each differs by at most `within` of the largest value."""
    for one, other in zip(ours, exact, strict=True):
        assert one is not None
        assert one.shape == other.shape
        assert (one - other).abs().max() <= within * other.abs().max()


SIZES = [(1, 1, 1), (3, 5, 7), (6, 4, 16), (7, 130, 17), (8, 9, 24), (10, 257, 33), (23, 3, 8), (80, 64, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("across", [False, True])
def test_products_are_those_of_double_precision(size: tuple[int, int, int], across: bool) -> None:
    rows, inner, columns = size
    left, right, before = drawn(rows, inner), drawn(inner, columns, seed=1), drawn(rows, columns, seed=2)
    exact = left.double() @ right.double()
    stored = left.T.contiguous() if across else left  # the transpose, read across
    for adding in (False, True):
        room = torch.cat([before.flatten(), torch.full((8,), 7.0)])
        distances = (1, rows) if across else (inner, 1)
        places = stored.data_ptr(), *distances, right.data_ptr(), columns, room.data_ptr(), columns
        products.multiply(*places, rows, inner, columns, adding)
        close([room[:-8].view(rows, columns)], [exact + before.double() * adding], within=1e-5)
        assert room[-8:].tolist() == [7.0] * 8  # nothing is written beyond


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 16), (24, 8), (19, 35)])
def test_a_matrix_is_turned(size: tuple[int, int]) -> None:
    matrix, out = drawn(*size), torch.empty(size[::-1])
    products.turned(matrix.numpy(), out.numpy())
    assert out.equal(matrix.T)


def test_two_parts_of_kernels_cannot_have_one_name() -> None:
    def part(size: int) -> int:
        return size

    part.__qualname__ = "a_part_of_this_test"
    jit.inlined(part)
    with pytest.raises(ValueError, match="a_part_of_this_test"):
        jit.inlined(part)


CONVOLUTIONS = {
    "one channel": (2, 3, 9, 8, 1, 5, 1),
    "three channels, strided": (1, 2, 9, 12, 3, 7, 2),
    "strided": (2, 3, 7, 6, 20, 12, 2),
    "small": (1, 5, 3, 3, 64, 64, 1),
    "tiles cut off": (2, 3, 14, 13, 32, 64, 1),
    "whole tiles": (1, 4, 12, 16, 64, 32, 1),
    "few tiles": (2, 1, 14, 7, 32, 48, 1),
    "few tiles, an odd half vector": (1, 2, 7, 7, 16, 24, 1),
    "tiles in parts": (1, 9, 14, 14, 16, 32, 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_those_of_double_precision(name: str) -> None:
    tasks, n, height, width, inside, outside, stride = CONVOLUTIONS[name]
    inputs, filters = drawn(tasks, n, height, width, inside), drawn(tasks, outside, 9 * inside, seed=1)
    exact = reference.convolve(inputs.double(), filters.double(), stride)
    grad = drawn(*exact.shape, seed=2)
    of_inputs = reference.input_gradient(grad.double(), filters.double(), stride, height, width)
    of_filters = reference.weight_gradient(inputs.double(), grad.double(), stride)
    way = (
        native.convolve(inputs, filters, stride),
        native.input_gradient(grad, filters, height, width, stride),
        native.weight_gradient(inputs, grad, stride),
    )
    close(way, (exact, of_inputs, of_filters), within=2e-5)
    close(native.gradients(inputs, filters, grad, stride), (of_inputs, of_filters), within=2e-5)


def test_filters_that_all_tasks_share_are_one_product() -> None:
    inputs, filters = drawn(3, 2, 5, 5, 4), drawn(1, 6, 36, seed=1)
    shared = filters.expand(3, -1, -1)
    close([native.convolve(inputs, shared, 1)], [reference.convolve(inputs, shared, 1)], within=1e-5)
    grad = drawn(3, 2, 5, 5, 6, seed=2)
    found = native.input_gradient(grad, shared, 5, 5, 1)
    close([found], [reference.input_gradient(grad, shared, 1, 5, 5)], within=1e-5)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", [(7, 6), (4, 9), (2, 2)])
def test_normalization_and_its_derivatives_are_those_of_double_precision(pool: bool, size: tuple[int, int]) -> None:
    raw, gain, bias = drawn(2, 4, *size, 19) + 3, drawn(2, 19, seed=1), drawn(2, 19, seed=2)
    share = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.2, 0.3, 0.5]])
    ours, exact = Features(raw, gain, bias, share), Features(*(t.double() for t in (raw, gain, bias, share)))
    pooling = Pooling(pool, 1e-3)
    out, *moments = native.normalize(ours, pooling)
    expected, *theirs = normalization_reference.normalize(exact, pooling)
    close([out, *moments], [expected, *theirs], within=1e-5)
    grad = drawn(*out.shape, seed=3)
    first = native.normalize_gradient(ours, (moments[0], moments[1]), grad, pooling)
    first_exact = normalization_reference.normalize_gradient(exact, (theirs[0], theirs[1]), grad.double(), pooling)
    close(first, first_exact, within=1e-5)
    changes = drawn(*raw.shape, seed=4), drawn(2, 19, seed=5), drawn(2, 19, seed=6)
    second = native.normalize_second_gradient(
        ours, (moments[0], moments[1]), grad, (first[1], first[2]), changes, pooling
    )
    close(
        second,
        normalization_reference.normalize_second_gradient(
            exact,
            (theirs[0], theirs[1]),
            grad.double(),
            (first_exact[1], first_exact[2]),
            tuple(change.double() for change in changes),  # type: ignore[arg-type] # three of them
            pooling,
        ),
        within=1e-5,
    )
    scaled = native.scale(raw, gain, bias, pool=pool)
    close([scaled], [normalization_reference.scale(exact.raw, exact.gain, exact.bias, pool=pool)], within=1e-6)
    back = native.scale_gradient(raw, gain, bias, grad, pool=pool)
    close(
        back,
        normalization_reference.scale_gradient(exact.raw, exact.gain, exact.bias, grad.double(), pool=pool),
        within=1e-5,
    )


def test_a_mean_far_from_zero_costs_the_variance_no_digits() -> None:
    raw = 1e4 + drawn(1, 5, 8, 8, 3)
    ones, share = torch.ones(1, 3), torch.full((1, 5), 0.2)
    _, _, variance = native.normalize(Features(raw, ones, ones, share), Pooling(False, 1e-5))
    expected = raw.double().flatten(0, 3).var(0, correction=0)
    torch.testing.assert_close(variance[0].double(), expected, rtol=1e-5, atol=0)


def test_of_equal_values_in_a_window_the_first_has_the_gradient() -> None:
    raw = torch.zeros(1, 1, 2, 2, 1)
    one = torch.ones(1, 1)
    of_raw, _, _ = native.scale_gradient(raw, one, one, torch.ones(1, 1, 1, 1, 1), pool=True)
    assert of_raw.flatten().tolist() == [1, 0, 0, 0]


def test_what_is_not_a_number_stays_so() -> None:
    raw = drawn(1, 2, 4, 4, 3)
    raw[0, 0, 0, 0, 1] = torch.nan
    ones = torch.ones(1, 3)
    for pool in (False, True):
        out, mean, _ = native.normalize(Features(raw, ones, ones, torch.full((1, 2), 0.5)), Pooling(pool, 1e-5))
        assert out[..., 1].isnan().all()
        assert mean[0].isnan().tolist() == [False, True, False]
        assert native.scale(raw, ones, ones, pool=pool)[0, 0, 0, 0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("size", [(1, 7, 2), (6, 64, 5), (9, 33, 12)])
def test_the_head_and_its_gradients_are_those_of_double_precision(size: tuple[int, int, int]) -> None:
    n, features, way = size
    rows, weight, bias = drawn(n, features), drawn(way, features, seed=1), drawn(way, seed=2)
    targets = torch.arange(n) % (way - 1)
    share = torch.arange(n) / max(1, n * (n - 1) / 2)  # the first does not count
    present = torch.ones(way)
    present[-1] = 0
    exact = [t.double().requires_grad_() for t in (rows, weight, bias)]
    logits = (exact[0] @ exact[1].T + exact[2])[:, :-1]
    loss = torch.dot(torch.nn.functional.cross_entropy(logits, targets, reduction="none"), share.double())
    ours = native.linear_cross_entropy(rows, weight, bias, targets, share, present)
    torch.testing.assert_close(ours[0].double(), loss.detach(), rtol=1e-5, atol=1e-6)
    for one, other in zip(ours[1:], torch.autograd.grad(loss, exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_a_head_of_numbers_that_are_none_has_a_loss_that_is_none() -> None:
    rows, weight = drawn(3, 4), drawn(2, 4)
    rows[1, 2] = torch.nan
    some = torch.zeros(2), torch.tensor([0, 1, 0]), torch.full((3,), 1 / 3), torch.ones(2)
    loss, of_features, of_weight, of_bias = native.linear_cross_entropy(rows, weight, *some)
    assert loss.isnan()
    assert of_weight.isnan().any()
    assert of_bias.isnan().all()
    assert of_features[[0, 2]].isfinite().all()


BLOCKS = {
    "pooled": (28, 1, {"channels": (32, 32, 8)}),
    "pooled, odd": (21, 3, {"channels": (32, 64, 20)}),
    "strided": (20, 1, {"channels": (12, 16), "downsample": "stride", "readout": "mean"}),
}


@contextmanager
def primitives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["kshot_models.networks.conv4"], "suits", lambda inputs: False)
        yield


def network(name: str, norm: NormMode = "support") -> tuple[Network, int, int]:
    size, channels, options = BLOCKS[name]
    spec = InputSpec(height=size, width=size, channels=channels, mean=(0.5,) * channels, std=(1.0,) * channels)
    return NETWORKS["conv4"](spec, norm, **options), size, channels


def adapted_loss(made: Network, size: int, channels: int, kind: torch.dtype, *, given: bool) -> list[Tensor]:
    """Two inner steps on five images and one of padding, the loss of seven queries, and its gradients."""
    generator = torch.Generator().manual_seed(0)
    init = made.init(generator)
    start = {k: (v + 0.1 * torch.randn(v.shape, generator=generator)).to(kind) for k, v in init.items()}
    images = torch.rand(6, channels, size, size, generator=generator).to(kind)
    queries = torch.rand(7, channels, size, size, generator=generator).to(kind)
    head = (torch.randn(made.features, 3, generator=generator) * 0.2).to(kind)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=kind)
    leaves = {name: value.requires_grad_() for name, value in start.items()}

    def loss(params: Params, inputs: Tensor, weights: Tensor | None, moments: Params | None) -> tuple[Tensor, Params]:
        features, used = made.apply(params, inputs, weights=weights, moments=moments)
        each = torch.nn.functional.cross_entropy(features @ head, torch.arange(len(inputs)) % 3, reduction="none")
        return (each * (1 if weights is None else weights)).mean(), used

    fast: Params = dict(leaves)
    for _ in range(2):
        value, _ = loss(fast, images, weights, None)
        grads = torch.autograd.grad(value, list(fast.values()), create_graph=True)
        fast = {name: value - 0.1 * grad for (name, value), grad in zip(fast.items(), grads, strict=True)}
    moments = loss(fast, images, weights, None)[1] if given else None
    value, _ = loss(fast, queries, None, moments)
    return [value.detach(), *torch.autograd.grad(value, list(leaves.values()))]


@pytest.mark.parametrize(("name", "given"), list(itertools.product(BLOCKS, [True, False])))
def test_the_meta_gradient_through_blocks_is_that_of_primitives_in_double_precision(
    name: str, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, size, channels = network(name)
    ours = adapted_loss(made, size, channels, torch.float32, given=given)
    with primitives(monkeypatch):
        exact = adapted_loss(made, size, channels, torch.float64, given=given)
    close(ours, exact, within=2e-4)


def test_blocks_without_second_derivatives_say_so() -> None:
    made, size, channels = network("strided")
    params = {name: value.requires_grad_() for name, value in made.init(torch.Generator().manual_seed(0)).items()}
    images = drawn(3, channels, size, size).requires_grad_()
    features, moments = made.apply(params, images, weights=None, moments=None)
    (grad,) = torch.autograd.grad(features.square().sum(), [images], create_graph=True)
    with pytest.raises(NotImplementedError, match="with respect to images"):
        grad.sum().backward()
    features, moments = made.apply(params, images.detach(), weights=None, moments=None)
    (grad,) = torch.autograd.grad(moments["norm2.mean"].sum(), [params["conv1.weight"]], create_graph=True)
    with pytest.raises(NotImplementedError, match="not of their moments"):
        grad.sum().backward()


def test_the_gradient_of_images_is_that_of_primitives(monkeypatch: pytest.MonkeyPatch) -> None:
    made, size, channels = network("pooled, odd")
    params = made.init(torch.Generator().manual_seed(0))
    moments = made.apply(params, drawn(5, channels, size, size), weights=None, moments=None)[1]

    def gradients() -> list[Tensor]:
        images = drawn(3, channels, size, size, seed=1).requires_grad_()
        own = made.apply(params, images, weights=None, moments=None)[0].square().sum()
        theirs = made.apply(params, images, weights=None, moments=moments)[0].square().sum()
        return [*torch.autograd.grad(own, images), *torch.autograd.grad(theirs, images)]

    ours = gradients()
    with primitives(monkeypatch):
        close(ours, gradients(), within=1e-4)


def test_nothing_is_held_after_a_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Tensor]] = []
    forward = blocks.forward

    def watched(*arguments: Any, **more: Any) -> blocks.Run:
        run = forward(*arguments, **more)
        held.append(weakref.ref(run.values))
        return run

    monkeypatch.setattr(blocks, "forward", watched)
    made, size, channels = network("strided")
    gc.collect()
    gc.disable()  # a cycle would wait for it, and training would grow until then
    try:
        adapted_loss(made, size, channels, torch.float32, given=False)
        assert held
        assert not any(reference() is not None for reference in held)
    finally:
        gc.enable()


def test_tensors_of_another_precision_are_refused() -> None:
    made, size, channels = network("pooled")
    params = made.init(torch.Generator().manual_seed(0))
    images = drawn(2, channels, size, size)
    with pytest.raises(TypeError, match=r"not float64"):
        made.apply(params, images, weights=torch.ones(2, dtype=torch.float64), moments=None)
    with pytest.raises(TypeError, match=r"not float16"):
        made.apply({name: value.half() for name, value in params.items()}, images, weights=None, moments=None)


def test_everywhere_double_precision_has_the_operations_of_batched() -> None:
    made, size, channels = network("pooled")
    params = {name: value.double() for name, value in made.init(torch.Generator().manual_seed(0)).items()}
    images = drawn(2, channels, size, size).double()
    expected, _ = made.apply(params, images, weights=None, moments=None)
    with everywhere():
        found, _ = made.apply(params, images, weights=None, moments=None)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_what_is_traced_is_made_of_primitives() -> None:
    made, size, channels = network("strided")
    params = made.init(torch.Generator().manual_seed(0))
    images = drawn(2, channels, size, size)
    assert suits(images)

    def features(params: Params, images: Tensor) -> Tensor:
        return made.apply(params, images, weights=None, moments=None)[0]

    graph = make_fx(features)(params, images)
    others = drawn(2, channels, size, size, seed=5)
    torch.testing.assert_close(graph(params, others), features(params, others), rtol=1e-4, atol=1e-5)
    assert any("convolution" in str(node.target) for node in graph.graph.nodes)
