"""Learned update rules against plain numpy, against gradient descent, and against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kshot_models.inner import InnerOptimizer, linear_rule, lstm, meta_learner_lstm, policy, sgd
from kshot_models.inner.coordinates import log_and_sign
from kshot_models.inner.per_tensor import per_tensor
from kshot_models.tree import tree_add, tree_map, under
from kshot_models.types import Params

Array = NDArray[np.float64]
A = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 1.5]], dtype=torch.float64)
START = {"w": torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), "b": torch.tensor([[0.5]], dtype=torch.float64)}
RULES: dict[str, InnerOptimizer] = {
    "lstm": lstm(hidden=(5, 4), scale=0.3),
    "lstm raw": lstm(hidden=(6,), p=0, scale=0.5),
    "meta_learner_lstm": meta_learner_lstm(hidden=5),
    "rows": meta_learner_lstm(hidden=5, gates="row"),
    "linear_rule": linear_rule(rate=0.1),
    "policy": policy(history=3, hidden=5, rate=0.1),
}
rules = pytest.mark.parametrize("name", RULES)


def loss_of(params: Params) -> Tensor:
    return params["w"] @ A @ params["w"] / 2 + (params["b"] ** 4).sum()


def gradient(params: Params) -> Params:
    return {"w": A @ params["w"], "b": 4 * params["b"] ** 3}


def fresh(rule: InnerOptimizer, seed: int = 0) -> Params:
    """Meta-parameters in fp64, moved off their starts so that nothing hides behind a small weight."""
    generator = torch.Generator().manual_seed(seed)
    phi = rule.init(START, generator)
    return {
        k: v.double() + 0.3 * torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in phi.items()
    }


def run(rule: InnerOptimizer, phi: Params, start: Params, steps: int) -> Params:
    bound, params = rule.bind(phi), start
    state = bound.init(params)
    for _ in range(steps):
        updates, state = bound.update(gradient(params), state, params, loss_of(params))
        params = tree_add(params, updates)
    return params


def np_sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def np_preprocess(value: float, p: float) -> list[float]:
    return (
        [math.log(abs(value)) / p, math.copysign(1, value)] if abs(value) >= math.exp(-p) else [-1, math.exp(p) * value]
    )


def np_cell(phi: Params, layer: str, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One coordinate, gate by gate."""
    n = len(h)
    wi, wh, b = (phi[f"{layer}.{part}"].numpy() for part in ("weight_input", "weight_hidden", "bias"))
    i, f, g, o = (wi[k * n : (k + 1) * n] @ x + wh[k * n : (k + 1) * n] @ h + b[k * n : (k + 1) * n] for k in range(4))
    c = np_sigmoid(f) * c + np_sigmoid(i) * np.tanh(g)
    return np_sigmoid(o) * np.tanh(c), c


def flat(params: Params) -> Array:
    return np.asarray(torch.cat([leaf.reshape(-1) for leaf in params.values()]).numpy())


@pytest.mark.parametrize("p", [10.0, 1.0, 0.0])
def test_lstm_equals_numpy_coordinate_by_coordinate(p: float) -> None:
    rule = lstm(hidden=(5, 4), p=p, scale=0.3)
    phi = fresh(rule)
    theta = flat(START)
    memory = [[np.zeros(5), np.zeros(5), np.zeros(4), np.zeros(4)] for _ in theta]
    for _ in range(4):
        grads = [*(A.numpy() @ theta[:3]), 4 * theta[3] ** 3]
        for k, (g, m) in enumerate(zip(grads, memory, strict=True)):
            x = np.array(np_preprocess(g, p) if p else [g])
            m[0], m[1] = np_cell(phi, "lstm1", x, m[0], m[1])
            m[2], m[3] = np_cell(phi, "lstm2", m[0], m[2], m[3])
            theta[k] += 0.3 * (phi["output.weight"].numpy() @ m[2] + float(phi["output.bias"]))
    np.testing.assert_allclose(flat(run(rule, phi, START, 4)), theta, rtol=1e-12)


def test_meta_learner_lstm_equals_numpy_coordinate_by_coordinate() -> None:
    rule = meta_learner_lstm(hidden=5, p=2.0, forget_bias=(1.0, 2.0), input_bias=(-2.0, -1.0))
    phi = fresh(rule)
    theta = flat(START)
    memory = [(np.zeros(5), np.zeros(5), 0.0, 0.0) for _ in theta]
    for _ in range(4):
        grads = [*(A.numpy() @ theta[:3]), 4 * theta[3] ** 3]
        loss = float(theta[:3] @ A.numpy() @ theta[:3] / 2 + theta[3] ** 4)
        for k, g in enumerate(grads):
            h, c, f, i = memory[k]
            h, c = np_cell(phi, "lstm", np.array(np_preprocess(loss, 2.0) + np_preprocess(g, 2.0)), h, c)
            f = phi["forget.weight"].numpy() @ [*h, theta[k], f] + float(phi["forget.bias"])
            i = phi["input.weight"].numpy() @ [*h, theta[k], i] + float(phi["input.bias"])
            memory[k] = (h, c, f, i)
            theta[k] = np_sigmoid(f) * theta[k] - np_sigmoid(i) * g
    np.testing.assert_allclose(flat(run(rule, phi, START, 4)), theta, rtol=1e-12)


