"""A training run in a folder: recipe in, artifact out, stoppable at any step.

    OUT/recipe.json          the recipe as it was read, overrides included
        checkpoints/         the two newest; a resumed run goes on from the newest
        history.jsonl        losses and validation scores
        events.out.*         TensorBoard
        learning_curve.png
        NAME/VERSION/        the artifact, once training is done: `kshot serve --models OUT` serves it

Each outer step: train, maybe validate, maybe checkpoint, look whether to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kshot_models.load import meta_to_arrays
from kshot_models.tree import under
from kshot_models.types import Learner, MetaParams, Params
from kshot_training import build
from kshot_training.checkpoint import Checkpoint, load_newest, save_checkpoint
from kshot_training.curves import learning_curve
from kshot_training.device_loop import device_loop, steps_at_once
from kshot_training.evaluate import Evaluation, evaluate
from kshot_training.history import History, read_history
from kshot_training.outer_loop import OuterState, Sample, StepMetrics, check_meta, copy_into, outer_loop, snapshot
from kshot_training.progress import Reporter
from kshot_training.ranks import Ranks, data_parallel
from kshot_training.recipe import Recipe, Setting
from kshot_training.tensorboard import TensorBoard
from kshot_training.warm_start import warm_start

if TYPE_CHECKING:  # which imports this file
    from kshot_training.sampling import SampledBatches

HISTORY = "history.jsonl"
HISTORY_EVERY = 50


@dataclass(frozen=True)
class Episodes:
    """Where a run's episodes come from: training batches by outer step, the others by setting and number."""

    train: Sample
    validation: Mapping[Setting, Sample]
    test: Mapping[Setting, Sample]


@dataclass
class Best:
    """The meta-parameters of the best validation score so far."""

    meta: MetaParams
    score: float = float("-inf")
    step: int = 0


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    finished: bool  # False: stopped on request, a checkpoint is written
    step: int
    learner: Learner
    meta: MetaParams  # selected as the recipe says
    best_score: float | None
    seconds: float  # of training and validation, all resumes together; what a kill undid does not count
    notes: tuple[str, ...] = field(default=())


def serving_meta(state: OuterState) -> MetaParams:
    """What would be served now: the moving average where there is one."""
    return state.meta if state.average is None else state.average


