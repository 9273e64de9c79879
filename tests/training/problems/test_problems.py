"""Problems are functions of their number, and losses of parameters and step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_models.networks import conv4, mlp
from kshot_training.data import ImageClasses
from kshot_training.problems import ClusterNetworks, ImageNetworks, LogisticRegressions, ProblemFamily, Quadratics
from kshot_training.problems.gaussians import gaussian_points

SPEC = InputSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.5,))


def classes() -> ImageClasses:
    draws = np.random.default_rng(0)
    return ImageClasses.of({str(i): draws.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8) for i in range(6)}, SPEC)


FAMILIES: dict[str, Callable[[], ProblemFamily]] = {
    "quadratic": lambda: Quadratics(dimensions=4, seed=3),
    "logistic": lambda: LogisticRegressions(points=12, seed=3),
    "clusters": lambda: ClusterNetworks(hidden=5, points=12, seed=3),
    "mlp": lambda: ImageNetworks(classes=classes(), network=mlp(SPEC, "none", hidden=(5,)), way=3, batch=7, seed=3),
    "conv": lambda: ImageNetworks(
        classes=classes(), network=conv4(SPEC, "transductive", channels=(3, 4)), way=3, batch=7, start_scale=0.1, seed=3
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_number_is_a_problem(name: str) -> None:
    family = FAMILIES[name]()
    one, same, other = family.draw(4, 2), FAMILIES[name]().draw(4, 2), family.draw(5, 2)
    assert all(torch.equal(one.start[key], same.start[key]) for key in one.start)
    assert any(not torch.equal(one.start[key], other.start[key]) for key in one.start)
    assert torch.equal(one.losses(one.start, 0), same.losses(one.start, 0))
    assert not torch.equal(one.losses(one.start, 0), other.losses(one.start, 0))
    assert one.losses(one.start, 0).shape == (2,)
    first, second = (leaf[0] for leaf in one.start.values()), (leaf[1] for leaf in one.start.values())
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_each_step_has_a_mini_batch_of_its_own_and_only_that(name: str) -> None:
    problem = FAMILIES[name]().draw(0, 2)
    params = {key: p + 0.3 for key, p in problem.start.items()}
    losses = [problem.losses(params, step) for step in (0, 1, 0)]
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])


def test_a_quadratic_is_its_formula() -> None:
    problem = Quadratics(dimensions=2, seed=1).draw(0, 1)
    at = [torch.tensor([[a, b]]) for a, b in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, -1.0)]]
    zero, x, y, both, far = (problem.losses({"theta": theta}, 0).item() for theta in at)
    # f(a, b) = c + p a + q b + r a^2 + s b^2 + t a b with r, s >= 0: two more points than unknowns would need.
    t = both - x - y + zero
    minus = problem.losses({"theta": -at[1]}, 0).item(), problem.losses({"theta": -at[2]}, 0).item()
    r, p = (x + minus[0]) / 2 - zero, (x - minus[0]) / 2
    s, q = (y + minus[1]) / 2 - zero, (y - minus[1]) / 2
    assert min(r, s) > 0
    assert far == pytest.approx(zero + 2 * p - q + 4 * r + s - 2 * t, rel=1e-4)


def test_losses_at_zero_know_nothing_and_the_penalty_is_half_the_square() -> None:
    for name in ("logistic", "clusters"):
        problem = FAMILIES[name]().draw(0, 2)
        nothing = {key: torch.zeros_like(p) for key, p in problem.start.items()}
        torch.testing.assert_close(problem.losses(nothing, 0), torch.full((2,), np.log(2), dtype=torch.float32))
    heavy, light = (LogisticRegressions(decay=decay, seed=3).draw(0, 2) for decay in (0.5, 0.0))
    squares = heavy.start["weight"].square().sum(1) + heavy.start["bias"].square()
    torch.testing.assert_close(heavy.losses(heavy.start, 0), light.losses(heavy.start, 0) + squares / 4)


def test_a_logistic_regression_is_that_of_its_points() -> None:
    family = LogisticRegressions(points=8, decay=0.0, seed=3)
    problem = family.draw(1, 2)
    points = gaussian_points(2, 2, 4, 3, torch.Generator().manual_seed((3 << 32) + 1))
    for task in range(2):
        weight, bias = problem.start["weight"][task].numpy(), float(problem.start["bias"][task])
        chances = 1 / (1 + np.exp(-(points[task].numpy() @ weight + bias)))
        right = [*(1 - chances[:4]), *chances[4:]]
        assert float(problem.losses(problem.start, 0)[task]) == pytest.approx(-np.mean(np.log(right)), rel=1e-5)


def test_gaussians_have_random_means_and_covariances() -> None:
    points = gaussian_points(1, 4, 4000, 2, torch.Generator().manual_seed(0))[0].reshape(4, 4000, 2)
    draws = torch.Generator().manual_seed(0)
    means = torch.randn(1, 4, 1, 2, generator=draws)[0, :, 0]
    roots = torch.randn(1, 4, 2, 2, generator=draws)[0] / 2**0.5
    torch.testing.assert_close(points.mean(1), means, rtol=0, atol=0.1)
    for cloud, root in zip(points, roots, strict=True):
        torch.testing.assert_close(torch.cov(cloud.T), root @ root.T, rtol=0.1, atol=0.1)


def test_a_cluster_network_learns() -> None:
    problem = ClusterNetworks(seed=3).draw(0, 8)
    params = {key: p.requires_grad_() for key, p in problem.start.items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.05)
    first = problem.losses(params, 0).mean().item()
    for step in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(problem.losses(params, step).sum())
        optimizer.step()
    assert problem.losses(params, 100).mean().item() < 0.7 * first


def test_targets_belong_to_the_images_so_that_a_network_learns() -> None:
    shades = {str(i): np.full((5, 8, 8, 1), 50 * i, dtype=np.uint8) for i in range(6)}
    data = ImageClasses.of(shades, SPEC)
    family = ImageNetworks(classes=data, network=mlp(SPEC, "none", hidden=(16,)), way=3, batch=32, seed=3)
    problem = family.draw(0, 1)
    params = {key: p.requires_grad_() for key, p in problem.start.items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.02)
    losses = []
    for step in range(150):
        optimizer.zero_grad()
        loss = problem.losses(params, step).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.2 * losses[0]


def test_a_small_start_is_small_but_for_gains() -> None:
    start = FAMILIES["conv"]().draw(0, 4).start
    assert torch.equal(start["body.norm1.gain"], torch.ones(4, 3))
    others = torch.cat([leaf.flatten() for key, leaf in start.items() if not key.endswith(".gain")])
    assert others.std().item() == pytest.approx(0.1, rel=0.1)