def test_policy_equals_numpy_coordinate_by_coordinate() -> None:
    rule = policy(history=3, hidden=5, rate=0.1, p=2.0)
    phi = fresh(rule)
    w = {key: leaf.numpy() for key, leaf in phi.items()}
    theta, losses = flat(START), []
    windows: list[list[float]] = [[] for _ in theta]
    for _ in range(5):  # two steps longer than the window
        losses.insert(0, float(theta[:3] @ A.numpy() @ theta[:3] / 2 + theta[3] ** 4))
        past = [*losses[1:3], losses[-1], losses[-1]][:2]  # before the first step it had never changed
        changes = np.array([(losses[0] - f) / (losses[0] + f) for f in past])
        for k, g in enumerate([*(A.numpy() @ theta[:3]), 4 * theta[3] ** 3]):
            windows[k] = [g, *windows[k]][:3]
            scale = math.sqrt(np.mean(np.square(windows[k])))
            z = np.array([*windows[k], 0.0, 0.0][:3]) / scale
            size = np_preprocess(scale, 2.0)[0]
            seen = (
                w["hidden.gradients"] @ z + w["hidden.changes"] @ changes + w["hidden.scale"] * size + w["hidden.bias"]
            )
            step = w["output.gradients"] @ z + w["output.step"] @ np.tanh(seen)
            theta[k] += 0.1 * scale * math.exp(w["output.gain"] @ np.tanh(seen)) * step
    np.testing.assert_allclose(flat(run(rule, phi, START, 5)), theta, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_fresh_policy_is_descent_with_momentum(momentum: float) -> None:
    rule = policy(history=6, hidden=5, rate=0.05, momentum=momentum)
    phi = tree_map(torch.Tensor.double, rule.init(START, torch.Generator().manual_seed(0)))
    params = tree_map(lambda p: p.clone().requires_grad_(), START)
    optimizer = torch.optim.SGD(params.values(), lr=0.05, momentum=momentum)
    for _ in range(6):  # as long as nothing has left the window
        optimizer.zero_grad()
        loss_of(params).backward()
        optimizer.step()
    expected = tree_map(torch.Tensor.detach, params)
    # What momentum is made of is a float32 in a fresh rule.
    torch.testing.assert_close(run(rule, phi, START, 6), expected, rtol=1e-6, atol=1e-7)


def test_a_policy_that_does_not_read_sizes_takes_the_scale_of_the_problem() -> None:
    rule = policy(history=3, hidden=5, rate=0.1)
    phi = {**fresh(rule), "hidden.scale": torch.zeros(5, dtype=torch.float64)}

    def walk(scale: float) -> list[Tensor]:
        bound, state, steps = rule.bind(phi), rule.bind(phi).init(START), []
        for k in range(4):
            grads = tree_map(lambda g, k=k: scale * g.sin() * (1 + k), START)
            updates, state = bound.update(grads, state, START, torch.tensor(scale * (2.0 - k), dtype=torch.float64))
            steps.append(updates["w"])
        return steps

    for small, large in zip(walk(1.0), walk(1e6), strict=True):
        torch.testing.assert_close(large, 1e6 * small, rtol=1e-9, atol=0)


def test_a_policy_rests_where_there_never_was_a_gradient_and_has_a_derivative_there() -> None:
    rule = policy(history=3, hidden=5)
    phi = tree_map(lambda leaf: leaf.requires_grad_(), fresh(rule))
    grads = {"w": torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)}
    bound, loss = rule.bind(phi), torch.tensor(0.0, dtype=torch.float64)
    updates, _ = bound.update(grads, bound.init(grads), grads, loss)
    assert abs(updates["w"][0].item()) < 1e-14
    back = torch.autograd.grad(updates["w"].sum(), [grads["w"], *phi.values()], allow_unused=True)
    assert all(part.isfinite().all() for part in back if part is not None)


