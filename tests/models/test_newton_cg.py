"""Conjugate gradients and the Newton-CG inner solver against dense linear algebra."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from kshot_models.inner import chain, newton_cg, proximal, sgd
from kshot_models.inner.conjugate_gradient import Solution, conjugate_gradient
from kshot_models.inner.proximal import pulled_back
from kshot_models.inner.transformation import InnerOptimizer, Objective
from kshot_models.tree import tree_add, tree_dot
from kshot_models.types import Params


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive_definite(size: int, seed: int) -> Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.T / size + torch.eye(size, dtype=torch.float64)


def solve(matrix: Tensor, b: Tensor, *, steps: int) -> Solution:
    """With the vector in two leaves, so that products go over the whole tree."""

    def operator(v: Params) -> Params:
        product = matrix @ torch.cat([v["a"], v["b"]])
        return {"a": product[:2], "b": product[2:]}

    return conjugate_gradient(operator, {"a": b[:2], "b": b[2:]}, steps=steps)


def joined(solution: Solution) -> Tensor:
    return torch.cat([solution.x["a"], solution.x["b"]])


@pytest.mark.parametrize("steps", [7, 30])
@pytest.mark.parametrize("seed", range(3))
def test_cg_is_the_dense_solve(seed: int, steps: int) -> None:
    matrix, b = positive_definite(7, seed), normal(7, seed=seed + 10)
    solution = solve(matrix, b, steps=steps)
    torch.testing.assert_close(joined(solution), torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-11)
    assert solution.residual < 1e-9
    assert solution.truncated == 0


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_residual_is_the_true_one_and_the_iterate_minimizes_over_the_krylov_space(steps: int) -> None:
    matrix, b = positive_definite(7, 1), normal(7, seed=11)
    solution = solve(matrix, b, steps=steps)
    true = (b - matrix @ joined(solution)).norm() / b.norm()
    torch.testing.assert_close(solution.residual, true, rtol=1e-10, atol=0)
    krylov = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(matrix, k) @ b for k in range(steps)], 1))[0]
    best = krylov @ torch.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ b)
    torch.testing.assert_close(joined(solution), best, rtol=1e-9, atol=1e-11)


def test_negative_curvature_freezes_the_iterate() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0, -0.6], dtype=torch.float64))
    b = torch.ones(4, dtype=torch.float64)
    counts = [solve(matrix, b, steps=steps) for steps in range(1, 9)]
    end = next(i for i, solution in enumerate(counts) if solution.truncated == 1)
    assert end >= 1  # b itself has positive curvature
    for later in counts[end:]:
        assert later.truncated == 1
        torch.testing.assert_close(joined(later), joined(counts[end - 1]), rtol=0, atol=0)
        true = (b - matrix @ joined(later)).norm() / b.norm()
        torch.testing.assert_close(later.residual, true, rtol=1e-12, atol=0)


def test_no_curvature_along_the_right_side_gives_the_right_side() -> None:
    b = normal(5, seed=3)
    matrix = -2 * torch.eye(5, dtype=torch.float64)
    solution = solve(matrix, b, steps=4)
    assert torch.equal(joined(solution), b)
    assert solution.truncated == 1
    assert solution.residual == pytest.approx(3.0)


def test_a_right_side_of_zero_has_the_solution_zero() -> None:
    solution = solve(positive_definite(4, 0), torch.zeros(4, dtype=torch.float64), steps=3)
    assert torch.equal(joined(solution), torch.zeros(4, dtype=torch.float64))
    assert solution.residual == 0
    assert solution.truncated == 0


def test_the_lanes_of_a_vmap_end_on_their_own() -> None:
    eye = torch.eye(5, dtype=torch.float64)
    matrices = torch.stack([positive_definite(5, 0), -eye, eye, torch.diag(normal(5, seed=4))])
    sides = normal(4, 5, seed=5)
    batched = vmap(partial(solve, steps=6))(matrices, sides)
    for lane in range(4):
        alone = solve(matrices[lane], sides[lane], steps=6)
        torch.testing.assert_close(batched.x["b"][lane], alone.x["b"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(batched.residual[lane], alone.residual, rtol=1e-6, atol=1e-14)
        assert batched.truncated[lane] == alone.truncated


def descend(optimizer: InnerOptimizer, objective: Objective, start: Params, steps: int) -> Params:
    rule, params = optimizer.bind({}), start
    state = rule.init(params)
    for _ in range(steps):
        updates, state = rule.update(grad(objective)(params), state, params, objective(params), objective=objective)
        params = tree_add(params, updates)
    return params


def test_one_newton_step_minimizes_a_quadratic() -> None:
    matrix, offset, strength = positive_definite(6, 2), normal(6, seed=12), 0.7
    start = {"w": normal(6, seed=13)}

    def objective(params: Params) -> Tensor:
        away = params["w"] - offset
        return away @ matrix @ away / 2

    out = descend(newton_cg(strength=strength, cg_steps=6), objective, start, 1)
    eye = torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(matrix + strength * eye, matrix @ offset + strength * start["w"])
    torch.testing.assert_close(out["w"], expected, rtol=1e-9, atol=1e-11)


def mlp_problem() -> tuple[Objective, Params]:
    """Cross-entropy of a small MLP with tanh."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    start = {name: 0.5 * normal(*p.shape, seed=i) for i, (name, p) in enumerate(net.named_parameters())}
    inputs, targets = normal(9, 4, seed=20), torch.arange(9) % 3

    def objective(params: Params) -> Tensor:
        return torch.nn.functional.cross_entropy(functional_call(net, params, (inputs,)), targets)

    return objective, start


