"""What meta-gradients hold in memory, by the number of inner steps: measured, as JSON and a picture.

    python -m kshot_training.adaptation_memory training/results/figures      writes adaptation-memory.json and .png

    MAML                 all inner steps                       grows with the steps
    MAML, recomputed     what stands between segments          grows with their root
    iMAML                where the inner steps end             does not grow

One 5-way 1-shot task on the network of the Omniglot recipes. The most bytes of tensors alive at once, counted by the
allocator (peak_bytes.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kshot_models.learners import GradientLearner
from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.types import Episode, Examples
from kshot_training.meta_gradients import MetaGradient, imaml, through_adaptation
from kshot_training.peak_bytes import peak_bytes

__all__ = ["ALGORITHMS", "draw", "main", "measure"]

STRENGTH = 2.0
STEPS = (1, 2, 4, 9, 16, 36, 64)
NAME = "adaptation-memory"
_MEGABYTES = (5, 10, 20, 50, 100, 200)  # ticks
ALGORITHMS: dict[str, MetaGradient] = {
    "MAML": through_adaptation(),
    "MAML, recomputed": through_adaptation(recompute=0),
    "iMAML": imaml(strength=STRENGTH, cg_steps=5),
}


def measure(steps: Sequence[int] = STEPS, *, channels: Sequence[int] = (64, 64, 64, 64)) -> list[dict[str, int]]:
    """The most bytes alive at once for each number of inner steps and each algorithm.

    Args:
        steps: Numbers of inner steps.
        channels: Of the network.
    """
    episode = _episode()
    rows = []
    for count in steps:
        learner = _learner(count, channels)
        meta = learner.init(torch.Generator().manual_seed(0))
        row = {"steps": count}
        for name, gradient in ALGORITHMS.items():
            row[name] = peak_bytes(lambda: gradient(learner, meta, episode, way=5, generator=torch.Generator()))  # noqa: B023 - called at once
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, int]], path: Path) -> None:
    """A curve for each algorithm over the number of inner steps."""
    figure = Figure(figsize=(6, 3.9), dpi=90, layout="constrained")
    axes = figure.subplots()
    steps = [row["steps"] for row in rows]
    for name in ALGORITHMS:
        axes.plot(steps, [row[name] / 1e6 for row in rows], marker="o", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel="megabytes alive at most")
    for axis, ticks in ((axes.xaxis, steps), (axes.yaxis, _MEGABYTES)):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")


def main(arguments: Sequence[str]) -> int:
    """Measure and draw: python -m kshot_training.adaptation_memory FOLDER."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = measure()
    (folder / f"{NAME}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, folder / f"{NAME}.png")
    return 0


def _learner(steps: int, channels: Sequence[int]) -> GradientLearner:
    spec = LearnerSpec.model_validate(
        {
            "type": "gradient",
            "norm": "support",
            "steps": steps,
            "network": {"type": "conv4", "channels": tuple(channels), "downsample": "stride", "readout": "mean"},
            "head": {"type": "linear", "way": 5},
            "inner": ({"type": "proximal", "strength": STRENGTH}, {"type": "sgd", "rate": 0.1}),
        }
    )
    learner = build_learner(spec, InputSpec(height=28, width=28, channels=1, mean=(1.0,), std=(1.0,)))
    assert isinstance(learner, GradientLearner)
    return learner


def _episode() -> Episode:
    """Noise: what is held depends on sizes, not on values."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(5)[None]

    def examples() -> Examples:
        return Examples(torch.randn(1, 5, 1, 28, 28, generator=generator), targets, torch.ones(1, 5))

    return Episode(examples(), examples())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