@pytest.mark.parametrize(("gates", "groups"), [("row", [[0, 1, 2], [3, 4, 5], [6]]), ("tensor", [range(6), [6]])])
def test_shared_gates_equal_numpy_group_by_group(gates: Literal["row", "tensor"], groups: list[list[int]]) -> None:
    rule = meta_learner_lstm(hidden=5, p=2.0, forget_bias=(1.0, 2.0), input_bias=(-2.0, -1.0), gates=gates)
    phi, generator = fresh(rule), torch.Generator().manual_seed(1)
    params = {"w": torch.randn(2, 3, generator=generator).double(), "b": torch.tensor(0.7, dtype=torch.float64)}
    bound, theta = rule.bind(phi), flat(params)
    state, memory = bound.init(params), [(np.zeros(5), np.zeros(5), 0.0, 0.0) for _ in groups]
    for _ in range(3):
        grads = {name: torch.randn(leaf.shape, generator=generator).double() for name, leaf in params.items()}
        updates, state = bound.update(grads, state, params, torch.tensor(0.6, dtype=torch.float64))
        params, slopes = tree_add(params, updates), flat(grads)
        for k, group in enumerate(groups):
            h, c, f, i = memory[k]
            g, t = np.abs(slopes[group]).mean(), np.abs(theta[group]).mean()
            h, c = np_cell(phi, "lstm", np.array(np_preprocess(0.6, 2.0) + np_preprocess(g, 2.0)), h, c)
            f = phi["forget.weight"].numpy() @ [*h, t, f] + float(phi["forget.bias"])
            i = phi["input.weight"].numpy() @ [*h, t, i] + float(phi["input.bias"])
            memory[k] = (h, c, f, i)
            theta[group] = np_sigmoid(f) * theta[group] - np_sigmoid(i) * slopes[group]
        np.testing.assert_allclose(flat(params), theta, rtol=1e-12)


def test_a_rule_for_each_tensor_is_each_tensor_alone() -> None:
    rule = meta_learner_lstm(hidden=3)
    apart = per_tensor(rule)
    phi = fresh(apart)
    assert {name.partition(":")[0] for name in phi} == {"w", "b"}
    assert not torch.equal(phi["w:forget.bias"], phi["b:forget.bias"])
    bound, params, loss = apart.bind(phi), START, torch.tensor(0.4, dtype=torch.float64)
    state = bound.init(params)
    for _ in range(3):
        updates, state = bound.update(gradient(params), state, params, loss)
        params = tree_add(params, updates)
    for name, leaf in START.items():
        alone, one = rule.bind(under(f"{name}:", phi)), {name: leaf}
        memory = alone.init(one)
        for _ in range(3):
            updates, memory = alone.update({name: gradient({**START, **one})[name]}, memory, one, loss)
            one = tree_add(one, updates)
        assert torch.equal(one[name], params[name])


