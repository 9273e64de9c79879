"""The end of a run: calibrate, measure, export."""

from __future__ import annotations

from pathlib import Path

from kshot_models.manifest import Calibration, Measured
from kshot_training.export import calibrate, export, measure
from kshot_training.recipe import Recipe
from kshot_training.training_run import Episodes, Trained

__all__ = ["finish"]


def finish(
    recipe: Recipe, trained: Trained, folder: Path, episodes: Episodes, *, workers: int = 1
) -> tuple[Path, tuple[Measured, ...]]:
    """Make the artifact of a finished run in `folder`.

    Returns:
        The artifact's folder and the accuracies measured on test classes.
    """
    calibration = Calibration()
    regression = recipe.learner.type == "gradient_regression"
    if recipe.artifact.calibrate and recipe.validation is not None and not regression:
        calibration = calibrate(
            trained.learner,
            trained.meta,
            episodes.validation,
            episodes=recipe.validation.episodes,
            unknown_share=recipe.artifact.unknown_share,
            workers=workers,
        )
    measured: tuple[Measured, ...] = ()
    if recipe.measure is not None and not regression:
        measured = measure(recipe, trained.meta, recipe.measure, episodes.test, workers=workers)
    seen = trained.step * recipe.episodes.tasks
    return export(recipe, trained.meta, folder, episodes=seen, calibration=calibration, measured=measured), measured
