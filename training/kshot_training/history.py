"""The numbers of a run on disk, one JSON object a line: for the learning curve, and for plots of your own.

{"step": 100, "loss": 0.41, "accuracy": 0.87, "learning_rate": 0.001}     means over the steps since the line before,
                                                                             and what the meta-gradient tells of itself
{"step": 1000, "validation": {"5w1s": 0.97}}
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kshot_training.outer_loop import StepMetrics

__all__ = ["History", "read_history"]


class History:
    """Appends to a file; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path, *, step: int, every: int) -> None:
        self._path, self._every = path, every
        self._pending: list[StepMetrics] = []
        kept = [row for row in read_history(path) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def step(self, metrics: StepMetrics) -> None:
        """Count one outer step; every `every`-th writes a line."""
        self._pending.append(metrics)
        if metrics.step % self._every == 0:
            self.flush()

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Write validation accuracies (or losses of a regression) by setting."""
        self._append({"step": step, "validation": scores})

    def flush(self) -> None:
        """Write a line over the steps since the last one, if there are any."""
        if not self._pending:
            return
        last, rows = self._pending[-1], self._pending
        line = {"step": last.step, "loss": _mean([row.loss for row in rows]), "learning_rate": last.learning_rate}
        accuracy = _mean([row.accuracy for row in rows])
        if not math.isnan(accuracy):
            line["accuracy"] = accuracy
        line |= {name: _mean([row.diagnostics[name] for row in rows]) for name in last.diagnostics}
        self._append(line)
        self._pending = []

    def _append(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history file; a last line that a killed process left half is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
