"""The training of a learned optimizer in a folder: recipe in, artifact out, stoppable at any step.

The folder is that of a learner's run (training_run.py): recipe.json, checkpoints/, history.jsonl, TensorBoard,
learning_curve.png, NAME/VERSION. A resumed run makes the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kshot_models.artifact import save_artifact
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.load import meta_to_arrays
from kshot_models.manifest import OptimizerManifest, OptimizerMeasured, OptimizerProvenance
from kshot_models.registry import build_inner_optimizer
from kshot_models.tree import prefixed, under
from kshot_models.types import MetaParams
from kshot_training import build
from kshot_training.checkpoint import Checkpoint, load_newest, save_checkpoint
from kshot_training.curves import learning_curve
from kshot_training.data import load_classes
from kshot_training.export import revision
from kshot_training.history import History, read_history
from kshot_training.optimizer_gradient import OptimizerGradient, build_optimizer_gradient
from kshot_training.optimizer_recipe import OptimizerRecipe
from kshot_training.outer_loop import OuterState, check_meta, copy_into, outer_steps, snapshot
from kshot_training.problems import ProblemFamily, Surroundings, build_problems
from kshot_training.progress import Reporter
from kshot_training.sampling import Place
from kshot_training.tensorboard import TensorBoard
from kshot_training.unroll import optimize

__all__ = ["Families", "TrainedOptimizer", "export_optimizer", "mean_log10", "recipe_families", "train_optimizer"]

HISTORY, HISTORY_EVERY = "history.jsonl", 20
_SEEDS = {"train": 0, "validation": 1_000_003, "test": 2_000_003, "tuning": 3_000_017}  # added to the recipe's


class Families(NamedTuple):
    """Problems to train on, to choose by, to measure on, and to tune other optimizers on: no two share a draw."""

    train: ProblemFamily
    validation: ProblemFamily
    test: ProblemFamily
    tuning: ProblemFamily


class TrainedOptimizer(NamedTuple):
    """What a run came to."""

    finished: bool  # False: stopped on request, a checkpoint is written
    step: int
    rule: InnerOptimizer
    meta: MetaParams  # chosen as the recipe says; what was learned is `inner`


def recipe_families(recipe: OptimizerRecipe, place: Place = Place()) -> Families:  # noqa: B008 - an immutable value
    """The problems of a recipe; images of other splits are other classes.

    Raises:
        DataError: the images are missing or broken.
        SpecInvalid: the problem has no such option.
    """
    splits = {
        "train": recipe.split,
        "tuning": recipe.split,
        "validation": recipe.validation.split,
        "test": "test" if recipe.measure is None else recipe.measure.split,
    }

    def family(use: str) -> ProblemFamily:
        data, spec = recipe.data, recipe.input
        if data is None or spec is None:
            return build_problems(recipe.problem, Surroundings(recipe.seed + _SEEDS[use], None))
        classes = load_classes(
            data.source,
            spec=spec,
            split=splits[use],
            scheme=data.scheme,
            rotations=data.rotations,
            root=place.root,
            cache=place.cache,
            options=data.options,
        ).to(place.device)
        return build_problems(recipe.problem, Surroundings(recipe.seed + _SEEDS[use], lambda: classes))

    return Families(family("train"), family("validation"), family("test"), family("tuning"))


def mean_log10(losses: torch.Tensor) -> float:
    """log10 of the mean over tasks, the paper code's measure; infinite where a task diverged."""
    return float(losses.double().mean().log10()) if losses.isfinite().all() else float("inf")


