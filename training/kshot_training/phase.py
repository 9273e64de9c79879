"""One stretch of training in a folder: outer steps by any gradient that goes on from where it stood.

    checkpoints/  history.jsonl  learning_curve.png  TensorBoard          a resumed phase makes the same numbers

A training that comes in several parts, such as a language model's weights and then their updater, is several phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kshot_models.load import meta_to_arrays
from kshot_models.tree import prefixed, under
from kshot_models.types import MetaParams, Params
from kshot_training import build
from kshot_training.checkpoint import Checkpoint, load_newest, save_checkpoint
from kshot_training.curves import learning_curve
from kshot_training.history import History, read_history
from kshot_training.meta_gradients.base import Metrics
from kshot_training.outer_loop import OuterState, check_meta, copy_into, outer_steps, snapshot
from kshot_training.progress import Reporter
from kshot_training.recipe import OuterSection
from kshot_training.tensorboard import TensorBoard

__all__ = ["GoingOn", "Phase"]

HISTORY, HISTORY_EVERY = "history.jsonl", 20


class GoingOn(Protocol):
    """A gradient whose next value depends on how far it has come."""

    def gradient(self, meta: MetaParams, step: int) -> tuple[MetaParams, Metrics]:
        """The gradient of the next piece, at outer step `step`."""
        ...

    def tensors(self) -> tuple[Params, dict[str, int]]:
        """How far it has come, for a checkpoint: tensors, and values that are none."""
        ...

    def load(self, tensors: Params, values: Mapping[str, Any]) -> None:
        """Put back what `tensors` returned."""
        ...


@dataclass
class Phase:
    """Training in a folder.

    Args:
        title: above the learning curve, and in what is reported.
        folder: where it is.
        digest: of the settings that decide its numbers.
        outer: the recipe's section.
        state: before the first step.
        source: of gradients.
        score: meta-parameters -> what is lower for better ones.
        unit: of the score, in words.
        every: outer steps between two scores.
        checkpoint_every: outer steps between two checkpoints.
    """

    title: str
    folder: Path
    digest: str
    outer: OuterSection
    state: OuterState
    source: GoingOn
    score: Callable[[MetaParams], float]
    unit: str
    every: int
    checkpoint_every: int
    best: MetaParams = field(init=False)
    best_score: float = float("inf")
    best_step: int = 0

    def __post_init__(self) -> None:
        self.best = snapshot(self._in_use())

    def restore(self) -> bool:
        """Go on from the newest checkpoint; False if there is none.

        Raises:
            CheckpointError: it is broken, or of other settings.
        """
        checkpoint = load_newest(self.folder / "checkpoints", recipe_digest=self.digest)
        if checkpoint is None:
            return False
        self.state.load(checkpoint.step, checkpoint.tensors, checkpoint.values["optimizer"])
        self.source.load(under("source/", checkpoint.tensors), checkpoint.values["source"])
        copy_into(self.best, under("best/", checkpoint.tensors))
        if (best := checkpoint.values["best"]) is not None:
            self.best_score, self.best_step = best["score"], best["step"]
        return True

    def go(self, report: Reporter, stop: Callable[[], bool]) -> bool:
        """Run to the end (True) or to a wish to stop (False). Either way a checkpoint of the last step is written."""
        if self.state.step >= self.outer.steps:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        history = History(self.folder / HISTORY, step=self.state.step, every=HISTORY_EVERY)
        board = TensorBoard(self.folder, step=self.state.step)
        try:
            self._steps(report, stop, history, board)
        finally:
            history.flush()
            board.close()
        self._save()
        learning_curve(read_history(self.folder / HISTORY), self.folder / "learning_curve.png", title=self.title)
        return self.state.step >= self.outer.steps

    def _steps(self, report: Reporter, stop: Callable[[], bool], history: History, board: TensorBoard) -> None:
        outer = self.outer
        steps = outer_steps(
            self.state,
            lambda step: self.source.gradient(self.state.meta, step),
            steps=outer.steps,
            schedule=build.build_schedule(outer.schedule, steps=outer.steps),
            clipping=build.build_clipping(outer),
            average_decay=outer.average_decay,
        )
        for metrics in steps:
            report.step(metrics)
            history.step(metrics)
            board.step(metrics)
            if metrics.step % self.every == 0 or metrics.step == outer.steps:
                scores = {self.unit: self._judge(report)}
                history.validation(metrics.step, scores)
                board.validation(metrics.step, scores)
            if stop():
                break
            if metrics.step % self.checkpoint_every == 0 and metrics.step < outer.steps:
                self._save()

    def _judge(self, report: Reporter) -> float:
        score = self.score(self._in_use())
        improved = score < self.best_score
        if improved:
            copy_into(self.best, meta_to_arrays(self._in_use()))
            self.best_score, self.best_step = score, self.state.step
        best = "  (best so far)" if improved else ""
        report.line(f"{self.title}, step {self.state.step}: validation: {score:.4f} {self.unit}{best}")
        return score

    def _save(self) -> None:
        check_meta(self.state)
        tensors, values = self.state.tensors()
        place, where = self.source.tensors()
        tensors |= prefixed("source/", place) | prefixed("best/", meta_to_arrays(self.best))
        best = {"score": self.best_score, "step": self.best_step} if self.best_step else None
        told = {"optimizer": values, "source": where, "best": best}
        save_checkpoint(self.folder / "checkpoints", Checkpoint(self.state.step, self.digest, tensors, told))

    def _in_use(self) -> MetaParams:
        """What would be used now: the moving average where there is one."""
        return self.state.meta if self.state.average is None else self.state.average
