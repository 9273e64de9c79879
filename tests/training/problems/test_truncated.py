"""Truncated stretches of work: where one ends the next begins, in the same process or another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from kshot_models import load
from kshot_models.artifact import load_optimizer_artifact
from kshot_models.inner import lstm
from kshot_models.load import load_optimizer
from kshot_models.types import MetaParams
from kshot_training.errors import CheckpointError, RecipeError
from kshot_training.history import read_history
from kshot_training.optimizer_recipe import OptimizerRecipe, UnrollSection
from kshot_training.optimizer_run import TrainedOptimizer, export_optimizer, recipe_families, train_optimizer
from kshot_training.outer_loop import StepMetrics
from kshot_training.problems import Quadratics
from kshot_training.progress import Reporter
from kshot_training.recipe_files import read_optimizer_recipe, read_recipe
from kshot_training.truncated import Truncated
from kshot_training.unroll import Unroll, begin, optimize

RULE = lstm(hidden=(4, 3), p=0, scale=0.5)
FAMILY = Quadratics(dimensions=3, seed=1)
POLICY_GRADIENT = {"tasks": 4, "rollouts": 2, "noise": 0.2, "horizons": [{"steps": 3}, {"since": 2, "steps": 5}]}


def recipe(**changes: Any) -> OptimizerRecipe:
    base: dict[str, Any] = {
        "name": "small",
        "problem": {"type": "quadratic", "dimensions": 3},
        "optimizer": [{"type": "lstm", "hidden": [4, 3], "p": 0, "scale": 0.5}],
        "unroll": {"steps": 3, "tasks": 4, "horizons": [{"steps": 3}, {"since": 2, "steps": 9}]},
        "outer": {"learning_rate": 0.01, "steps": 7, "clip_norm": 1.0},
        "validation": {"every": 3, "runs": 5, "steps": 6},
        "measure": {"runs": 6, "steps": [4, 8]},
        "artifact": {"name": "small"},
        "checkpoint_every": 2,
    }
    return OptimizerRecipe.model_validate({**base, **changes})


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[StepMetrics] = []

    def step(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics)

    def line(self, text: str) -> None:
        self.lines.append(text)


def run(
    made: OptimizerRecipe, folder: Path, notes: Notes, *, stop_at: int = 0, resume: bool = False
) -> TrainedOptimizer:
    @contextmanager
    def reporter(done: int) -> Iterator[Reporter]:
        yield notes

    return train_optimizer(
        made,
        folder,
        recipe_families(made),
        reporter=reporter,
        stop=lambda: bool(stop_at) and notes.steps[-1].step == stop_at,
        resume=resume,
    )


def test_a_stretch_is_the_gradient_of_its_own_steps_only() -> None:
    phi = RULE.init({"theta": torch.zeros(3)}, torch.Generator().manual_seed(0))
    truncated = Truncated(Unroll(RULE, 2), FAMILY, tasks=3, horizon=lambda step: 4)
    meta = MetaParams({}, phi, {})
    first, _ = truncated.gradient(meta, 0)
    second, seen = truncated.gradient(meta, 1)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in phi.items()}
    problem = FAMILY.draw(0, 3)
    walk = begin(RULE, phi, problem)
    for grads in (first, second):
        loss, final, walk = Unroll(RULE, 2)(leaves, problem, walk)
        expected = torch.autograd.grad(loss, list(leaves.values()))
        assert all(torch.equal(a, b) for a, b in zip(grads.inner.values(), expected, strict=True))
        walk = walk._replace(
            params={name: p.detach() for name, p in walk.params.items()}, state=tuple(s.detach() for s in walk.state)
        )
    assert seen.diagnostics["final_loss"] == final.mean()
    truncated.gradient(meta, 2)
    assert truncated.tensors()[1] == {"number": 1, "until": 4, "taken": 2}


def test_what_a_run_leaves_is_an_optimizer(tmp_path: Path) -> None:
    made, notes = recipe(), Notes()
    trained = run(made, tmp_path, notes)
    assert trained.finished
    assert [m.step for m in notes.steps] == list(range(1, 8))
    assert sum("validation" in line for line in notes.lines) == 3
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert [row["step"] for row in read_history(tmp_path / "history.jsonl") if "validation" in row] == [3, 6, 7]
    families = recipe_families(made)
    folder, measured = export_optimizer(made, trained, tmp_path, families)
    loaded = load_optimizer(folder)
    assert loaded.manifest.provenance.measured == measured
    losses = optimize(loaded.rule, loaded.phi, families.test.draw(0, 6), 8)
    for row in measured:
        assert row.log10_mean_loss == pytest.approx(losses[row.steps].mean().log10().item(), abs=1e-3)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = load(folder).as_torch_optimizer([weight])
    weight.square().sum().backward()
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(2, 2))


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop_at: int, tmp_path: Path) -> None:
    straight = run(recipe(), tmp_path / "straight", Notes())
    assert not run(recipe(), tmp_path / "stopped", Notes(), stop_at=stop_at).finished
    resumed = run(recipe(), tmp_path / "stopped", Notes(), resume=True)
    assert resumed.finished
    assert all(torch.equal(leaf, resumed.meta.inner[name]) for name, leaf in straight.meta.inner.items())
    states = [
        json.loads((tmp_path / name / "checkpoints" / "step-000000007" / "state.json").read_text())["sha256"]
        for name in ("straight", "stopped")
    ]
    assert states[0] == states[1]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run(recipe(), tmp_path, Notes(), stop_at=2)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(recipe(seed=1), tmp_path, Notes(), resume=True)


def test_training_lowers_the_loss_that_is_left(tmp_path: Path) -> None:
    outer = {"learning_rate": 0.02, "steps": 40, "clip_norm": 1.0}
    unroll = {"steps": 10, "tasks": 16, "horizons": [{"steps": 10}]}
    made = recipe(outer=outer, unroll=unroll, validation={"every": 40, "runs": 32, "steps": 10})
    notes = Notes()
    trained = run(made, tmp_path, notes)
    test = recipe_families(made).test.draw(0, 64)
    path = optimize(trained.rule, trained.meta.inner, test, 10)
    assert path[-1].mean() < 0.7 * path[0].mean()


@pytest.mark.parametrize(
    ("unroll", "message"),
    [
        ({"horizons": [{"since": 1, "steps": 3}]}, "rise from 0"),
        ({"horizons": [{"steps": 4}]}, "multiple"),
        ({"horizons": [{"steps": 3}], "weights": [1.0, 1.0]}, "expected 3"),
        ({"horizons": [{"steps": 3}], "weights": [0.0, 0.0, 0.0]}, "not all of them 0"),
    ],
)
def test_unrolls_that_do_not_fit_are_refused(unroll: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnrollSection.model_validate({"steps": 3, "tasks": 2, **unroll})


def test_loss_weights_and_horizons_are_read_as_they_say() -> None:
    section = UnrollSection.model_validate({"steps": 3, "tasks": 2, "weights": "last", "horizons": [{"steps": 3}]})
    assert section.loss_weights == (0.0, 0.0, 1.0)
    curriculum = recipe().unroll
    assert curriculum is not None
    assert curriculum.loss_weights == (1.0, 1.0, 1.0)
    assert [curriculum.horizon(step) for step in (0, 1, 2, 100)] == [3, 3, 9, 9]


def test_the_two_kinds_of_recipes_are_not_taken_for_each_other() -> None:
    assert read_optimizer_recipe("l2l-quadratic").optimizer[0].type == "lstm"
    with pytest.raises(RecipeError, match="trains an optimizer"):
        read_recipe("l2l-quadratic")
    with pytest.raises(RecipeError, match="trains a learner"):
        read_optimizer_recipe("sine-maml")
    with pytest.raises(RecipeError, match="did you mean 'horizons'"):
        read_optimizer_recipe("l2l-quadratic", ["unroll.horizon=3"])


def test_an_optimizer_is_trained_one_way() -> None:
    for changes in ({"unroll": None}, {"policy_gradient": POLICY_GRADIENT}):
        with pytest.raises(ValueError, match="expected one of"):
            recipe(**changes)
    made = recipe(unroll=None, policy_gradient=POLICY_GRADIENT)
    assert made.way_to_train.horizon(3) == 5
    assert made.digest != recipe().digest


def test_a_policy_is_trained_by_rollouts_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    policy = {"type": "policy", "history": 3, "hidden": 4, "rate": 0.02}
    made = recipe(unroll=None, policy_gradient=POLICY_GRADIENT, optimizer=[policy])
    straight = run(made, tmp_path / "straight", Notes())
    run(made, tmp_path / "stopped", Notes(), stop_at=4)
    resumed = run(made, tmp_path / "stopped", Notes(), resume=True)
    assert all(torch.equal(leaf, resumed.meta.inner[name]) for name, leaf in straight.meta.inner.items())
    folder, measured = export_optimizer(made, straight, tmp_path, recipe_families(made))
    assert load_optimizer(folder).manifest.provenance.measured == measured


def test_the_policy_gradient_lowers_the_loss_that_is_left(tmp_path: Path) -> None:
    made = recipe(
        unroll=None,
        policy_gradient={"tasks": 8, "rollouts": 4, "noise": 0.2, "measure": "log", "horizons": [{"steps": 10}]},
        optimizer=[{"type": "policy", "history": 5, "hidden": 4, "rate": 0.01}],
        outer={"learning_rate": 0.05, "steps": 20, "clip_norm": 1.0},
        validation={"every": 20, "runs": 8, "steps": 10},
    )
    trained = run(made, tmp_path, Notes())
    test = recipe_families(made).test.draw(0, 64)
    fresh = trained.rule.init({}, torch.Generator().manual_seed(made.seed))
    before, after = (optimize(trained.rule, phi, test, 10)[-1].log().mean() for phi in (fresh, trained.meta.inner))
    assert after < before - 0.2


def test_a_problem_on_images_needs_images() -> None:
    with pytest.raises(RecipeError, match="needs the sections"):
        recipe_families(recipe(problem={"type": "mlp"}))
    glyphs = {"source": "glyphs"}
    with pytest.raises(ValueError, match="go together"):
        recipe(data=glyphs)


def test_an_exported_optimizer_holds_the_chosen_rule(tmp_path: Path) -> None:
    made = recipe(artifact={"name": "small", "select": "last"}, measure=None)
    trained = run(made, tmp_path, Notes())
    folder, measured = export_optimizer(made, trained, tmp_path, recipe_families(made))
    assert measured == ()
    arrays = load_optimizer_artifact(folder).arrays
    assert all(torch.equal(torch.from_numpy(arrays[f"inner/{k}"]), v) for k, v in trained.meta.inner.items())
