"""FOMAML, Reptile and joint training against formulas worked out by hand.

The model is linear regression, y = w x + b on scalars with squared error, whose gradients and Hessian are known:
    L(w, b) = mean_i (w x_i + b - y_i)^2,  grad = 2 A (w, b) - 2 c,  A = mean [x_i; 1][x_i; 1]^T,  c = mean y_i [x_i; 1]
so SGD gives phi' = phi - 2 alpha (A phi - c), and d phi_n / d theta = (I - 2 alpha A)^n.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot_models.heads import linear
from kshot_models.inner import sgd
from kshot_models.learners import GradientLearner
from kshot_models.losses import mean_squared_error
from kshot_models.networks import Network
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Examples, MetaParams, Params
from kshot_training.errors import RecipeError
from kshot_training.meta_gradients import joint, reptile, through_adaptation
from kshot_training.meta_gradients.reptile import mini_batches, plan_steps

ALPHA, STEPS, TASKS = 0.1, 3, 4


def identity_network() -> Network:
    def apply(
        params: Params, inputs: Tensor, *, weights: Tensor | None, moments: Params | None
    ) -> tuple[Tensor, Params]:
        return inputs.flatten(1), {}

    return Network(lambda generator: {}, apply, 1)


@pytest.fixture
def learner() -> GradientLearner:
    return GradientLearner(
        identity_network(), linear(1, way=1), sgd(rate=ALPHA), STEPS, norm="none", loss=mean_squared_error
    )


@pytest.fixture
def meta(learner: GradientLearner) -> MetaParams:
    meta = meta_map(lambda t: t.double(), learner.init(torch.Generator().manual_seed(0)))
    return meta._replace(
        init={"head.weight": torch.tensor([[0.7]]).double(), "head.bias": torch.tensor([-0.2]).double()}
    )


@pytest.fixture
def episodes() -> Episode:
    generator = torch.Generator().manual_seed(2)

    def examples(count: int) -> Examples:
        inputs, targets = (torch.randn(TASKS, count, generator=generator, dtype=torch.float64) for _ in range(2))
        return Examples(inputs[..., None], targets, torch.ones(TASKS, count, dtype=torch.float64))

    return Episode(examples(6), examples(5))


def design(examples: Examples, task: int) -> tuple[Tensor, Tensor]:
    """A and c of one task's examples."""
    rows = torch.stack([examples.inputs[task, :, 0], torch.ones_like(examples.targets[task])], 1)
    return rows.T @ rows / len(rows), rows.T @ examples.targets[task] / len(rows)


def vector(params: Params) -> Tensor:
    return torch.cat([params["head.weight"].flatten(), params["head.bias"].flatten()])


