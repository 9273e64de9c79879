"""The curves of a report as a small PNG: tasks per second over what varies, the limit dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["plot_curves"]


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path, *, title: str) -> None:
    """One panel for each curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes half a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(3.2 * len(curves), 3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    for panel, (name, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), panel)
        for side in points[0]:
            if side != name:
                values = [point[side] for point in points]
                style = {"linestyle": "--", "color": "0.5"} if side == "limit" else {"marker": "o", "markersize": 3}
                axes.plot([point[name] for point in points], values, label=side, linewidth=1.2, **style)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
        if panel == 1:
            axes.set_ylabel("tasks per second")
            axes.legend(fontsize=6)
    # No creation date inside: the same figures are the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
