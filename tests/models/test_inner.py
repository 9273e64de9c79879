"""Inner optimizers against closed forms and torch.optim."""

from __future__ import annotations

import pytest
import torch

from kshot_models.inner import adam, chain, lslr, meta_sgd, proximal, sgd
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.serving import serving
from kshot_models.tree import tree_add, tree_map
from kshot_models.types import Params

A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
START = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64), "b": torch.tensor(0.5, dtype=torch.float64)}
GENERATOR = torch.Generator()  # none of these rules draws from it


def gradient(params: Params) -> Params:
    """Of w.Aw/2 + b^2."""
    return {"w": A @ params["w"], "b": 2 * params["b"]}


def run(optimizer: InnerOptimizer, phi: Params, steps: int) -> Params:
    rule, params = optimizer.bind(phi), START
    state = rule.init(params)
    for _ in range(steps):
        updates, state = rule.update(gradient(params), state, params, torch.tensor(0.0, dtype=torch.float64))
        params = tree_add(params, updates)
    return params


def test_sgd_on_a_quadratic_has_its_closed_form() -> None:
    out = run(sgd(rate=0.1), {}, 5)
    shrink = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - 0.1 * A, 5)
    torch.testing.assert_close(out["w"], shrink @ START["w"])
    torch.testing.assert_close(out["b"], START["b"] * 0.8**5)


def test_meta_sgd_with_equal_rates_is_sgd_and_scales_by_weight() -> None:
    phi = meta_sgd(rate=0.1).init(START, GENERATOR)
    torch.testing.assert_close(run(meta_sgd(rate=0.1), phi, 3), run(sgd(rate=0.1), {}, 3))
    phi = {"w": torch.tensor([0.3, -0.2], dtype=torch.float64), "b": torch.tensor(0.0, dtype=torch.float64)}
    out = run(meta_sgd(rate=9.0), phi, 1)
    torch.testing.assert_close(out["w"], START["w"] - phi["w"] * (A @ START["w"]))
    assert out["b"] == START["b"]


def test_lslr_uses_the_rate_of_the_tensor_and_step() -> None:
    optimizer = lslr(rate=0.1, steps=2)
    assert all(leaf.shape == (2,) for leaf in optimizer.init(START, GENERATOR).values())
    phi = {"w": torch.tensor([0.1, 0.3], dtype=torch.float64), "b": torch.tensor([0.2, -0.1], dtype=torch.float64)}
    out = run(optimizer, phi, 3)
    w = START["w"]
    for rate in (0.1, 0.3, 0.3):  # beyond the table the last entry goes on
        w = w - rate * (A @ w)
    torch.testing.assert_close(out["w"], w)
    torch.testing.assert_close(out["b"], START["b"] * 0.6 * 1.2 * 1.2)