def regularised_grad_norm(objective: Objective, at: Params, start: Params, strength: float) -> float:
    slope = pulled_back(grad(objective)(at), at, start, strength)
    return float(tree_dot(slope, slope).sqrt())


def test_newton_cg_is_nearer_to_the_minimum_than_as_many_gradient_steps() -> None:
    objective, start = mlp_problem()
    strength, steps = 0.3, 5
    newton = descend(newton_cg(strength=strength), objective, start, steps)
    reached = regularised_grad_norm(objective, newton, start, strength)
    for rate in (0.1, 0.3, 1.0, 3.0):
        plain = descend(chain(proximal(strength=strength), sgd(rate=rate)), objective, start, steps)
        assert reached < 0.5 * regularised_grad_norm(objective, plain, start, strength), rate


def test_whole_newton_steps_converge_quadratically() -> None:
    objective, start = mlp_problem()
    strength = 1.0  # the regularised loss is convex here
    exact = newton_cg(strength=strength, cg_steps=60)  # 51 weights
    norms = [
        regularised_grad_norm(objective, descend(exact, objective, start, steps), start, strength)
        for steps in range(1, 7)
    ]
    assert norms[-1] < 1e-12
    assert any(after < before**1.8 < 1e-3 for before, after in pairwise(norms))


def test_steps_go_down_even_where_the_loss_is_not_convex() -> None:
    def objective(params: Params) -> Tensor:
        return (torch.cos(3 * params["w"]) + 0.1 * params["w"].square()).sum()

    start = {"w": torch.linspace(-0.4, 0.5, 5, dtype=torch.float64)}  # about the maximum at 0
    values = []
    for steps in range(15):
        out = descend(newton_cg(strength=0.01), objective, start, steps)
        away = out["w"] - start["w"]
        values.append(float(objective(out) + 0.005 * away @ away))
    assert all(after < before for before, after in pairwise(values[:4]))
    assert all(after <= before for before, after in pairwise(values))
    assert regularised_grad_norm(objective, out, start, 0.01) < 1e-3


def test_a_step_that_cannot_go_down_is_not_taken() -> None:
    def cliff(params: Params) -> Tensor:
        # Infinite but at the start; the gradient there promises descent.
        moved = (params["w"] != 0).any()
        return params["w"].sum() + torch.where(moved, torch.inf, 0.0)

    start = {"w": torch.zeros(3, dtype=torch.float64)}
    out = descend(newton_cg(strength=1.0), cliff, start, 2)
    assert torch.equal(out["w"], start["w"])


def test_newton_cg_says_what_it_needs() -> None:
    rule = newton_cg(strength=1.0).bind({})
    params = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="needs the objective"):
        rule.update(params, rule.init(params), params, torch.tensor(0.0))
    with pytest.raises(ValueError, match="expected strength above 0"):
        newton_cg(strength=0.0)
