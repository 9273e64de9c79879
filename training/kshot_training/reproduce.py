"""One published figure again: train its recipe, measure the one checkpoint, write the rows.

    run ──train (resumable)──> meta-parameters ──finish──> artifact, measured in both norm modes ──rows──> RECIPE.json

A run whose rows are all there is done. One that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kshot_models.learners import GradientLearner
from kshot_models.manifest import FIXED_MOMENTS, Measured
from kshot_training.data import named
from kshot_training.finish import finish
from kshot_training.recipe import Recipe, Setting
from kshot_training.regression import errors_by_steps
from kshot_training.reproductions import Figure, Run
from kshot_training.results import Row, hardware, read_rows, record
from kshot_training.sampling import Place, recipe_episodes
from kshot_training.training_run import Episodes, Trained, train

__all__ = ["add_missing", "device_overrides", "expected_rows", "is_done", "reproduce", "rows_path"]

INNER_STEPS = (0, 1, 5, 10, 32)
"""After how many inner steps a regression is measured."""


def rows_path(folder: Path, run: Run) -> Path:
    """Where the rows of a run stand: one file for all settings of a recipe."""
    return folder / f"{run.reproduction.recipe}.json"


def expected_rows(run: Run) -> list[Row]:
    """The rows that a run fills, empty: what is published, and the command that would measure it."""
    recipe = run.recipe()
    own = recipe.learner.norm
    norms = [own, "transductive"] if own in FIXED_MOMENTS else [own]
    return [_empty_row(run, recipe, figure, norm) for figure in run.figures for norm in norms]


def is_done(run: Run, folder: Path) -> bool:
    """Whether every row of a run has a figure in its file below `folder`."""
    there = {row.key for row in read_rows(rows_path(folder, run)) if row.measured}
    return all(row.key in there for row in expected_rows(run))


def device_overrides(run: Run, device: str) -> list[str]:
    """On a GPU the tasks of a meta-batch are one computation; on a CPU one task a thread is faster."""
    recipe = run.recipe()
    return ["meta_gradient.batching=vmap"] if device != "cpu" and hasattr(recipe.meta_gradient, "batching") else []


def reproduce(
    run: Run,
    recipe: Recipe,
    folder: Path,
    place: Place,
    *,
    reporter: Callable[[int], Any],
    stop: Callable[[], bool],
    workers: int = 1,
) -> list[Row] | None:
    """Train and measure one run.

    Args:
        run: Which figures.
        recipe: Its recipe, with overrides.
        folder: Of this training; holds its checkpoints and its artifact.
        place: Where the data are and where it is computed.
        reporter: See `train`.
        stop: Asked after each outer step.
        workers: Tasks side by side.

    Returns:
        The rows; None if it was stopped, and goes on from its checkpoint when called again.

    Raises:
        TrainingError: See errors.py.
    """
    episodes = recipe_episodes(recipe, place)
    trained = train(
        recipe, folder, episodes, reporter=reporter, stop=stop, resume=True, device=place.device, workers=workers
    )
    if not trained.finished:
        return None
    _, measured = finish(recipe, trained, folder, episodes, workers=workers)
    ran = {"seconds": round(trained.seconds, 1), "hardware": hardware(place.device)}
    if recipe.learner.type == "gradient_regression":
        return [_regression_row(run, recipe, trained, episodes, figure, ran) for figure in run.figures]
    return [_accuracy_row(run, recipe, row, ran) for row in measured]


def _accuracy_row(run: Run, recipe: Recipe, row: Measured, ran: dict[str, Any]) -> Row:
    figure = next(figure for figure in run.figures if (figure.way, figure.shot) == (row.way, row.shot))
    seen = {"accuracy": row.accuracy, "ci95": row.ci95, "episodes": row.episodes}
    return _empty_row(run, recipe, figure, row.norm).model_copy(update=seen | ran)


def _regression_row(
    run: Run, recipe: Recipe, trained: Trained, episodes: Episodes, figure: Figure, ran: dict[str, Any]
) -> Row:
    assert recipe.measure is not None
    assert isinstance(trained.learner, GradientLearner)
    sample = episodes.test[Setting(way=figure.way, shot=figure.shot)]
    by_steps = errors_by_steps(
        trained.learner,
        trained.meta,
        sample,
        episodes=recipe.measure.episodes,
        steps=sorted({*INNER_STEPS, recipe.learner.steps}),
    )
    own = by_steps[recipe.learner.steps]
    # A run may diverge when it takes many more steps than it was trained for; JSON has no infinity.
    finite = {str(steps): round(seen.mse, 6) for steps, seen in by_steps.items() if math.isfinite(seen.mse)}
    seen = {"mse": round(own.mse, 6), "mse_ci95": round(own.ci95, 6), "mse_by_steps": finite}
    return _empty_row(run, recipe, figure, recipe.learner.norm).model_copy(update=seen | ran)


def _empty_row(run: Run, recipe: Recipe, figure: Figure, norm: str) -> Row:
    assert recipe.measure is not None  # every recipe of the table has test episodes
    tasks, source = recipe.data.source == "sinusoids", recipe.data.source.partition(":")[0]  # the former are not split
    return Row(
        algorithm=run.reproduction.algorithm,
        data=recipe.data.source if tasks else f"{named(source, recipe.data.scheme)} {recipe.measure.split}",
        way=figure.way,
        shot=figure.shot,
        norm=norm,
        episodes=recipe.measure.episodes,
        accuracy=None,
        ci95=None,
        published=next((share for mode, share in figure.published.items() if mode == norm), None),
        seed=recipe.seed,
        hardware="",
        seconds=None,
        command=run.command,
        published_mse=figure.published_mse,
    )


def add_missing(folder: Path, runs: Iterable[Run]) -> None:
    """Give every run its rows below `folder`; those that are there stay as they are."""
    for run in runs:
        path = rows_path(folder, run)
        there = {row.key for row in read_rows(path)}
        record(path, *(row for row in expected_rows(run) if row.key not in there))
