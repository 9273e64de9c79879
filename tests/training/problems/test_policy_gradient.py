"""The policy gradient has the expectation that it claims: exactly, by quadrature over all noise, without sampling."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from kshot_models.inner import linear_rule, lstm, policy
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.tree import tree_map
from kshot_models.types import Params
from kshot_training.optimizer_gradient import normal_noise
from kshot_training.policy_gradient import PolicyGradient, charges, in_rollouts, relative_spread, roll_out
from kshot_training.problems import Problem, Quadratics
from kshot_training.unroll import optimize

SIGMA, STEPS, ROLLOUTS = 0.3, 2, 2
NODES, WEIGHTS = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)  # Gauss-Hermite: exact to degree 5


def fixed(means: Params) -> Params:
    return tree_map(lambda mean: torch.full_like(mean, SIGMA), means)


def parabolas() -> Problem:
    """(theta - 1)^2 and 0.3 (theta - 1)^2."""
    start = {"theta": torch.tensor([[2.5], [-0.5]], dtype=torch.float64)}
    slopes = torch.tensor([1.0, 0.3], dtype=torch.float64)
    return Problem(start, lambda params, step: slopes.to(params["theta"]) * (params["theta"][:, 0] - 1).square())


def every_noise(tasks: int) -> tuple[Tensor, Tensor]:
    """All nodes of the noise of every rollout and step, alike in all tasks: (nodes, steps, rollouts), weights."""
    width = STEPS * ROLLOUTS
    nodes = torch.tensor(list(itertools.product(NODES, repeat=width)), dtype=torch.float64)
    weights = torch.tensor(list(itertools.product(WEIGHTS, repeat=width)), dtype=torch.float64).prod(1)
    return nodes.reshape(-1, STEPS, ROLLOUTS, 1, 1).expand(-1, -1, -1, tasks, -1).flatten(2, 3), weights


def expected_cost(rule: InnerOptimizer, phi: Params, problem: Problem) -> float:
    """E[C] by quadrature over the noise of one rollout: two steps, one coordinate."""
    total = 0.0
    for pair in itertools.product(range(3), repeat=STEPS):
        eps = [torch.full((2, 1), NODES[i], dtype=torch.float64) for i in pair]
        rollout = roll_out(
            rule, phi, problem, steps=STEPS, spread=fixed, noise=lambda t, m, eps=eps: tree_map(lambda _: eps[t], m)
        )
        total += WEIGHTS[pair[0]] * WEIGHTS[pair[1]] * float(rollout.losses[1:].mean())
    return total


def test_the_estimates_mean_over_all_noise_is_the_derivative_of_the_expected_cost() -> None:
    # A linear rule on parabolas makes costs of degree 2 in each noise and estimates of degree 3: three nodes are exact.
    rule, problem = linear_rule(rate=0.1), parabolas()
    phi = {"gradient": torch.tensor(-0.2, dtype=torch.float64), "weight": torch.tensor(-0.05, dtype=torch.float64)}
    estimator = PolicyGradient(rule, STEPS, ROLLOUTS, fixed)
    nodes, weights = every_noise(2)
    mean, cost = tree_map(torch.zeros_like, phi), 0.0
    for eps, weight in zip(nodes, weights, strict=True):
        value, grads, _ = estimator(phi, problem, lambda t, m, eps=eps: tree_map(lambda _: eps[t], m))
        mean = tree_map(lambda total, grad, w=weight: total + w * grad, mean, grads)
        cost += float(weight * value)
    assert cost == pytest.approx(expected_cost(rule, phi, problem), rel=1e-12)
    for name, leaf in phi.items():
        high, low = (expected_cost(rule, {**phi, name: leaf + e}, problem) for e in (1e-5, -1e-5))
        assert float(mean[name]) == pytest.approx((high - low) / 2e-5, rel=1e-8), name


@pytest.mark.parametrize(
    "rule", [policy(history=3, hidden=4, rate=0.02), lstm(hidden=(4,), p=0)], ids=["policy", "lstm"]
)
@pytest.mark.parametrize("measure", ["loss", "log"])
def test_an_estimate_is_the_charged_score_of_what_was_done(rule: InnerOptimizer, measure: str) -> None:
    # By hand, one rollout at a time, in one graph: log densities of torch.distributions, costs above the others'.
    problem = Quadratics(dimensions=3, seed=1, start_scale=1.0).draw(0, 2)
    problem = problem._replace(start=tree_map(torch.Tensor.double, problem.start))
    drawn = rule.init(problem.start, torch.Generator().manual_seed(3))
    phi = {name: leaf.double().requires_grad_() for name, leaf in drawn.items()}
    eps = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    estimator = PolicyGradient(rule, 4, 3, relative_spread(0.2), "log" if measure == "log" else "loss", 0.5)
    cost, grads, final = estimator(phi, problem, lambda t, m: {"theta": eps[t]})
    scores, costs = [], []
    for row in range(6):
        theta, bound = problem.start["theta"][row % 2], rule.bind(phi)
        state, likelihoods, path = bound.init({"theta": theta}), [], []
        for t in range(4):
            at = theta.detach().requires_grad_()
            loss = problem.losses({"theta": at.expand(2, -1)}, t)[row % 2]
            (grad,) = torch.autograd.grad(loss, at)
            updates, state = bound.update({"theta": grad}, state, {"theta": at.detach()}, loss.detach())
            mean = updates["theta"]
            sigma = 0.2 * mean.detach().square().mean().sqrt()
            action = mean.detach() + sigma * eps[t, row]
            likelihoods.append(torch.distributions.Normal(mean, sigma).log_prob(action).sum())
            theta = theta + action
            after = problem.losses({"theta": theta.expand(2, -1)}, t + 1)[row % 2]
            first = problem.losses(problem.start, 0)[row % 2]
            path.append((after + 0.5 * first).log() if measure == "log" else after)
        scores.append(likelihoods)
        costs.append(torch.stack(path) / 4)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(6):
        others = torch.stack([costs[other] for other in range(6) if other % 2 == row % 2 and other != row]).mean(0)
        for t in range(4):
            total = total + scores[row][t] * (costs[row] - others)[t:].sum() / 6
    assert cost == pytest.approx(float(torch.stack(costs).sum(1).mean()), rel=1e-12)
    for ours, theirs in zip(grads.values(), torch.autograd.grad(total, list(phi.values())), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert final.shape == (6,)


def test_charges_are_what_follows_above_the_others() -> None:
    costs = torch.tensor([[1.0, 5.0, 3.0, 5.0], [0.0, 2.0, 4.0, 8.0]])  # two rollouts of two tasks, two steps
    torch.testing.assert_close(charges(costs, 2), torch.tensor([[-6.0, -6.0, 6.0, 6.0], [-4.0, -6.0, 4.0, 6.0]]))


def test_without_noise_all_rollouts_are_what_the_rule_does() -> None:
    rule, problem = policy(history=3, hidden=4, rate=0.02), Quadratics(dimensions=3, seed=1).draw(0, 2)
    phi = rule.init(problem.start, torch.Generator().manual_seed(3))
    rollout = roll_out(
        rule,
        phi,
        in_rollouts(problem, 3),
        steps=5,
        spread=relative_spread(0.5),
        noise=lambda t, m: tree_map(torch.zeros_like, m),
    )
    torch.testing.assert_close(rollout.losses, optimize(rule, phi, problem, 5).repeat(1, 3))


def test_each_block_is_tried_in_its_own_size_and_what_rests_is_left_alone() -> None:
    means = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([-0.5, 2.0])}
    spread = relative_spread(0.1)(means)
    torch.testing.assert_close(spread["a"], torch.tensor([[0.1 * 12.5**0.5], [0.0]]))
    torch.testing.assert_close(spread["b"], torch.tensor([0.05, 0.2]))
    at_rest = Problem({"theta": torch.zeros(2, 3)}, lambda params, step: params["theta"].square().sum(1))
    rule = policy(history=3, hidden=4)
    phi = rule.init(at_rest.start, torch.Generator().manual_seed(3))
    cost, grads, _ = PolicyGradient(rule, 3, 2, relative_spread(0.1))(phi, at_rest, normal_noise(0))
    assert cost == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads.values())


def test_noise_is_that_of_its_seed() -> None:
    means = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    one, same, other = (normal_noise(seed)(0, means) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in means)
    assert not torch.equal(one["a"], other["a"])
