"""One sine wave as each algorithm learns it: the true curve, the support points, and the answers along the inner steps.

    RUNS/RUN/RUN/1 ──artifact──> answers after 0, 1, 5, 10, 32 steps ──> sine-adapted.json ──> sine-adapted.png

    python -m kshot_training.sine_figure runs training/results/figures

`runs` is where `kshot reproduce` left artifacts: those of the runs below that are there get a panel each. The wave is
none that they were trained on.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kshot_models.learners import GradientLearner
from kshot_models.load import LoadedLearner, load
from kshot_models.types import Examples
from kshot_training.data import SinusoidSampler

__all__ = ["RUNS", "STEPS", "draw", "main", "measure"]

RUNS: Mapping[str, str] = {
    "MAML": "sine-maml-1w10s",
    "FOMAML": "sine-fomaml-1w10s",
    "Meta-SGD": "sine-meta-sgd-1w10s",
    "Reptile": "sine-reptile",
    "joint training, fine-tuned": "sine-joint",
}
"""The run of each panel, in their order."""

STEPS = (0, 1, 5, 10, 32)
NAME = "sine-adapted"
_SEED, _SHOT, _POINTS = 2_000_004, 10, 100  # of the wave: not the recipes' seeds, nor those of their test tasks
_DIGITS = 4
_DIVERGED = 1e3  # no wave is higher than 5; NaN is no smaller than this either
_COLOURS = ("#fde725", "#7ad151", "#22a884", "#2a788e", "#440154")  # of viridis, by steps


def measure(models: Mapping[str, LoadedLearner]) -> dict[str, Any]:
    """Adapt each model to the wave.

    Args:
        models: By the title of its panel; regressions by gradient steps.

    Returns:
        `x`, `true` and `support` (pairs), and `answers` by model and number of steps, along `x`; None where they
        diverged.
    """
    wave = SinusoidSampler(shot=_SHOT, queries=_POINTS, seed=_SEED, frequency=(0.8, 1.2)).sample(0, 1)
    support, query = (Examples(*(tensor[0] for tensor in part)) for part in wave)
    order = query.inputs[:, 0].argsort()
    x, true = query.inputs[order], query.targets[order]
    answers: dict[str, dict[str, list[float] | None]] = {}
    for title, model in models.items():
        assert isinstance(model.learner, GradientLearner)
        learner = dataclasses.replace(model.learner, steps=max(STEPS))
        with torch.no_grad():
            path = enumerate(learner.trajectory(model.meta_params, support, way=1))
            seen = {n: learner.predict(model.meta_params, task, x)[:, 0] for n, task in path if n in STEPS}
        answers[title] = {
            str(n): _rounded(values) if values.abs().max() < _DIVERGED else None for n, values in seen.items()
        }
    points = [_rounded(pair) for pair in torch.stack([support.inputs[:, 0], support.targets], 1)]
    return {"x": _rounded(x[:, 0]), "true": _rounded(true), "support": points, "answers": answers}


def draw(told: Mapping[str, Any], path: Path) -> None:
    """A panel for each model, in three columns; the legend takes the last place."""
    titles = list(told["answers"])
    rows = -(-(len(titles) + 1) // 3)
    figure = Figure(figsize=(10.5, 2.9 * rows), dpi=90, layout="constrained")
    places: list[Axes] = list(figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).flat)
    largest = 1.4 * max(abs(value) for value in told["true"])
    for title, axes in zip(titles, places, strict=False):
        _panel(axes, told, title)
        axes.set(ylim=(-largest, largest))
        axes.tick_params(labelbottom=True)
    for axes in places[len(titles) :]:
        axes.set_axis_off()
    handles, labels = places[0].get_legend_handles_labels()
    places[-1].legend(handles, labels, loc="center", frameon=False)
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")


def _panel(axes: Axes, told: Mapping[str, Any], title: str) -> None:
    axes.plot(told["x"], told["true"], color="black", linewidth=1, linestyle="--", label="the wave")
    for steps, colour in zip(STEPS, _COLOURS, strict=True):
        label = f"after {steps} inner step{'s' * (steps != 1)}"
        answers = told["answers"][title][str(steps)] or [float("nan")] * len(told["x"])
        axes.plot(told["x"], answers, color=colour, linewidth=1.8, label=label)
    x, y = zip(*told["support"], strict=True)
    axes.plot(x, y, "^", color="crimson", markersize=6, label="support set")
    once, often = (_error(told["answers"][title][str(n)], told["true"]) for n in (1, max(STEPS)))
    axes.set_title(f"{title}\n{once} after 1 step, {often} after {max(STEPS)}", fontsize=10)


def _error(answers: Sequence[float] | None, true: Sequence[float]) -> str:
    if answers is None:
        return "diverged"
    return f"error {sum((a - b) ** 2 for a, b in zip(answers, true, strict=True)) / len(true):.2f}"


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]


def main(arguments: Sequence[str]) -> int:
    """Adapt and draw: python -m kshot_training.sine_figure RUNS FOLDER."""
    runs, folder = map(Path, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    there = {title: runs / run / run / "1" for title, run in RUNS.items()}
    told = measure({title: load(artifact) for title, artifact in there.items() if artifact.is_dir()})
    (folder / f"{NAME}.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    draw(told, folder / f"{NAME}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