def train(
    recipe: Recipe,
    folder: Path,
    episodes: Episodes,
    *,
    reporter: Callable[[int], Any],
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 1,
    ranks: Ranks | None = None,
) -> Trained:
    """Run a recipe until its last step, or until `stop()` is true after a step.

    Args:
        recipe: What to train.
        folder: The run's folder; made if missing.
        episodes: Training and validation episodes, on `device`.
        reporter: Given the steps already taken, a context manager that gives a `Reporter`.
        stop: Asked after each step; when true a checkpoint is written and the run ends.
        resume: Go on from the newest checkpoint, if there is one.
        device: Where the meta-parameters live.
        workers: Tasks side by side.
        ranks: The processes that share the tasks of each step; only the first of them writes and reports.

    Raises:
        TrainingError: See errors.py. After a NonFiniteError the last checkpoint is as it was.
    """
    learner = build.build_learner(recipe.learner, recipe.input)
    meta = build.fresh_meta(learner, seed=recipe.seed, device=device, classes=build.joint_classes(recipe))
    checkpoint = load_newest(folder / "checkpoints", recipe_digest=recipe.digest) if resume else None
    notes = [] if checkpoint or recipe.init_from is None else [_warm_start_note(meta, recipe.init_from)]
    state = build.build_state(meta, recipe.outer)
    best = Best(snapshot(serving_meta(state)))
    seconds_before = 0.0
    if checkpoint is not None:
        seconds_before = checkpoint.values.get("seconds", 0.0)
        _restore(checkpoint, state, best)
        notes.append(f"resumed after outer step {state.step}")
    steps = _outer_steps(recipe, learner, state, episodes, workers, ranks)
    if ranks is not None:
        ranks.wished, stop = stop, lambda: ranks.stopping
        ranks.agree(state.step)
        if not ranks.leads:
            _follow(steps, stop)
            return Trained(state.step >= recipe.outer.steps, state.step, learner, best.meta, None, 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with reporter(state.step) as report:
        for note in notes:
            report.line(note)
        clock = _Clock(seconds_before, time.monotonic())
        loop = _Loop(recipe, folder, learner, state, best, episodes, report, workers, clock)
        finished = loop.run(steps, stop)
    learning_curve(read_history(folder / HISTORY), folder / "learning_curve.png", title=recipe.name)
    chosen = best.meta if recipe.artifact.select == "best" else snapshot(serving_meta(state))
    score = best.score if recipe.validation else None
    return Trained(finished, state.step, learner, chosen, score, loop.clock.seconds, tuple(notes))


def _outer_steps(
    recipe: Recipe, learner: Learner, state: OuterState, episodes: Episodes, workers: int, ranks: Ranks | None
) -> Iterator[StepMetrics]:
    gradients = build.build_meta_gradient(recipe, workers=workers)
    settings: dict[str, Any] = {
        "steps": recipe.outer.steps,
        "schedule": build.build_schedule(recipe.outer.schedule, steps=recipe.outer.steps),
        "seed": recipe.seed,
        "clipping": build.build_clipping(recipe.outer),
        "average_decay": recipe.outer.average_decay,
    }
    if ranks is not None:
        parallel = data_parallel(gradients, ranks, skip=build.skip_draws(recipe))
        return outer_loop(state, learner, episodes.train, parallel, **settings)
    if _runs_ahead(recipe, state, episodes):
        every = [] if recipe.validation is None else [recipe.validation.every]
        at_once = steps_at_once(recipe.checkpoint_every, *every)
        return device_loop(
            state, learner, cast("SampledBatches", episodes.train), gradients, **settings, at_once=at_once
        )
    return outer_loop(state, learner, episodes.train, gradients, **settings)


def _runs_ahead(recipe: Recipe, state: OuterState, episodes: Episodes) -> bool:
    """Whether the steps can be taken on the device, many at once."""
    on_gpu = next(iter(state.meta.init.values())).is_cuda
    batched = getattr(recipe.meta_gradient, "batching", None) == "vmap"
    return on_gpu and batched and getattr(episodes.train, "steady", False) and state.optimizer.runs_ahead


def _follow(steps: Iterator[StepMetrics], stop: Callable[[], bool]) -> None:
    for _ in steps:
        if stop():
            return


@dataclass(frozen=True)
class _Clock:
    before: float  # seconds of the runs that this one resumes
    began: float

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


@dataclass
class _Loop:
    recipe: Recipe
    folder: Path
    learner: Learner
    state: OuterState
    best: Best
    episodes: Episodes
    report: Reporter
    workers: int
    clock: _Clock

    def run(self, steps: Iterator[StepMetrics], stop: Callable[[], bool]) -> bool:
        """Run to the end (True) or to a wish to stop (False). Either way a checkpoint of the last step is written."""
        outer = self.recipe.outer
        history = History(self.folder / HISTORY, step=self.state.step, every=HISTORY_EVERY)
        board = TensorBoard(self.folder, step=self.state.step)
        try:
            for metrics in steps:
                self.report.step(metrics)
                history.step(metrics)
                board.step(metrics)
                if not metrics.settled:
                    continue
                if self._validation_due():
                    scores = self._validate()
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

    def _validation_due(self) -> bool:
        section, step = self.recipe.validation, self.state.step
        return section is not None and (step % section.every == 0 or step == self.recipe.outer.steps)

    def _validate(self) -> dict[str, float]:
        section = self.recipe.validation
        assert section is not None
        meta = serving_meta(self.state)
        results = {
            setting.name: evaluate(
                self.learner,
                meta,
                sample,
                episodes=section.episodes,
                loss=build.build_loss(self.recipe.learner),
                workers=self.workers,
            )
            for setting, sample in self.episodes.validation.items()
        }
        score = sum(result.score for result in results.values()) / len(results)
        improved = score > self.best.score
        if improved:
            copy_into(self.best.meta, meta_to_arrays(meta))
            self.best.score, self.best.step = score, self.state.step
        told = "  ".join(f"{name} {_tell(result)}" for name, result in results.items())
        self.report.line(f"step {self.state.step}: validation {told}{'  (best so far)' if improved else ''}")
        return {name: abs(result.score) for name, result in results.items()}

    def _save(self) -> None:
        check_meta(self.state)  # a checkpoint is always sound
        tensors, values = self.state.tensors()
        tensors |= {f"best/{name}": tensor for name, tensor in meta_to_arrays(self.best.meta).items()}
        best = {"score": self.best.score, "step": self.best.step} if self.best.step else None
        values = {"optimizer": values, "best": best, "seconds": self.clock.seconds}
        checkpoint = Checkpoint(self.state.step, self.recipe.digest, tensors, values)
        save_checkpoint(self.folder / "checkpoints", checkpoint)


def _restore(checkpoint: Checkpoint, state: OuterState, best: Best) -> None:
    tensors: Params = checkpoint.tensors
    state.load(checkpoint.step, tensors, checkpoint.values["optimizer"])
    copy_into(best.meta, under("best/", tensors))
    if checkpoint.values["best"] is not None:
        best.score, best.step = checkpoint.values["best"]["score"], checkpoint.values["best"]["step"]


def _warm_start_note(meta: MetaParams, name_or_folder: str) -> str:
    taken = warm_start(meta, name_or_folder)
    fresh = f"; fresh: {', '.join(taken.fresh)}" if taken.fresh else ""
    return f"started from {name_or_folder}: {len(taken.copied)} tensors{fresh}"


def _tell(result: Evaluation) -> str:
    if result.reliability is None:
        return f"loss {result.loss:.4f} ± {result.loss_ci95:.4f}"
    return f"{result.accuracy:.2%} ± {result.ci95:.2%}"


__all__ = ["Episodes", "Trained", "serving_meta", "train"]
