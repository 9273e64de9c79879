"""The progress line of a training run: step, tasks per second, time left, loss, accuracy."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kshot_training.outer_loop import StepMetrics

__all__ = ["BarReporter", "Reporter", "bar_reporter"]


class Reporter(Protocol):
    """Told of each outer step and of each event worth a line."""

    def step(self, metrics: StepMetrics) -> None:
        """One outer step was taken."""
        ...

    def line(self, text: str) -> None:
        """Something happened that stays on the screen."""
        ...


class _Smooth:
    """An exponential mean over about 50 steps: single meta-batches jump too much to be read."""

    def __init__(self) -> None:
        self.value = math.nan

    def __call__(self, value: float) -> float:
        self.value = value if math.isnan(self.value) else 0.98 * self.value + 0.02 * value
        return self.value


class BarReporter:
    """A rich bar; on a terminal it moves, elsewhere only the lines are printed."""

    def __init__(self, progress: Progress, *, done: int, steps: int, tasks: int) -> None:
        self._progress = progress
        self._tasks = tasks
        self._loss, self._accuracy = _Smooth(), _Smooth()
        self._bar = progress.add_task(
            "meta-training", total=steps, completed=done, rate=0.0, loss=math.nan, accuracy=""
        )

    def step(self, metrics: StepMetrics) -> None:
        """See Reporter."""
        accuracy = self._accuracy(metrics.accuracy)
        task = self._progress.tasks[0]
        self._progress.update(
            self._bar,
            completed=metrics.step,
            rate=(task.speed or 0.0) * self._tasks,
            loss=self._loss(metrics.loss),
            accuracy="" if math.isnan(accuracy) else f"accuracy {accuracy:6.2%}",
        )

    def line(self, text: str) -> None:
        """See Reporter."""
        self._progress.console.print(text, highlight=False, markup=False)


@contextmanager
def bar_reporter(*, done: int, steps: int, tasks: int) -> Iterator[Reporter]:
    """A reporter that draws on the standard error stream until the block ends.

    Args:
        done: Outer steps taken before.
        steps: Outer steps in all.
        tasks: Episodes per outer step, for the rate.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} tasks/s  loss {task.fields[loss]:.4f}  {task.fields[accuracy]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as progress:
        yield BarReporter(progress, done=done, steps=steps, tasks=tasks)
