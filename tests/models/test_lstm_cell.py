"""The LSTM cell's kernel: against primitives in double precision, against differences, alone and inside the rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from kshot_models.batched import native
from kshot_models.inner import InnerOptimizer, lstm, meta_learner_lstm
from kshot_models.inner.fused_lstm_cell import fits, from_primitives, fused_lstm_cell
from kshot_models.inner.lstm_cell import lstm_cell
from kshot_models.inner.state import flatten
from kshot_models.tree import tree_add, tree_map
from kshot_models.types import Params

Cell = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
NAMES = ("weight_input", "weight_hidden", "bias")
# (tasks, inputs, hidden, n): less and more than a block of cases, whole blocks, many small tasks in one block.
SIZES = [(1, 1, 1, 1), (1, 2, 20, 131), (1, 20, 20, 256), (1, 4, 5, 700), (70, 3, 4, 10), (3, 2, 7, 257)]
sizes = pytest.mark.parametrize("size", SIZES)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cell_of(size: tuple[int, int, int, int]) -> Cell:
    """Weights, inputs and state of a cell, with an axis of tasks."""
    tasks, inputs, hidden, n = size
    shapes = (4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (tasks, inputs, n), (tasks, hidden, n)
    first = tuple(drawn(*shape, seed=seed) for seed, shape in enumerate(shapes))
    return (*first[:4], first[4].tanh(), 2 * drawn(tasks, hidden, n, seed=9))


def double(tensors: tuple[Tensor, ...], *, needed: bool = False) -> list[Tensor]:
    return [tensor.double().requires_grad_(needed) for tensor in tensors]


def packed(cell: Cell) -> Tensor:
    return torch.cat([cell[0], cell[2][:, None], cell[1]], 1)


def close(ours: Tensor | None, exact: Tensor, *, within: float = 2e-6) -> None:
    """The difference is at most `within` of the largest value."""
    assert ours is not None
    assert ours.shape == exact.shape
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() <= within * exact.abs().max()


def one_unit(before: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """h and c after a step of a single unit of these cell states, each (n,), and gates before sigmoids, (4, n)."""
    weights = torch.cat([torch.eye(4), torch.zeros(4, 2)], 1)
    state = torch.zeros(1, 1, len(before)), before[None, None]
    hidden, cell = native.lstm_step(weights, gates[None], state)
    return hidden[0, 0], cell[0, 0]


def test_sigmoids_and_tangents_are_right_to_three_ten_millionths_also_where_they_are_small() -> None:
    far = torch.linspace(-40, 40, 40001)
    near = torch.cat([torch.logspace(-30, 1, 5000), -torch.logspace(-30, 1, 5000), torch.tensor([30.0, -1e4, 1e20])])
    zero, open_, shut = torch.zeros_like(far), torch.full_like(far, 43), torch.full_like(far, -43)
    _, sigmoid = one_unit(torch.ones_like(far), torch.stack([shut, far, zero, open_]))
    assert (sigmoid / far.double().sigmoid() - 1).abs().max() < 3e-7
    hidden, _ = one_unit(far.new_full(far.shape, 20), torch.stack([shut, open_, zero, far]))
    assert (hidden / far.double().sigmoid() - 1).abs().max() < 3e-7
    open_, zero = open_[: len(near)], zero[: len(near)]
    tangent, kept = one_unit(near, torch.stack([-open_, open_, zero, open_]))
    assert kept.equal(near)
    assert (tangent / near.double().tanh() - 1).abs().max() < 3e-7
    _, written = one_unit(zero, torch.stack([open_, open_, near, open_]))
    assert (written / near.double().tanh() - 1).abs().max() < 3e-7


@sizes
@pytest.mark.parametrize("fresh", [False, True])
def test_a_step_and_its_gradients_are_those_of_double_precision(
    size: tuple[int, int, int, int], *, fresh: bool
) -> None:
    cell = cell_of(size)
    cell = (*cell[:4], cell[4] * (not fresh), cell[5] * (not fresh))
    state = None if fresh else cell[4:]
    exact = double(cell, needed=True)
    results = from_primitives(*exact)
    for one, other in zip(native.lstm_step(packed(cell), cell[3], state), results, strict=True):
        close(one, other.detach())
    grads = drawn(*cell[4].shape, seed=20), drawn(*cell[5].shape, seed=21)
    found = torch.autograd.grad(results, exact, double(grads))
    of_weights, *others = native.lstm_step_gradient(packed(cell), cell[3], state, grads, wanted=(True, True))
    inputs = size[1]
    of_hidden_weights = of_weights[:, inputs + 1 :]
    for one, other in zip(
        (of_weights[:, :inputs], of_weights[:, inputs], *others), (found[0], *found[2:]), strict=True
    ):
        close(one, other)
    if fresh:
        assert not of_hidden_weights.any()
    else:
        close(of_hidden_weights, found[1])


def test_gradients_that_are_not_there_count_as_none_and_those_not_wanted_are_not_made() -> None:
    cell = cell_of((1, 2, 3, 300))
    exact = double(cell, needed=True)
    grad_of = drawn(1, 3, 300, seed=3)
    for place in (0, 1):
        found = torch.autograd.grad(from_primitives(*exact)[place], exact, grad_of.double())
        grads = (grad_of, None) if place == 0 else (None, grad_of)
        ours = native.lstm_step_gradient(packed(cell), cell[3], cell[4:], grads, wanted=(False, False))
        assert ours[1:] == (None, None, None)
        close(ours[0], torch.cat([found[0], found[2][:, None], found[1]], 1))


def test_the_gradient_equals_differences() -> None:
    cell = tuple(part.squeeze(0) if part.ndim == 3 else part for part in cell_of((1, 2, 5, 40)))
    leaves = [part.clone().requires_grad_() for part in cell]
    readout = [drawn(5, 40, seed=seed) for seed in (30, 31)]

    def value(parts: list[Tensor]) -> Tensor:
        return sum(
            ((out * weight).double().sum() for out, weight in zip(fused_lstm_cell(*parts), readout, strict=True)),
            torch.zeros((), dtype=torch.float64),
        )

    grads = torch.autograd.grad(value(leaves), leaves)
    for k, found in enumerate(grads):
        direction, step = drawn(*found.shape, seed=40 + k), 1e-2
        high, low = (
            value([part + sign * step * direction if j == k else part for j, part in enumerate(cell)]).item()
            for sign in (1, -1)
        )
        assert float((found * direction).sum()) == pytest.approx((high - low) / (2 * step), rel=5e-3)


def test_the_same_inputs_give_the_same_bytes() -> None:
    cell = cell_of((2, 4, 6, 1000))
    grads = drawn(2, 6, 1000, seed=5), drawn(2, 6, 1000, seed=6)

    def all_of_it() -> list[Tensor | None]:
        step = native.lstm_step(packed(cell), cell[3], cell[4:])
        return [*step, *native.lstm_step_gradient(packed(cell), cell[3], cell[4:], grads, wanted=(True, True))]

    for one, again in zip(all_of_it(), all_of_it(), strict=True):
        assert one is not None
        assert again is not None
        assert one.equal(again)


def test_what_is_not_a_number_stays_so_and_in_its_place() -> None:
    cell = cell_of((1, 2, 3, 300))
    cell[3][0, 0, 17] = torch.nan
    cell[5][0, 1, 200] = torch.inf
    hidden, after = native.lstm_step(packed(cell), cell[3], cell[4:])
    assert hidden[0, :, 17].isnan().all()
    assert after[0, :, 17].isnan().all()
    assert after[0, 1, 200] == torch.inf
    assert int(hidden.isfinite().sum()) == 3 * 299
    of_weights, *_ = native.lstm_step_gradient(packed(cell), cell[3], None, (hidden, None), wanted=(False, False))
    assert of_weights[:, :3].isnan().all()


def test_second_derivatives_are_those_of_the_primitives() -> None:
    cell = tuple(part.squeeze(0) if part.ndim == 3 else part for part in cell_of((1, 2, 3, 50)))

    def curvature(step: Callable[..., tuple[Tensor, Tensor]], parts: list[Tensor]) -> list[Tensor]:
        # Two steps, of which the second has a state that was made of the weights.
        first = step(*parts)
        out = torch.cat(step(*parts[:4], *first))
        slopes = torch.autograd.grad(out.square().sum(), parts, create_graph=True)
        return list(torch.autograd.grad(sum((s.square().sum() for s in slopes), torch.zeros(())), parts))

    exact = curvature(from_primitives, double(cell, needed=True))
    ours = curvature(fused_lstm_cell, [part.clone().requires_grad_() for part in cell])
    for one, other in zip(ours, exact, strict=True):
        close(one, other, within=1e-4)


def test_mapping_is_looping_with_weights_that_are_shared_and_with_weights_of_each_task() -> None:
    cell = cell_of((3, 2, 4, 30))
    each = tuple(torch.stack([part * scale for scale in (1.0, 0.5, -1.0)]) for part in cell[:3])
    asked = []

    def step(*parts: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(fits(*parts))
        return lstm_cell(dict(zip(NAMES, parts[:3], strict=True)), *parts[3:])

    for weights, places in ((cell[:3], None), (each, 0)):
        together = vmap(step, in_dims=(places,) * 3 + (0, 0, 0))(*weights, *cell[3:])
        for task in range(3):
            own = weights if places is None else tuple(part[task] for part in weights)
            alone = step(*own, *(part[task] for part in cell[3:]))
            for one, other in zip(together, alone, strict=True):
                close(one[task], other)
    pair = [torch.stack([part, -part]) for part in cell[3:]]
    for weights, places in ((cell[:3], None), ((each[0][:2], each[1][:2], each[2][:2]), 0)):
        inside = vmap(step, in_dims=(None, None, None, 0, 0, 0))
        twice = vmap(inside, in_dims=(places,) * 3 + (0, 0, 0))(*weights, *pair)
        for k in range(2):
            own = weights if places is None else tuple(part[k] for part in weights)
            for one, other in zip(twice, inside(*own, *(part[k] for part in pair)), strict=True):
                close(one[k], other)
    assert all(asked)


def test_the_kernel_gives_way_to_other_transforms_to_double_precision_and_to_tracing() -> None:
    cell = tuple(part.squeeze(0) if part.ndim == 3 else part for part in cell_of((1, 2, 3, 20)))
    asked = []

    def value(bias: Tensor) -> Tensor:
        parts = (*cell[:2], bias, *cell[3:])
        asked.append(fits(*parts))
        return lstm_cell(dict(zip(NAMES, parts[:3], strict=True)), *parts[3:])[0].square().sum()

    leaf = cell[2].clone().requires_grad_()
    (plain,) = torch.autograd.grad(value(leaf), leaf)
    assert asked.pop()
    close(grad(value)(cell[2]), plain)
    make_fx(value)(cell[2])
    assert not any(asked)
    assert not fits(*double(cell))
    assert not fits(*cell[:5], cell[5].double())


RULES: dict[str, InnerOptimizer] = {
    "lstm": lstm(hidden=(5, 4), scale=0.3),
    "lstm raw": lstm(hidden=(6,), p=0, scale=0.5),
    "meta_learner_lstm": meta_learner_lstm(hidden=5, forget_bias=(2.0, 3.0), input_bias=(-2.0, -1.0)),
    "rows": meta_learner_lstm(hidden=5, gates="row"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_unrolled_in_single_precision_has_the_meta_gradient_of_double_precision(name: str) -> None:
    rule, generator = RULES[name], torch.Generator().manual_seed(1)
    start = {"w": torch.randn(30, 20, generator=generator), "b": torch.randn(7, generator=generator)}
    targets = {key: torch.randn(leaf.shape, generator=generator) for key, leaf in start.items()}
    phi = tree_map(lambda leaf: leaf + 0.3 * torch.randn(leaf.shape, generator=generator), rule.init(start, generator))

    def meta_gradient(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves: Params = {key: leaf.to(dtype).requires_grad_() for key, leaf in phi.items()}
        bound, params = rule.bind(leaves), tree_map(lambda leaf: leaf.to(dtype), start)
        goal, state, total = (
            tree_map(lambda leaf: leaf.to(dtype), targets),
            bound.init(params),
            torch.zeros((), dtype=dtype),
        )
        for _ in range(3):
            loss = torch.stack([(params[key] - goal[key]).square().mean() for key in params]).sum()
            slopes = {key: (params[key] - goal[key]).detach() for key in params}
            updates, state = bound.update(slopes, state, params, loss.detach())
            params, total = tree_add(params, updates), total + loss
        loss = torch.stack([(params[key] - goal[key]).square().mean() for key in params]).sum()
        assert all(part.dtype == dtype for part in flatten(state)[0])
        return torch.autograd.grad(total + loss, list(leaves.values()))

    for ours, exact in zip(meta_gradient(torch.float32), meta_gradient(torch.float64), strict=True):
        close(ours, exact, within=2e-5)


@pytest.mark.parametrize("name", ["lstm", "meta_learner_lstm"])
def test_the_first_state_is_zeros_that_take_no_memory(name: str) -> None:
    params = {"w": torch.ones(400)}
    bound = RULES[name].bind(tree_map(torch.Tensor.detach, RULES[name].init(params, torch.Generator().manual_seed(0))))
    state = bound.init(params)
    tensors, rebuild = flatten(state)
    assert not any(bool(part.any()) for part in tensors)
    assert any(part.untyped_storage().nbytes() == 4 for part in tensors)
    loss, slopes = torch.tensor(0.3), {"w": torch.linspace(-1, 1, 400)}
    one, other = (
        bound.update(slopes, given, params, loss) for given in (state, rebuild([part.clone() for part in tensors]))
    )
    for ours, again in zip(flatten(one)[0], flatten(other)[0], strict=True):
        torch.testing.assert_close(ours, again, rtol=1e-6, atol=1e-7)