@pytest.mark.parametrize("name", [name for name in RULES if name != "rows"])
def test_neither_order_nor_number_of_coordinates_matters(name: str) -> None:
    rule = RULES[name]
    phi = fresh(rule)
    generator = torch.Generator().manual_seed(1)
    grads = torch.randn(3, 7, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e-3, 1e-6])[:, None]
    theta = torch.randn(7, generator=generator, dtype=torch.float64)
    loss = torch.tensor(0.7, dtype=torch.float64)

    def walk(pick: Callable[[Tensor], Params]) -> Params:
        bound, params = rule.bind(phi), pick(theta)
        state = bound.init(params)
        for g in grads:
            updates, state = bound.update(pick(g), state, params, loss)
            params = tree_add(params, updates)
        return params

    together = walk(lambda v: {"all": v})["all"]
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    torch.testing.assert_close(walk(lambda v: {"all": v[order]})["all"], together[order], rtol=1e-12, atol=1e-14)
    parts = walk(lambda v: {"matrix": v[:6].reshape(2, 3), "scalar": v[6]})
    torch.testing.assert_close(
        torch.cat([parts["matrix"].reshape(-1), parts["scalar"][None]]), together, rtol=1e-12, atol=1e-14
    )
    alone = torch.cat([walk(lambda v, k=k: {"one": v[k : k + 1]})["one"] for k in range(7)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)


@rules
def test_the_gradient_through_an_unroll_equals_differences(name: str) -> None:
    rule = RULES[name]
    phi = fresh(rule)

    def final(phi: Params, start: Params) -> Tensor:
        return loss_of(run(rule, phi, start, 4))

    both = {**phi, **START}
    leaves = tree_map(lambda t: t.clone().requires_grad_(), both)

    def split(trees: Params) -> tuple[Params, Params]:
        return {key: trees[key] for key in phi}, {key: trees[key] for key in START}

    grads = torch.autograd.grad(final(*split(leaves)), list(leaves.values()))
    generator, epsilon = torch.Generator().manual_seed(2), 1e-6
    for key, grad in zip(leaves, grads, strict=True):
        direction = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
        high, low = (final(*split({**both, key: both[key] + e * direction})).item() for e in (epsilon, -epsilon))
        assert float((grad * direction).sum()) == pytest.approx((high - low) / (2 * epsilon), rel=2e-5, abs=1e-8), key


def test_log_and_sign_is_both_forms_of_the_preprocessing_and_has_a_gradient_everywhere() -> None:
    p = 5.0
    values = torch.tensor([0.0, 1e-9, -1e-9, 1e-3, 0.5, -2.0, 1e4], dtype=torch.float64, requires_grad=True)
    got = log_and_sign(values, p)
    clamped = torch.stack(
        [(values.abs().clamp_min(1e-300).log() / p).clamp_min(-1), (values * math.exp(p)).clamp(-1, 1)]
    )
    torch.testing.assert_close(got, clamped, rtol=1e-12, atol=0)
    (back,) = torch.autograd.grad(got.sum(), values)
    assert back.isfinite().all()
    assert back[0] == pytest.approx(math.exp(p))
    assert back[4] == pytest.approx(1 / (0.5 * p))


def test_meta_learner_lstm_with_pinned_gates_is_gradient_descent_exactly() -> None:
    rule = meta_learner_lstm(hidden=4)
    phi = fresh(rule)
    phi |= {name: torch.zeros_like(phi[name]) for name in ("forget.weight", "input.weight", "input.bias")}
    phi["forget.bias"] = torch.tensor(1000.0, dtype=torch.float64)  # sigmoid: 1; the input gate's sigmoid(0): 1/2
    expected = run(sgd(rate=0.5), {}, START, 5)
    assert all(torch.equal(leaf, expected[key]) for key, leaf in run(rule, phi, START, 5).items())


def test_fresh_gates_of_the_meta_learner_lstm_are_the_published_ones() -> None:
    for seed in range(5):
        phi = meta_learner_lstm().init(START, torch.Generator().manual_seed(seed))
        assert 4 <= phi["forget.bias"] <= 5
        assert -5 <= phi["input.bias"] <= -4
        others = [leaf for key, leaf in phi.items() if key not in {"forget.bias", "input.bias"}]
        assert all(leaf.abs().max() <= 0.01 for leaf in others)
    assert phi["forget.weight"].shape == (22,)
    assert phi["lstm.weight_input"].shape == (80, 4)


def test_linear_rule_from_its_start_is_gradient_descent_exactly() -> None:
    rule = linear_rule(rate=0.1)
    expected = run(sgd(rate=0.1), {}, START, 5)
    got = run(rule, rule.init(START, torch.Generator()), START, 5)
    assert all(torch.equal(leaf, expected[key]) for key, leaf in got.items())


def test_linear_rule_on_a_quadratic_has_its_closed_form() -> None:
    phi = {"gradient": torch.tensor(-0.2, dtype=torch.float64), "weight": torch.tensor(-0.05, dtype=torch.float64)}
    out = run(linear_rule(rate=9.0), phi, START, 6)
    shrink = torch.linalg.matrix_power(0.95 * torch.eye(3, dtype=torch.float64) - 0.2 * A, 6)
    torch.testing.assert_close(out["w"], shrink @ START["w"])


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, transposed in use: one parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3, bias=False)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(torch.tanh(self.encoder(x)))
        return decoded


@rules
def test_a_tied_weight_takes_one_step_by_the_sum_of_its_gradients(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = Tied().double(), torch.randn(4, 3, dtype=torch.float64)
    params = {key: p.detach() for key, p in model.named_parameters()}  # torch names a tied parameter once
    assert list(params) == ["encoder.weight"]

    def loss(params: Params) -> Tensor:
        return (torch.func.functional_call(model, params, inputs) - inputs).square().mean()

    grads = torch.func.grad(loss)(params)
    bound = RULES[name].bind(fresh(RULES[name]))
    updates, _ = bound.update(grads, bound.init(params), params, loss(params))
    weight = params["encoder.weight"]
    apart = {"encode": weight.clone().requires_grad_(), "decode": weight.clone().requires_grad_()}
    untied = (torch.tanh(inputs @ apart["encode"].T) @ apart["decode"].T - inputs).square().mean()
    total = sum(torch.autograd.grad(untied, [apart["encode"], apart["decode"]]), torch.zeros(3, 3))
    expected, _ = bound.update({"w": total}, bound.init({"w": weight}), {"w": weight}, untied.detach())
    torch.testing.assert_close(updates["encoder.weight"], expected["w"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "build",
    [
        lambda: lstm(hidden=()),
        lambda: lstm(scale=0),
        lambda: lstm(p=-1),
        lambda: meta_learner_lstm(hidden=0),
        lambda: meta_learner_lstm(input_bias=(1, 0)),
        lambda: policy(history=1),
        lambda: policy(rate=0),
    ],
)
def test_impossible_options_are_refused(build: Callable[[], InnerOptimizer]) -> None:
    with pytest.raises(ValueError, match="expected"):
        build()
