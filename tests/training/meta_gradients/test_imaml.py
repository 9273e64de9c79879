"""The implicit meta-gradient against dense solves, unrolled MAML and the limit of no curvature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot_models.heads import linear
from kshot_models.inner import chain, newton_cg, proximal, sgd
from kshot_models.learners import GradientLearner
from kshot_models.losses import mean_squared_error
from kshot_models.manifest import InputSpec
from kshot_models.networks import Network
from kshot_models.types import Episode, Examples, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import MetaGradient, Metrics, imaml, through_adaptation
from kshot_training.peak_bytes import peak_bytes

WAY, STRENGTH = 3, 4.0
INPUT = InputSpec(height=3, width=3, channels=1, mean=(0.5,), std=(0.5,))
MLP = {"type": "mlp", "hidden": (4, 3), "activation": "tanh"}


def descent(rate: float = 0.15) -> list[dict[str, Any]]:
    return [{"type": "proximal", "strength": STRENGTH}, {"type": "sgd", "rate": rate}]


NEWTON = [{"type": "newton_cg", "strength": STRENGTH, "cg_steps": 30}]


def run(gradient: MetaGradient, learner: Any, meta: MetaParams, episodes: Episode, way: int = WAY) -> Any:
    return gradient(learner, meta, episodes, way=way, generator=torch.Generator())


def assert_equal(a: Params, b: Params, *, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        scale = float(b[name].abs().max().clamp_min(1e-3))
        assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, name


# ---- a quadratic: everything is known


def regression(steps: int, *, newton: bool = False) -> tuple[GradientLearner, MetaParams]:
    """y = W x + b over 3 features, squared error."""

    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        return inputs.flatten(1), {}

    inner = newton_cg(strength=STRENGTH) if newton else chain(proximal(strength=STRENGTH), sgd(rate=0.1))
    network = Network(lambda generator: {}, apply, 3)
    learner = GradientLearner(network, linear(3, way=1), inner, steps, norm="none", loss=mean_squared_error)
    init = {"head.weight": torch.tensor([[0.7, -0.3, 0.2]]).double(), "head.bias": torch.tensor([-0.2]).double()}
    return learner, MetaParams(init, {}, {})


def regression_episodes() -> Episode:
    generator = torch.Generator().manual_seed(2)

    def examples(count: int) -> Examples:
        inputs = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
        targets = torch.randn(2, count, generator=generator, dtype=torch.float64)
        return Examples(inputs, targets, torch.ones(2, count, dtype=torch.float64))

    return Episode(examples(7), examples(5))


def by_hand(meta: MetaParams, episodes: Episode, *, damping: float = 0.0) -> Tensor:
    """L = |X phi - y|^2 / n has H = 2 X^T X / n; phi* and the meta-gradient are two dense solves."""
    theta = torch.cat([meta.init["head.weight"].flatten(), meta.init["head.bias"]])
    eye, total = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for task in range(2):
        (h, c), (h_query, c_query) = (design(part, task) for part in episodes)
        phi = torch.linalg.solve(h + STRENGTH * eye, c + STRENGTH * theta)
        total += torch.linalg.solve((1 + damping) * eye + h / STRENGTH, h_query @ phi - c_query)
    return total / 2


def design(examples: Examples, task: int) -> tuple[Tensor, Tensor]:
    """Hessian and the negative gradient at 0."""
    rows = torch.cat([examples.inputs[task], torch.ones_like(examples.targets[task])[:, None]], 1)
    return 2 * rows.T @ rows / len(rows), 2 * rows.T @ examples.targets[task] / len(rows)


@pytest.mark.parametrize(("newton", "steps"), [(False, 80), (True, 2)])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_on_a_quadratic_it_is_the_dense_solve(newton: bool, steps: int, batching: Any, damping: float) -> None:
    learner, meta = regression(steps, newton=newton)
    episodes = regression_episodes()
    gradient = imaml(strength=STRENGTH, cg_steps=4, damping=damping, batching=batching, loss=mean_squared_error)
    grads, metrics = run(gradient, learner, meta, episodes, way=1)
    found = torch.cat([grads.init["head.weight"].flatten(), grads.init["head.bias"]])
    torch.testing.assert_close(found, by_hand(meta, episodes, damping=damping), rtol=1e-8, atol=1e-10)
    assert metrics.diagnostics["cg_residual"] < 1e-10
    assert metrics.diagnostics["inner_grad_norm"] < 1e-9
    assert metrics.diagnostics["cg_truncated"] == 0


def test_what_is_reported_is_true() -> None:
    learner, meta = regression(3)  # neither the inner problem nor the system is solved
    episodes = Episode(*(Examples(*(t[:1] for t in part)) for part in regression_episodes()))
    grads, metrics = run(imaml(strength=STRENGTH, cg_steps=2, loss=mean_squared_error), learner, meta, episodes, way=1)
    u = torch.cat([grads.init["head.weight"].flatten(), grads.init["head.bias"]])
    theta = torch.cat([meta.init["head.weight"].flatten(), meta.init["head.bias"]])
    (h, c), (h_query, c_query) = (design(part, 0) for part in episodes)
    phi = theta
    for _ in range(3):
        phi = phi - 0.1 * (h @ phi - c + STRENGTH * (phi - theta))
    outer = h_query @ phi - c_query
    residual = (outer - u - h @ u / STRENGTH).norm() / outer.norm()
    torch.testing.assert_close(metrics.diagnostics["cg_residual"], residual, rtol=1e-9, atol=0)
    norm = (h @ phi - c + STRENGTH * (phi - theta)).norm()
    torch.testing.assert_close(metrics.diagnostics["inner_grad_norm"], norm, rtol=1e-9, atol=0)
    assert 1e-4 < residual < 1
    assert norm > 1e-4


def test_without_curvature_it_is_first_order_maml() -> None:
    def straight(outputs: Tensor, examples: Examples) -> Tensor:
        return torch.dot(outputs.flatten() * examples.targets, examples.weights) / examples.weights.sum()

    learner, meta = regression(5)
    learner = dataclasses.replace(learner, loss=straight)
    episodes = regression_episodes()
    implicit, _ = run(imaml(strength=STRENGTH, loss=mean_squared_error), learner, meta, episodes, way=1)
    first, _ = run(through_adaptation(first_order=True, loss=mean_squared_error), learner, meta, episodes, way=1)
    assert_equal(implicit.init, first.init, tolerance=1e-12)


# ---- networks: MAML unrolled until the inner problem is solved

SOLVED: dict[str, Any] = {"inner": descent(), "steps": 100}
CURVED: dict[str, Any] = {"inner": descent(0.04), "steps": 200}  # prototypes start with large logits
HEADS: dict[str, dict[str, Any]] = {
    "linear": {"head": {"type": "linear", "way": WAY}},
    "shared": {"head": {"type": "shared", "init_scale": 1.0}},
    "prototype": {"head": {"type": "prototype", "learned_scale": True}, **CURVED},
    "head adapts": {"head": {"type": "shared"}, "adapt": ("head.*",)},
    "body adapts": {"head": {"type": "prototype"}, "adapt": ("body.*",), **CURVED},
}
MakeCase = Callable[..., Any]


@pytest.mark.parametrize("name", HEADS)
def test_it_is_maml_unrolled_to_convergence(name: str, make_case: MakeCase, make_episodes: MakeCase) -> None:
    learner, meta = make_case(network=MLP, norm="none", input_spec=INPUT, **{**SOLVED, **HEADS[name]})
    episodes = make_episodes(tasks=2, way=WAY, size=3)
    implicit, metrics = run(imaml(strength=STRENGTH, cg_steps=40), learner, meta, episodes)
    assert metrics.diagnostics["inner_grad_norm"] < 1e-10
    assert metrics.diagnostics["cg_residual"] < 1e-8
    unrolled, told = run(through_adaptation(), learner, meta, episodes)
    assert_equal(implicit.init, unrolled.init, tolerance=1e-7)
    torch.testing.assert_close(metrics[:2], told[:2], rtol=1e-12, atol=0)
    first, _ = run(through_adaptation(first_order=True), learner, meta, episodes)
    furthest = max(float((first.init[n] - unrolled.init[n]).abs().max()) for n in unrolled.init)
    assert furthest > 1e-3  # the comparison could have failed


def test_through_the_moments_of_the_support_set(make_case: MakeCase, make_episodes: MakeCase) -> None:
    learner, meta = make_case(network=MLP, norm="support", inner=NEWTON, steps=6, input_spec=INPUT)
    episodes = make_episodes(tasks=1, way=WAY, size=3)
    implicit, metrics = run(imaml(strength=STRENGTH, cg_steps=40), learner, meta, episodes)
    assert metrics.diagnostics["inner_grad_norm"] < 1e-10
    plain, meta = make_case(network=MLP, norm="support", inner=descent(0.1), steps=100, input_spec=INPUT)
    assert_equal(implicit.init, run(through_adaptation(), plain, meta, episodes)[0].init, tolerance=1e-7)


@pytest.mark.parametrize("inner", [descent(), NEWTON], ids=["descent", "newton"])
def test_vmap_equals_loop(inner: Any, make_case: MakeCase, make_episodes: MakeCase) -> None:
    learner, meta = make_case(inner=inner, steps=2)  # Conv4: norm gains, max-pool, and far from the minimum
    episodes = make_episodes(tasks=3, way=WAY)
    ways: list[dict[str, Any]] = [{"batching": "loop"}, {"batching": "vmap"}, {"batching": "vmap", "chunk_size": 2}]
    loop, *others = (run(imaml(strength=STRENGTH, cg_steps=3, **options), learner, meta, episodes) for options in ways)
    for grads, metrics in others:
        assert_equal(grads.init, loop[0].init, tolerance=1e-8)
        torch.testing.assert_close(metrics, loop[1], rtol=1e-8, atol=1e-10)
        assert isinstance(metrics, Metrics)


def test_rates_do_not_move_the_minimum_and_nothing_is_changed(make_case: MakeCase, make_episodes: MakeCase) -> None:
    inner = [{"type": "proximal", "strength": STRENGTH}, {"type": "lslr", "rate": 0.1, "steps": 2}]
    learner, meta = make_case(inner=inner)
    before = {name: tensor.clone() for name, tensor in {**meta.init, **meta.inner}.items()}
    grads, _ = run(imaml(strength=STRENGTH), learner, meta, make_episodes(way=WAY))
    assert grads.inner.keys() == meta.inner.keys()
    assert not any(grad.any() for grad in grads.inner.values())
    for name, tensor in {**meta.init, **meta.inner}.items():
        assert torch.equal(tensor, before[name])
        assert not tensor.requires_grad


def test_memory_is_flat_in_the_inner_steps(make_case: MakeCase, make_episodes: MakeCase) -> None:
    episodes = make_episodes(tasks=1, way=WAY, size=3)
    peaks = {}
    for steps in (10, 100):
        learner, meta = make_case(network=MLP, norm="none", inner=descent(), steps=steps, input_spec=INPUT)
        peaks[steps] = [
            peak_bytes(partial(run, gradient, learner, meta, episodes))
            for gradient in (imaml(strength=4.0), through_adaptation())
        ]
    assert peaks[100][0] <= 1.05 * peaks[10][0]
    assert peaks[100][1] > 5 * peaks[10][1]


def test_a_learner_without_an_inner_problem_is_refused(make_case: MakeCase, make_episodes: MakeCase) -> None:
    learner, meta = make_case(type="prototype", head={"type": "prototype"}, inner=[], steps=0)
    with pytest.raises(RecipeError, match="needs a gradient learner"):
        run(imaml(strength=1.0), learner, meta, make_episodes(way=WAY))
