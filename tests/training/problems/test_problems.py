"""Problems are functions of their number, and losses of parameters and step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kshot_models.manifest import InputSpec
from kshot_models.networks import conv4, mlp
from kshot_training.data import ImageClasses
from kshot_training.problems import ImageNetworks, ProblemFamily, Quadratics

SPEC = InputSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.5,))


def classes() -> ImageClasses:
    draws = np.random.default_rng(0)
    return ImageClasses.of({str(i): draws.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8) for i in range(6)}, SPEC)


FAMILIES: dict[str, Callable[[], ProblemFamily]] = {
    "quadratic": lambda: Quadratics(dimensions=4, seed=3),
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
