"""The comparisons of learned optimizers in RESULTS.md, from what `kshot compare --json --plot` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["render_comparisons"]

_HEAD = """
## Learned optimizers

log10 of the mean loss over problems that were never trained on, after as many steps as the hand-made optimizers were
tuned to be lowest at, and after more (lower is better). All start alike and see the same mini-batches; rates, and the
momentum of NAG, are the best of a grid on problems of their own.
"""
_MEMORY = """
![Memory of unrolls](training/results/figures/unroll-memory.png)

What a long unroll holds at most, plain and recomputed in segments of sqrt(steps):
`python -m kshot_training.unroll_memory training/results/figures` counts and draws.
"""


def render_comparisons(files: Iterable[Path]) -> str:
    """The section's text.

    Args:
        files: JSON of `kshot compare`; the picture of each stands beside it.
    """
    return _HEAD + "".join(map(_comparison, files)) + _MEMORY


def _comparison(path: Path) -> str:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tuned = read["tuned_at"]
    lines = [f"\n### {path.stem}\n", f"![Mean losses](training/results/optimizers/{path.stem}.png)\n"]
    for title, compared in read["problems"].items():
        last = len(next(iter(compared.values()))["log10_mean_loss"]) - 1
        lines += [f"| {title} | after {tuned} | after {last} | settings |", "|---|---|---|---|"]
        for name, result in compared.items():
            curve = result["log10_mean_loss"]
            settings = ", ".join(f"{key} {value:g}" for key, value in result["settings"].items())
            lines.append(f"| {name} | {curve[tuned]:.3f} | {curve[last]:.3f} | {settings} |")
        lines.append("")
    lines += [f"{read['runs']} runs on {read['hardware']}:\n", f"```sh\n{read['command']}\n```\n"]
    return "\n".join(lines)
