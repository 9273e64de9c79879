"""The unroll against torch written out step by step, and against differences where they are defined."""

from __future__ import annotations

import pytest
import torch

from kshot_models.inner import linear_rule, lstm, meta_learner_lstm, sgd
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.types import Params
from kshot_training.problems import Problem, Quadratics
from kshot_training.unroll import Measure, Unroll, begin, optimize

RULES = {
    "lstm": lstm(hidden=(5, 4), scale=0.1),
    "meta_learner_lstm": meta_learner_lstm(hidden=5, input_bias=(-2.0, -1.0)),
    "linear_rule": linear_rule(rate=0.02),
}


def fresh(rule: InnerOptimizer) -> Params:
    drawn = rule.init({"theta": torch.zeros(3)}, torch.Generator().manual_seed(3))
    return {name: leaf.double().requires_grad_() for name, leaf in drawn.items()}


def quadratic(tasks: int = 2) -> Problem:
    problem = Quadratics(dimensions=3, seed=2, start_scale=1.0).draw(0, tasks)
    return problem._replace(start={name: p.double() for name, p in problem.start.items()})


def by_hand(
    rule: InnerOptimizer, phi: Params, problem: Problem, weights: list[float], measure: Measure
) -> torch.Tensor:
    """One task at a time, one graph, gradients detached where the paper says so."""
    total = torch.zeros((), dtype=torch.float64)
    tasks = len(problem.start["theta"])
    for task in range(tasks):

        def loss_of(theta: torch.Tensor, step: int, task: int = task) -> torch.Tensor:
            return problem.losses({"theta": theta.expand(tasks, -1)}, step)[task]

        theta, bound = problem.start["theta"][task], rule.bind(phi)
        state = bound.init({"theta": theta})
        for step, weight in enumerate(weights):
            at = theta.detach().requires_grad_()
            loss = loss_of(at, step)
            (grad,) = torch.autograd.grad(loss, at)
            updates, state = bound.update({"theta": grad}, state, {"theta": theta}, loss.detach())
            theta = theta + updates["theta"]
            after = loss_of(theta, step + 1)
            total = total + weight * (after.log() if measure == "log" else after)
    return total / tasks / sum(weights)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("measure", ["loss", "log"])
def test_meta_loss_and_gradient_are_those_of_the_definition(name: str, measure: Measure) -> None:
    rule, problem, weights = RULES[name], quadratic(), [1.0, 0.0, 2.0, 0.5]
    phi = fresh(rule)
    value, final, walk = Unroll(rule, 4, weights, measure)(phi, problem, begin(rule, phi, problem))
    expected = by_hand(rule, phi, problem, weights, measure)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
    for ours, theirs in zip(
        torch.autograd.grad(value, list(phi.values())), torch.autograd.grad(expected, list(phi.values())), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert walk.taken == 4
    torch.testing.assert_close(final, problem.losses({"theta": walk.params["theta"].detach()}, 4))


# The Meta-Learner LSTM also reads the loss, which counts as a constant and is none.
@pytest.mark.parametrize("name", ["lstm", "linear_rule"])
def test_where_gradients_are_constants_anyway_it_is_the_derivative(name: str) -> None:
    # On a linear loss nothing is lost by treating gradients as constants: differences see the same.
    slope = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    start = {"theta": torch.tensor([[0.5, -0.4, 1.0]], dtype=torch.float64)}
    problem = Problem(start, lambda params, step: (params["theta"] * slope).sum(-1) * (1 + step))
    rule = RULES[name]
    phi = fresh(rule)

    def value(phi: Params) -> torch.Tensor:
        return Unroll(rule, 3)(phi, problem, begin(rule, phi, problem))[0]

    grads = torch.autograd.grad(value(phi), list(phi.values()))
    generator, epsilon = torch.Generator().manual_seed(1), 1e-6
    for (key, leaf), grad in zip(phi.items(), grads, strict=True):
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        high, low = (value({**phi, key: leaf.detach() + e * direction}).item() for e in (epsilon, -epsilon))
        assert float((grad * direction).sum()) == pytest.approx((high - low) / (2 * epsilon), rel=1e-5, abs=1e-9), key


def test_two_stretches_are_one_walk() -> None:
    rule, problem = RULES["lstm"], quadratic()
    phi = {name: leaf.detach() for name, leaf in fresh(rule).items()}
    _, first, walk = Unroll(rule, 3)(phi, problem, begin(rule, phi, problem))
    _, second, walk = Unroll(rule, 2)(phi, problem, walk)
    path = optimize(rule, phi, problem, 5)
    torch.testing.assert_close(first, path[3])
    torch.testing.assert_close(second, path[5])


def test_tasks_do_not_see_each_other() -> None:
    rule, problem = RULES["meta_learner_lstm"], quadratic(3)
    phi = {name: leaf.detach() for name, leaf in fresh(rule).items()}
    alone = problem._replace(
        start={name: p[:1] for name, p in problem.start.items()},
        losses=lambda params, step: problem.losses({n: p.expand(3, -1) for n, p in params.items()}, step)[:1],
    )
    torch.testing.assert_close(optimize(rule, phi, problem, 4)[:, :1], optimize(rule, phi, alone, 4))


def test_descent_on_a_quadratic_has_its_closed_form() -> None:
    problem = quadratic(1)
    path = optimize(sgd(rate=0.01), {}, problem, 20)
    start = problem.start["theta"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(problem.losses({"theta": start}, 0).sum(), start)
    hessian = torch.autograd.functional.hessian(
        lambda t: problem.losses({"theta": t[None]}, 0).sum(), start.detach()[0]
    )
    bottom = start.detach()[0] - torch.linalg.solve(hessian, slope[0])
    shrink = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - 0.01 * hessian, 20)
    end = bottom + shrink @ (start.detach()[0] - bottom)
    torch.testing.assert_close(path[-1], problem.losses({"theta": end[None]}, 0))