def train_optimizer(
    recipe: OptimizerRecipe,
    folder: Path,
    families: Families,
    *,
    reporter: Callable[[int], Any],
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> TrainedOptimizer:
    """Run a recipe until its last outer step, or until `stop()` is true after a step; arguments as of `train`.

    Raises:
        TrainingError: see errors.py.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rule = build_inner_optimizer(recipe.optimizer)
    phi = rule.init(families.train.draw(0, 1).start, torch.Generator().manual_seed(recipe.seed))
    state = build.build_state(MetaParams({}, phi, {}), recipe.outer)
    gradient = build_optimizer_gradient(recipe, rule, families.train)
    run = _Run(recipe, folder, families.validation, rule, state, gradient, snapshot(_in_use(state)))
    checkpoint = load_newest(folder / "checkpoints", recipe_digest=recipe.digest) if resume else None
    if checkpoint is not None:
        run.restore(checkpoint)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with reporter(state.step) as report:
        if checkpoint is not None:
            report.line(f"resumed after outer step {state.step}")
        finished = run.go(report, stop)
    learning_curve(read_history(folder / HISTORY), folder / "learning_curve.png", title=recipe.name)
    chosen = run.best if recipe.artifact.select == "best" else snapshot(_in_use(state))
    return TrainedOptimizer(finished, state.step, rule, chosen)


@dataclass
class _Run:
    recipe: OptimizerRecipe
    folder: Path
    validation: ProblemFamily
    rule: InnerOptimizer
    state: OuterState
    gradient: OptimizerGradient
    best: MetaParams
    best_score: float = float("inf")  # log10 of the mean final loss
    best_step: int = 0

    def go(self, report: Reporter, stop: Callable[[], bool]) -> bool:
        """Run to the end (True) or to a wish to stop (False). Either way a checkpoint of the last step is written."""
        outer = self.recipe.outer
        history = History(self.folder / HISTORY, step=self.state.step, every=HISTORY_EVERY)
        board = TensorBoard(self.folder, step=self.state.step)
        steps = outer_steps(
            self.state,
            lambda step: self.gradient.gradient(self.state.meta, step),
            steps=outer.steps,
            schedule=build.build_schedule(outer.schedule, steps=outer.steps),
            clipping=build.build_clipping(outer),
            average_decay=outer.average_decay,
        )
        try:
            for metrics in steps:
                report.step(metrics)
                history.step(metrics)
                board.step(metrics)
                if metrics.step % self.recipe.validation.every == 0 or metrics.step == outer.steps:
                    scores = self._validate(report)
                    history.validation(metrics.step, scores)
                    board.validation(metrics.step, scores)
                if stop():
                    break
                if metrics.step % self.recipe.checkpoint_every == 0 and metrics.step < outer.steps:
                    self._save()
        finally:
            history.flush()
            board.close()
        self._save()
        return self.state.step >= outer.steps

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.state.load(checkpoint.step, checkpoint.tensors, checkpoint.values["optimizer"])
        self.gradient.load(under("walk/", checkpoint.tensors), checkpoint.values["walk"])
        copy_into(self.best, under("best/", checkpoint.tensors))
        if (best := checkpoint.values["best"]) is not None:
            self.best_score, self.best_step = best["score"], best["step"]

    def _validate(self, report: Reporter) -> dict[str, float]:
        section, meta = self.recipe.validation, _in_use(self.state)
        score = mean_log10(optimize(self.rule, meta.inner, self.validation.draw(0, section.runs), section.steps)[-1])
        improved = score < self.best_score
        if improved:
            copy_into(self.best, meta_to_arrays(meta))
            self.best_score, self.best_step = score, self.state.step
        told = f"log10 of the mean loss after {section.steps} steps {score:.3f}"
        report.line(f"step {self.state.step}: validation: {told}{'  (best so far)' if improved else ''}")
        return {f"log10 loss at {section.steps}": score}

    def _save(self) -> None:
        check_meta(self.state)
        tensors, values = self.state.tensors()
        walk, where = self.gradient.tensors()
        tensors |= prefixed("walk/", walk) | prefixed("best/", meta_to_arrays(self.best))
        best = {"score": self.best_score, "step": self.best_step} if self.best_step else None
        told = {"optimizer": values, "walk": where, "best": best}
        save_checkpoint(self.folder / "checkpoints", Checkpoint(self.state.step, self.recipe.digest, tensors, told))


def export_optimizer(
    recipe: OptimizerRecipe, trained: TrainedOptimizer, folder: Path, families: Families
) -> tuple[Path, tuple[OptimizerMeasured, ...]]:
    """Measure on test problems and write the artifact to `folder`/NAME/VERSION.

    Returns:
        the artifact's folder, and what was measured.
    """
    measured: list[OptimizerMeasured] = []
    if (section := recipe.measure) is not None:
        losses = optimize(trained.rule, trained.meta.inner, families.test.draw(0, section.runs), max(section.steps))
        for steps in section.steps:
            value = round(mean_log10(losses[steps]), 4)
            measured.append(
                OptimizerMeasured(problem=recipe.problem.type, steps=steps, runs=section.runs, log10_mean_loss=value)
            )
    manifest = OptimizerManifest(
        name=recipe.artifact.name,
        version=recipe.artifact.version,
        description=recipe.artifact.description or recipe.description,
        optimizer=recipe.optimizer,
        provenance=OptimizerProvenance(
            recipe=recipe.name,
            recipe_sha256=recipe.digest,
            problem=recipe.problem.type,
            seed=recipe.seed,
            revision=revision(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            measured=tuple(measured),
        ),
    )
    target = folder / recipe.artifact.name / recipe.artifact.version
    save_artifact(target, manifest, {name: t.contiguous().numpy() for name, t in meta_to_arrays(trained.meta).items()})
    return target, tuple(measured)


def _in_use(state: OuterState) -> MetaParams:
    """What would be exported now: the moving average where there is one."""
    return state.meta if state.average is None else state.average
