"""The outer loop: what a step does, that it can be taken up again at any step, and that it stops at a NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kshot_models.load import meta_to_arrays
from kshot_models.types import Episode, Examples, MetaParams
from kshot_training import build
from kshot_training.averaging import start_average, update_average
from kshot_training.checkpoint import Checkpoint, load_newest, save_checkpoint
from kshot_training.errors import NonFiniteError
from kshot_training.meta_gradients import Metrics
from kshot_training.outer_loop import Clipping, MetaBatch, OuterState, StepMetrics, always, check_meta, clip, outer_loop
from kshot_training.recipe import Recipe
from kshot_training.sampling import Place, recipe_episodes

Make = Callable[..., Recipe]
OPTIMIZERS = ["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"]


def fresh(recipe: Recipe) -> OuterState:
    learner = build.build_learner(recipe.learner, recipe.input)
    return build.build_state(build.fresh_meta(learner, seed=recipe.seed), recipe.outer)


def advance(recipe: Recipe, state: OuterState, place: Place, *, until: int) -> list[StepMetrics]:
    learner = build.build_learner(recipe.learner, recipe.input)
    steps = outer_loop(
        state,
        learner,
        recipe_episodes(recipe, place).train,
        build.build_meta_gradient(recipe),
        steps=until,
        schedule=build.build_schedule(recipe.outer.schedule, steps=recipe.outer.steps),
        seed=recipe.seed,
        clipping=build.build_clipping(recipe.outer),
        average_decay=recipe.outer.average_decay,
    )
    return list(steps)


def assert_same_bits(a: OuterState, b: OuterState) -> None:
    (tensors_a, values_a), (tensors_b, values_b) = a.tensors(), b.tensors()
    assert a.step == b.step
    assert values_a == values_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name
        assert tensor.stride() == tensors_b[name].stride(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_makes_the_same_bits(optimizer: str, make_recipe: Make, place: Place, tmp_path: Path) -> None:
    extra = {"outer.momentum": 0.9} if optimizer == "sgd" else {}
    recipe = make_recipe(**{"outer.optimizer": optimizer, "outer.schedule": {"type": "cosine", "warmup": 2}, **extra})
    straight = fresh(recipe)
    advance(recipe, straight, place, until=6)

    first = fresh(recipe)
    advance(recipe, first, place, until=3)
    tensors, values = first.tensors()
    save_checkpoint(tmp_path, Checkpoint(first.step, recipe.digest, tensors, {"optimizer": values}))
    second = fresh(recipe)
    loaded = load_newest(tmp_path, recipe_digest=recipe.digest)
    assert loaded is not None
    second.load(loaded.step, loaded.tensors, loaded.values["optimizer"])
    assert_same_bits(first, second)
    advance(recipe, second, place, until=6)
    assert_same_bits(straight, second)


@pytest.mark.parametrize(("optimizer", "inner"), [("sgd", True), ("adam", False)])
def test_reptile_resumes_with_its_mini_batches(optimizer: str, inner: bool, make_recipe: Make, place: Place) -> None:
    adam = {"type": "adam", "rate": 0.01, "beta1": 0.0, "carry_moments": inner}
    section = {"type": "reptile", "batch": 2}
    recipe = make_recipe(meta_gradient=section, **{"outer.optimizer": optimizer, "learner.inner": [adam]})
    straight, broken = fresh(recipe), fresh(recipe)
    advance(recipe, straight, place, until=4)
    advance(recipe, broken, place, until=2)
    again = fresh(recipe)
    again.load(2, *broken.tensors())
    advance(recipe, again, place, until=4)
    assert_same_bits(straight, again)


def test_running_moments_are_counted_averaged_and_resumed(make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(**{"learner.norm": "per_step", "learner.per_step_gains": True})
    straight, broken = fresh(recipe), fresh(recipe)
    start = {name: table.clone() for name, table in straight.meta.stats.items()}
    batch = recipe_episodes(recipe, place).train(0)
    gradient = build.build_meta_gradient(recipe)(0)
    learner = build.build_learner(recipe.learner, recipe.input)
    grads, _ = gradient(learner, straight.meta, batch.episodes, way=batch.way, generator=torch.Generator())
    advance(recipe, straight, place, until=1)
    for name, table in straight.meta.stats.items():  # past the optimizer, whatever its rate and clipping
        assert torch.equal(table, start[name] - grads.stats[name])
        assert torch.equal(table[0], start[name][0])  # the loss of the last step alone
        assert not torch.equal(table[1], start[name][1])
    advance(recipe, straight, place, until=4)
    assert straight.average is not None
    assert not torch.equal(straight.average.stats["norm1.mean"], start["norm1.mean"])

    advance(recipe, broken, place, until=2)
    tensors, values = broken.tensors()
    assert "meta/stats/norm1.mean" in tensors
    again = fresh(recipe)
    again.load(2, tensors, values)
    advance(recipe, again, place, until=4)
    assert_same_bits(straight, again)


def test_an_outer_step_of_sgd_is_minus_rate_times_gradient(make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(
        **{
            "outer.optimizer": "sgd",
            "outer.learning_rate": 0.5,
            "outer.scales": {"inner/": 0.1, "init/body.conv1": 2.0},
            "outer.schedule": {"type": "step", "every": 1, "factor": 0.5},
        }
    )
    state = fresh(recipe)
    before = {name: tensor.clone() for name, tensor in meta_to_arrays(state.meta).items()}
    batch = recipe_episodes(recipe, place).train(0)
    learner = build.build_learner(recipe.learner, recipe.input)
    grads, _ = build.build_meta_gradient(recipe)(0)(
        learner, state.meta, batch.episodes, way=batch.way, generator=torch.Generator()
    )
    metrics = advance(recipe, state, place, until=2)
    assert [m.learning_rate for m in metrics] == [0.5, 0.25]
    again = fresh(recipe)
    advance(recipe, again, place, until=1)
    for name, tensor in meta_to_arrays(again.meta).items():
        scale = 2.0 if name.startswith("init/body.conv1") else 0.1 if name.startswith("inner/") else 1.0
        expected = before[name] - 0.5 * scale * meta_to_arrays(grads)[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7, msg=name)


def constant_gradient(value: float, loss: float = 1.0) -> Any:
    def meta_gradient(learner: Any, meta: MetaParams, episodes: Episode, **_: Any) -> tuple[MetaParams, Metrics]:
        filled = [{name: torch.full_like(t, value) for name, t in part.items()} for part in meta]
        return MetaParams(*filled), Metrics(torch.tensor(loss), torch.tensor(0.5))

    return meta_gradient


@pytest.mark.parametrize(
    ("value", "loss", "told"),
    [(0.1, float("nan"), "the query loss is nan"), (float("inf"), 1.0, "not finite in init/body.conv1.weight")],
)
def test_a_nan_stops_with_step_and_cause(value: float, loss: float, told: str, make_recipe: Make, place: Place) -> None:
    recipe = make_recipe()
    state = fresh(recipe)
    advance(recipe, state, place, until=1)
    before = {name: tensor.clone() for name, tensor in meta_to_arrays(state.meta).items()}
    empty = Examples(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    loop = outer_loop(
        state,
        build.build_learner(recipe.learner, recipe.input),
        lambda step: MetaBatch(Episode(empty, empty), 3),
        always(constant_gradient(value, loss)),
        steps=5,
        schedule=lambda step: 1.0,
        seed=0,
    )
    with pytest.raises(NonFiniteError, match=told) as caught:
        next(loop)
    assert caught.value.step == 1
    assert str(caught.value).startswith("outer step 1: ")
    for name, tensor in meta_to_arrays(state.meta).items():
        assert torch.equal(tensor, before[name])


def test_broken_meta_parameters_are_not_checkpointed(make_recipe: Make) -> None:
    state = fresh(make_recipe())
    check_meta(state)
    state.step = 3
    state.meta.inner["head.bias"][1] = float("inf")
    with pytest.raises(NonFiniteError, match=r"outer step 2: the meta-parameters are not finite in inner/head\.bias"):
        check_meta(state)


def test_clipping() -> None:
    grads = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert float(clip(grads, Clipping(norm=1.0))) == pytest.approx(5.0)
    torch.testing.assert_close(grads["a"], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(grads["b"], torch.tensor([[0.8]]))
    grads = {"a": torch.tensor([3.0, -7.0]), "b": torch.tensor([[0.4]])}
    clip(grads, Clipping(value=1.0))
    torch.testing.assert_close(grads["a"], torch.tensor([1.0, -1.0]))
    small = {"a": torch.tensor([0.3])}
    clip(small, Clipping(norm=1.0, value=1.0))
    assert float(small["a"]) == pytest.approx(0.3)


def test_the_average_forgets_the_start_and_then_decays() -> None:
    meta = MetaParams({"w": torch.tensor([1.0])}, {}, {})
    average = start_average(meta)
    meta.init["w"].fill_(2.0)
    update_average(average, meta, decay=0.9, step=0)  # d = 1 / 10
    assert float(average.init["w"]) == pytest.approx(0.1 * 1 + 0.9 * 2)
    update_average(average, MetaParams({"w": torch.tensor([0.0])}, {}, {}), decay=0.9, step=10_000)
    assert float(average.init["w"]) == pytest.approx(0.9 * 1.9)


def test_weight_decay_spares_what_the_inner_optimizer_learns(make_recipe: Make, place: Place) -> None:
    recipe = make_recipe(**{"outer.optimizer": "sgd", "outer.weight_decay": 0.5, "outer.learning_rate": 0.1})
    state = fresh(recipe)
    before = {name: tensor.clone() for name, tensor in meta_to_arrays(state.meta).items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.optimizer.leaves.items()}
    state.optimizer.step(zeros, factor=1.0)
    after = meta_to_arrays(state.meta)
    torch.testing.assert_close(after["init/body.conv1.weight"], 0.95 * before["init/body.conv1.weight"])
    assert torch.equal(after["inner/body.conv1.weight"], before["inner/body.conv1.weight"])
