"""Pictures of a run: the learning curve, and the reliability diagram of an evaluation. PNG, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kshot_training.calibration import BINS, Reliability

__all__ = ["learning_curve", "reliability_diagram"]


def learning_curve(history: list[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw training loss and accuracy and validation scores over the outer steps."""
    train = [row for row in history if "loss" in row]
    validation = [row for row in history if "validation" in row]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    positive = train and all(row["loss"] > 0 for row in train)  # a cost in logarithms is not
    left.plot([row["step"] for row in train], [row["loss"] for row in train], linewidth=1)
    left.set(xlabel="outer step", ylabel="query loss", yscale="log" if positive else "linear")
    seen = [row for row in train if "accuracy" in row]
    right.plot([row["step"] for row in seen], [row["accuracy"] for row in seen], linewidth=1, label="training")
    for name in sorted({name for row in validation for name in row["validation"]}):
        points = [(row["step"], row["validation"][name]) for row in validation if name in row["validation"]]
        right.plot(*zip(*points, strict=True), marker=".", linewidth=1, label=f"validation {name}")
    right.set(xlabel="outer step", ylabel="accuracy" if seen else "validation loss")
    if right.lines:
        right.legend(fontsize="small", loc="lower right")  # "best" is looked for, and warns where that takes long
    figure.suptitle(title)
    _save(figure, path)


def reliability_diagram(measured: Reliability, path: Path, *, title: str) -> None:
    """Draw the share of right answers over their confidence; on the diagonal, probabilities mean what they say."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    filled = measured.counts > 0
    confidence = (measured.confidence / measured.counts)[filled].tolist()
    correct = (measured.correct / measured.counts)[filled].tolist()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axes.bar(confidence, correct, width=0.9 / BINS, alpha=0.6)
    axes.plot(confidence, correct, marker="o", markersize=3, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right")
    axes.set_title(f"{title}\nexpected calibration error {measured.expected_error:.3f}", fontsize="medium")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")
