"""From trained meta-parameters to an artifact: calibrated on validation episodes, measured on test episodes.

calibrate ──validation──> temperature, unknown threshold
measure   ──test────────> accuracies with intervals
revision  ──git─────────> where the code stood
export    ──────────────> manifest.json, meta_params.safetensors
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from kshot_models.artifact import save_artifact
from kshot_models.load import meta_to_arrays
from kshot_models.manifest import FIXED_MOMENTS, Calibration, Manifest, Measured, NormMode, Provenance
from kshot_models.registry import build_learner
from kshot_models.types import Learner, MetaParams
from kshot_training.calibration import fit_temperature
from kshot_training.data import named
from kshot_training.evaluate import answer_episodes, evaluate_alike
from kshot_training.meta_gradients.all_classes import without_classifier
from kshot_training.outer_loop import Sample
from kshot_training.recipe import MeasureSection, Recipe, Setting

__all__ = ["calibrate", "export", "measure", "revision"]


def calibrate(
    learner: Learner,
    meta: MetaParams,
    samples: Mapping[Setting, Sample],
    *,
    episodes: int,
    unknown_share: float | None = None,
    workers: int = 1,
) -> Calibration:
    """Fit the temperature on validation episodes of all settings together.

    Args:
        learner: What is calibrated.
        meta: Its meta-parameters.
        samples: Validation episodes by setting.
        episodes: Of each setting.
        unknown_share: The threshold of `unknown` is set so that this share of the right answers would fall below it.
        workers: Episodes side by side.
    """
    answers = [
        answer
        for sample in samples.values()
        for answer in answer_episodes(learner, meta, sample, episodes=episodes, workers=workers)
    ]
    temperature = fit_temperature([a.logits for a in answers], [a.targets for a in answers])
    if unknown_share is None:
        return Calibration(temperature=round(temperature, 4))
    right = torch.cat([_confidence_when_right(a.logits / temperature, a.targets) for a in answers])
    threshold = float(right.double().quantile(unknown_share)) if len(right) else 0.0
    return Calibration(temperature=round(temperature, 4), unknown_threshold=round(threshold, 4))


def _confidence_when_right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    confidence, answers = logits.softmax(-1).max(-1)
    return confidence[answers == targets][:: max(1, len(targets) // 100)]  # torch.quantile takes at most 2^24 values


def measure(
    recipe: Recipe,
    meta: MetaParams,
    section: MeasureSection,
    samples: Mapping[Setting, Sample],
    *,
    workers: int = 1,
) -> tuple[Measured, ...]:
    """Accuracies on test episodes: in the learner's norm mode, and the transductive one if the section asks for it."""
    modes: list[NormMode] = [recipe.learner.norm]
    if section.transductive and recipe.learner.norm in FIXED_MOMENTS:
        modes.append("transductive")
    learners = [build_learner(recipe.learner.model_copy(update={"norm": mode}), recipe.input) for mode in modes]
    found = {
        setting: evaluate_alike(learners, meta, sample, episodes=section.episodes, workers=workers)
        for setting, sample in samples.items()
    }
    return tuple(
        Measured(
            data=named(recipe.data.source, recipe.data.scheme),
            split=section.split,
            way=setting.way,
            shot=setting.shot,
            queries=section.queries,
            episodes=results[place].episodes,
            norm=mode,
            accuracy=round(results[place].accuracy, 6),
            ci95=round(results[place].ci95, 6),
        )
        for place, mode in enumerate(modes)
        for setting, results in found.items()
    )


def export(
    recipe: Recipe,
    meta: MetaParams,
    folder: Path,
    *,
    episodes: int,
    calibration: Calibration,
    measured: tuple[Measured, ...] = (),
) -> Path:
    """Write the artifact to `folder`/NAME/VERSION.

    Args:
        recipe: What was trained.
        meta: The chosen meta-parameters.
        folder: A model repository.
        episodes: Training episodes seen.
        calibration: See `calibrate`.
        measured: See `measure`.

    Returns:
        The artifact's folder.
    """
    section = recipe.artifact
    manifest = Manifest(
        name=section.name,
        version=section.version,
        description=section.description or recipe.description,
        learner=recipe.learner,
        input=recipe.input,
        limits=section.limits,
        calibration=calibration,
        provenance=Provenance(
            recipe=recipe.name,
            recipe_sha256=recipe.digest,
            data=named(recipe.data.source, recipe.data.scheme),
            seed=recipe.seed,
            revision=revision(),
            episodes=episodes,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            measured=measured,
        ),
    )
    target = folder / section.name / section.version
    served = without_classifier(meta)
    arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in meta_to_arrays(served).items()}
    save_artifact(target, manifest, arrays)
    return target


def revision() -> str:
    """The git commit that this package stands in, and "+changes" if files differ; empty outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        # Fixed arguments, and `git` from the PATH as the user has it.
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