@pytest.mark.parametrize(
    "rule", [sgd(rate=0.3), lslr(rate=0.1, steps=2), meta_sgd(rate=0.2)], ids=["sgd", "lslr", "meta_sgd"]
)
def test_what_a_rule_says_of_its_rates_is_what_it_does(rule: InnerOptimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    params = {"a": torch.randn(3, 4, generator=generator), "b": torch.randn(5, generator=generator)}
    phi = tree_map(lambda leaf: leaf * torch.rand(leaf.shape, generator=generator), rule.init(params, generator))
    assert rule.rates is not None
    bound = rule.bind(phi)
    state = bound.init(params)
    for step in range(4):
        grads = tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator), params)
        updates, state = bound.update(grads, state, params, torch.zeros(()))
        for name, grad in grads.items():
            by_step, by_weight = rule.rates(phi, name, 4)
            assert by_step.shape == (4,)
            factor = 1 if by_weight is None else by_weight
            torch.testing.assert_close(updates[name], -by_step[step] * factor * grad)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_equals_torchs(beta1: float) -> None:
    ours = run(adam(rate=0.05, beta1=beta1, beta2=0.99), {}, 6)
    theirs = tree_map(lambda p: p.clone().requires_grad_(), START)
    optimizer = torch.optim.Adam(theirs.values(), lr=0.05, betas=(beta1, 0.99), eps=1e-8)
    for _ in range(6):
        optimizer.zero_grad()
        for name, grad in gradient(tree_map(torch.Tensor.detach, theirs)).items():
            theirs[name].grad = grad
        optimizer.step()
    torch.testing.assert_close(ours, tree_map(torch.Tensor.detach, theirs))


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_in_one_call_is_adam(beta1: float) -> None:
    rule = adam(rate=0.05, beta1=beta1, beta2=0.99).bind({})
    params = tree_map(lambda p: p.float(), START)
    params["dead"] = torch.zeros(3)
    params["filters"] = torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)
    by_parts = in_one_call = rule.init(params)
    for step in range(4):
        grads = tree_map(lambda p: torch.randn(p.shape, generator=GENERATOR), params) | {"dead": torch.zeros(3)}
        if step % 2:  # filters' gradients lie as the kernels write them, or as autograd does
            grads["filters"] = grads["filters"].to(memory_format=torch.channels_last)
        expected, by_parts = rule.update(grads, by_parts, params, torch.tensor(0.0))
        before = [leaf.clone() for tree in in_one_call[:2] for leaf in tree.values()]
        taken = in_one_call
        with serving():
            found, in_one_call = rule.update(grads, taken, params, torch.tensor(0.0))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(in_one_call, by_parts)
        assert found["dead"].abs().max() == 0
        assert taken.steps == step
        assert all(map(torch.equal, before, [leaf for tree in taken[:2] for leaf in tree.values()]))


def test_adam_goes_on_from_carried_moments() -> None:
    optimizer = adam(rate=0.05, beta1=0.0, beta2=0.99, carry_moments=True)
    rule = optimizer.bind(tree_map(lambda t: t.double(), optimizer.init(START, GENERATOR)))
    params, state = START, rule.init(START)
    for _ in range(3):
        updates, state = rule.update(gradient(params), state, params, torch.tensor(0.0))
        params = tree_add(params, updates)
    carried = {**{f"second.{name}": v for name, v in state.second.items()}, "steps": state.steps}
    resumed = optimizer.bind(carried)
    on, _ = rule.update(gradient(params), state, params, torch.tensor(0.0))
    off, _ = resumed.update(gradient(params), resumed.init(params), params, torch.tensor(0.0))
    torch.testing.assert_close(on, off, rtol=0, atol=0)


def test_adam_with_a_dead_weight_has_finite_meta_gradients() -> None:
    start = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    rule = adam(rate=0.1, beta1=0.0).bind({})
    params = {"w": start}
    grads = {"w": start * torch.tensor([1.0, 0.0], dtype=torch.float64)}  # the second weight has no gradient
    updates, _ = rule.update(grads, rule.init(params), params, torch.tensor(0.0))
    (back,) = torch.autograd.grad((start + updates["w"]).sum(), start)
    assert back.isfinite().all()


def test_chain_feeds_one_link_to_the_next_and_keeps_names_apart() -> None:
    optimizer = chain(meta_sgd(rate=0.5), sgd(rate=-0.4))  # -0.5 g, then 0.4 * that: -0.2 g
    phi = optimizer.init(START, GENERATOR)
    assert set(phi) == {"0.w", "0.b"}
    torch.testing.assert_close(run(optimizer, phi, 4), run(sgd(rate=0.2), {}, 4))
    assert chain(sgd(rate=0.1)).init(START, GENERATOR) == {}


def test_proximal_descent_converges_to_its_closed_form() -> None:
    # argmin w.Aw/2 + b^2 + (s/2)|(w, b) - start|^2:  (A + s) w = s w_0,  (2 + s) b = s b_0.
    strength = 0.7
    out = run(chain(proximal(strength=strength), sgd(rate=0.3)), {}, 200)
    system = A + strength * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(out["w"], torch.linalg.solve(system, strength * START["w"]), rtol=1e-12, atol=0)
    torch.testing.assert_close(out["b"], strength * START["b"] / (2 + strength), rtol=1e-12, atol=0)


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_proximal_refuses_a_strength_that_does_not_pull(strength: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        proximal(strength=strength)