def by_hand(meta: MetaParams, episodes: Episode, *, second_order: bool) -> Tensor:
    total = torch.zeros(2, dtype=torch.float64)
    for task in range(TASKS):
        a, c = design(episodes.support, task)
        phi = vector(meta.init)
        for _ in range(STEPS):
            phi = phi - 2 * ALPHA * (a @ phi - c)
        a_query, c_query = design(episodes.query, task)
        outer = 2 * (a_query @ phi - c_query)
        jacobian = torch.linalg.matrix_power(torch.eye(2).double() - 2 * ALPHA * a, STEPS)
        total += jacobian.T @ outer if second_order else outer
    return total / TASKS


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_maml_and_fomaml(
    second_order: bool, batching: Any, learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    gradient = through_adaptation(first_order=not second_order, batching=batching, loss=mean_squared_error)
    grads, metrics = gradient(learner, meta, episodes, way=1, generator=torch.Generator())
    torch.testing.assert_close(
        vector(grads.init), by_hand(meta, episodes, second_order=second_order), rtol=1e-12, atol=0
    )
    assert metrics.accuracy.isnan()


def test_reptile_over_whole_supports_is_theta_minus_phi(
    learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    # Batches of the size of the support set: each step sees all of it, whatever the shuffle.
    grads, _ = reptile(batch=6, loss=mean_squared_error)(
        learner, meta, episodes, way=1, generator=torch.Generator().manual_seed(0)
    )
    ends = []
    for task in range(TASKS):
        a, c = design(episodes.support, task)
        phi = vector(meta.init)
        for _ in range(STEPS):
            phi = phi - 2 * ALPHA * (a @ phi - c)
        ends.append(phi)
    torch.testing.assert_close(vector(grads.init), vector(meta.init) - torch.stack(ends).mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tail_shots", [1, 3])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_the_last_step_on_a_separate_tail_is_fomaml_times_the_rate(
    tail_shots: int, batching: Any, learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    # Support sets of one class (a regression's targets are counted as such), 6 examples each: the tail and the rest.
    support = episodes.support._replace(targets=torch.ones_like(episodes.support.targets))
    episodes = Episode(support, episodes.query)
    size = 6 - tail_shots
    along = reptile(batch=size, direction="last", tail_shots=tail_shots, batching=batching, loss=mean_squared_error)
    grads, _ = along(learner, meta, episodes, way=1, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)  # the same shuffles again, task by task
    split: list[Episode] = []
    for task in range(TASKS):
        one = Examples(*(t[task] for t in episodes.support))
        *rest, tail = plan_steps(one, size, STEPS, generator, tail_shots=tail_shots)
        assert sorted([*rest[0].tolist(), *tail.tolist()]) == list(range(6))
        assert len(tail) == tail_shots
        split.append(Episode(*(Examples(*(t[indices] for t in one)) for indices in (rest[0], tail))))
    together = Episode(*(Examples(*map(torch.stack, zip(*part, strict=True))) for part in zip(*split, strict=True)))
    before = dataclasses.replace(learner, steps=STEPS - 1)  # phi_{k-1}, judged on the tail
    first_order = through_adaptation(first_order=True, loss=mean_squared_error)
    expected, _ = first_order(before, meta, together, way=1, generator=torch.Generator())
    torch.testing.assert_close(vector(grads.init), ALPHA * vector(expected.init), rtol=1e-12, atol=0)


def test_a_separate_tail_has_as_many_of_each_class_and_no_padding() -> None:
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0])
    weights = torch.tensor([1.0] * 9 + [0.0, 0.0])
    support = Examples(torch.arange(11.0)[:, None], targets, weights)
    *before, tail = plan_steps(support, 3, 4, torch.Generator().manual_seed(0), tail_shots=1)
    assert sorted(targets[tail].tolist()) == [0, 1, 2]
    assert [len(indices) for indices in before] == [3, 3, 3]
    seen = {index for indices in before for index in indices.tolist()}
    assert seen | set(tail.tolist()) == set(range(9))
    assert not seen & set(tail.tolist())
    with pytest.raises(RecipeError, match="tail_shots = 3 leaves no examples"):
        plan_steps(support, 3, 4, torch.Generator(), tail_shots=3)


def test_along_the_last_step_of_a_shared_tail(learner: GradientLearner, meta: MetaParams, episodes: Episode) -> None:
    grads, _ = reptile(batch=6, direction="last", loss=mean_squared_error)(
        learner, meta, episodes, way=1, generator=torch.Generator().manual_seed(0)
    )
    moves = []
    for task in range(TASKS):
        a, c = design(episodes.support, task)
        phi = vector(meta.init)
        for _ in range(STEPS):
            before, phi = phi, phi - 2 * ALPHA * (a @ phi - c)
        moves.append(before - phi)
    torch.testing.assert_close(vector(grads.init), torch.stack(moves).mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("direction", ["all", "last"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_reptile_takes_tasks_together_as_it_takes_them_one_by_one(
    direction: Any, chunk: int | None, make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    inner = [{"type": "adam", "rate": 0.01, "beta1": 0.0, "carry_moments": True}]
    learner, meta = make_case(inner=inner, steps=3)
    meta = meta._replace(inner={name: v.abs() for name, v in meta.inner.items()})
    episodes = make_episodes(tasks=3, way=3, shot=2)
    loop, together = (
        reptile(batch=4, direction=direction, batching=batching, chunk_size=chunk)(
            learner, meta, episodes, way=3, generator=torch.Generator().manual_seed(0)
        )
        for batching in ("loop", "vmap")
    )
    torch.testing.assert_close(together, loop, rtol=1e-9, atol=1e-11)


def test_one_step_of_reptile_is_the_mean_inner_gradient(
    learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    grads, _ = reptile(batch=6, steps=1, loss=mean_squared_error)(
        learner, meta, episodes, way=1, generator=torch.Generator().manual_seed(0)
    )
    means = [design(episodes.support, task) for task in range(TASKS)]
    gradient = torch.stack([2 * (a @ vector(meta.init) - c) for a, c in means]).mean(0)
    torch.testing.assert_close(vector(grads.init), ALPHA * gradient, rtol=1e-12, atol=0)


def test_joint_training_is_the_gradient_without_adaptation(
    learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    grads, _ = joint(loss=mean_squared_error)(learner, meta, episodes, way=1, generator=torch.Generator())
    means = [design(episodes.query, task) for task in range(TASKS)]
    gradient = torch.stack([2 * (a @ vector(meta.init) - c) for a, c in means]).mean(0)
    torch.testing.assert_close(vector(grads.init), gradient, rtol=1e-12, atol=0)


def test_fomaml_is_maml_where_the_inner_loss_has_no_curvature(
    learner: GradientLearner, meta: MetaParams, episodes: Episode
) -> None:
    def linear_loss(outputs: Tensor, examples: Examples) -> Tensor:
        return torch.dot(outputs.flatten() * examples.targets, examples.weights) / examples.weights.sum()

    straight = dataclasses.replace(learner, loss=linear_loss)
    first, second = (
        through_adaptation(first_order=order, loss=mean_squared_error)(
            straight, meta, episodes, way=1, generator=torch.Generator()
        )[0]
        for order in (True, False)
    )
    torch.testing.assert_close(first, second, rtol=1e-14, atol=0)


def test_first_order_keeps_the_gradient_of_learned_rates(
    make_case: Callable[..., Any], make_episodes: Callable[..., Any]
) -> None:
    # phi = theta - alpha o g: d loss / d alpha = -g o grad L_Q(phi) needs no second derivative (Li et al., 2017).
    learner, meta = make_case(inner=[{"type": "meta_sgd", "rate": 0.2}], steps=1, head={"type": "linear", "way": 3})
    episodes = make_episodes(way=3)
    first, second = (
        through_adaptation(first_order=order)(learner, meta, episodes, way=3, generator=torch.Generator())[0]
        for order in (True, False)
    )
    torch.testing.assert_close(first.inner["head.weight"], second.inner["head.weight"], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(first.init["body.conv1.weight"], second.init["body.conv1.weight"], rtol=1e-3)


def test_mini_batches_cycle_without_replacement() -> None:
    batches = list(mini_batches(10, 4, 5, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in batches] == [4] * 5
    stream = torch.cat(batches)
    assert sorted(stream[:10].tolist()) == list(range(10))  # the third batch straddles the two epochs
    assert sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()


def test_reptile_carries_adam_moments(make_case: Callable[..., Any], make_episodes: Callable[..., Any]) -> None:
    inner = [{"type": "adam", "rate": 0.01, "beta1": 0.0, "carry_moments": True}]
    learner, meta = make_case(inner=inner, steps=2)
    meta = meta._replace(inner={name: v.abs() for name, v in meta.inner.items()})
    episodes = make_episodes(tasks=1, way=3, shot=2)
    generator = torch.Generator().manual_seed(0)
    grads, _ = reptile(batch=6)(learner, meta, episodes, way=3, generator=generator)
    # Stepping with rate 1 makes the moments of the next task those that this one ended with.
    assert float(meta.inner["steps"] - grads.inner["steps"]) == pytest.approx(float(meta.inner["steps"]) + 2)
    ended = meta.inner["second.body.conv1.weight"] - grads.inner["second.body.conv1.weight"]
    decayed = 0.999**2 * meta.inner["second.body.conv1.weight"]
    assert (ended >= decayed - 1e-15).all()
    assert (ended > decayed).any()
