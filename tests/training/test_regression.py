"""Regressions along their inner steps: errors over many episodes, and the figure of one wave."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from kshot_models.artifact import load_artifact, zoo_folder
from kshot_models.inner import sgd
from kshot_models.learners import GradientLearner
from kshot_models.load import LoadedLearner
from kshot_models.types import MetaParams
from kshot_training import build, sine_figure
from kshot_training.evaluate import evaluate
from kshot_training.finish import finish
from kshot_training.recipe import Recipe, Setting
from kshot_training.recipe_files import read_recipe
from kshot_training.regression import errors_by_steps
from kshot_training.sampling import recipe_episodes
from kshot_training.training_run import Trained

COMMITTED = Path(__file__).parents[2] / "training" / "results" / "figures"


def untrained(name: str) -> tuple[Recipe, GradientLearner, MetaParams]:
    recipe = read_recipe(name)
    learner = build.build_learner(recipe.learner, recipe.input)
    assert isinstance(learner, GradientLearner)
    return recipe, learner, build.fresh_meta(learner, seed=3)


def test_errors_by_steps_are_those_of_evaluations_of_so_many_steps() -> None:
    recipe, learner, meta = untrained("sine-reptile")
    sample = recipe_episodes(recipe).test[Setting(way=1, shot=10)]
    found = errors_by_steps(learner, meta, sample, episodes=7, steps=(3, 0))
    assert list(found) == [0, 3]
    for steps, error in found.items():
        alone = evaluate(
            dataclasses.replace(learner, steps=steps),
            meta,
            sample,
            episodes=7,
            loss=build.build_loss(recipe.learner),
        )
        assert error.mse == pytest.approx(alone.loss, rel=1e-5)
        assert error.ci95 == pytest.approx(alone.loss_ci95, rel=1e-5)


def loaded(learner: GradientLearner, meta: MetaParams) -> LoadedLearner:
    manifest = load_artifact(zoo_folder() / "omniglot" / "1").manifest  # not looked at
    return LoadedLearner(learner, meta, manifest, "")


def artifacts(folder: Path) -> None:
    """Runs that were never trained."""
    for run in sine_figure.RUNS.values():
        recipe, learner, meta = untrained(run.removesuffix("-1w10s"))
        named = recipe.model_copy(update={"artifact": recipe.artifact.model_copy(update={"name": run})})
        finish(named, Trained(True, 0, learner, meta, None, 0.0), folder / run, recipe_episodes(recipe))


def test_a_wave_is_answered_along_the_inner_steps(tmp_path: Path) -> None:
    _, learner, meta = untrained("sine-maml")
    runaway = dataclasses.replace(learner, inner=sgd(rate=10.0))
    models = {"plain": loaded(learner, meta), "runaway": loaded(runaway, meta)}
    told = sine_figure.measure(models)
    assert told["x"] == sorted(told["x"])
    assert len(told["support"]) == 10
    assert [list(of) for of in told["answers"].values()] == [["0", "1", "5", "10", "32"]] * 2
    assert told["answers"]["plain"]["0"] == told["answers"]["runaway"]["0"]  # before any step
    assert told["answers"]["plain"]["32"] is not None
    assert told["answers"]["runaway"]["32"] is None
    sine_figure.draw(json.loads(json.dumps(told, allow_nan=False)), tmp_path / "wave.png")
    assert (tmp_path / "wave.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_draws_what_the_runs_left(tmp_path: Path) -> None:
    artifacts(tmp_path / "runs")
    assert sine_figure.main([str(tmp_path / "runs"), str(tmp_path)]) == 0
    made, committed = (json.loads((folder / "sine-adapted.json").read_text()) for folder in (tmp_path, COMMITTED))
    assert made.keys() == committed.keys()
    assert list(made["answers"]) == list(sine_figure.RUNS)
    assert set(committed["answers"]) <= set(sine_figure.RUNS)
    # The wave is the same, a sine whose amplitude and frequency are in their ranges.
    for key in ("x", "true"):
        assert made[key] == pytest.approx(committed[key], abs=1e-3)
    assert max(map(abs, made["true"])) <= 5
    assert not any(math.isnan(value) for value in made["true"])
    assert (tmp_path / "sine-adapted.png").read_bytes().startswith(b"\x89PNG")
