"""What long unrolls hold in memory, plain and recomputed: measured, as JSON and a picture.

    python -m kshot_training.unroll_memory training/results/figures

The most bytes that autograd has saved at once, on the way forth and back, for the meta-gradient of the coordinatewise
LSTM on quadratics. They are counted by hooks (saved_bytes.py), so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kshot_models.inner import lstm
from kshot_models.tree import tree_map
from kshot_training.problems import Quadratics
from kshot_training.saved_bytes import count_saved_bytes
from kshot_training.unroll import Unroll, begin

__all__ = ["draw", "main", "measure"]

STEPS = (4, 9, 16, 25, 36, 64, 100)
NAME = "unroll-memory"


def measure(steps: Sequence[int] = STEPS) -> list[dict[str, int]]:
    """Bytes held at most for unrolls of each length: `plain`, and `recomputed` in segments of ceil(sqrt(steps))."""
    rule, problem = lstm(p=0.0, scale=1.0), Quadratics(seed=1).draw(0, 4)
    fresh = rule.init({"theta": torch.zeros(10)}, torch.Generator().manual_seed(0))
    rows = []
    for count in steps:
        held = {}
        for name, recompute in (("plain", None), ("recomputed", 0)):
            phi = tree_map(lambda leaf: leaf.clone().requires_grad_(), fresh)
            walk = begin(rule, phi, problem)
            with count_saved_bytes() as counted:
                loss, _, _ = Unroll(rule, count, recompute=recompute)(phi, problem, walk)
                torch.autograd.grad(loss, list(phi.values()))
            held[name] = counted.peak
        rows.append({"steps": count, **held})
    return rows


def draw(rows: Sequence[dict[str, int]], path: Path) -> None:
    """Both curves over the number of steps, with the slopes n and sqrt(n)."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    steps = [row["steps"] for row in rows]
    for name, power in (("plain", 1.0), ("recomputed", 0.5)):
        axes.plot(steps, [row[name] / 1e6 for row in rows], marker="o", markersize=3, label=name)
        last = rows[-1]
        ideal = [last[name] / 1e6 * (n / last["steps"]) ** power for n in steps]
        axes.plot(steps, ideal, color="grey", linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="steps of the unroll", ylabel="megabytes saved at most")
    axes.set_title("dotted: steps, and the root of steps", fontsize="medium")
    axes.legend()
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write NAME.json and NAME.png into a folder."""
    parser = argparse.ArgumentParser(description="measure what long unrolls hold in memory")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure()
    (folder / f"{NAME}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, folder / f"{NAME}.png")


if __name__ == "__main__":
    main()
