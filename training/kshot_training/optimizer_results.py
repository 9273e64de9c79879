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
momentum of NAG, are the best of a grid on problems of their own. The dotted line of a picture is the longest horizon
that the optimizer was trained for; "inf" is a loss that is no number any more.
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
        shown = sorted({tuned, min(2 * tuned, last), last})
        heads = " | ".join(f"after {step}" for step in shown)
        lines += [f"| {title} | {heads} | settings |", "|---" * (len(shown) + 2) + "|"]
        for name, result in compared.items():
            curve = result["log10_mean_loss"]
            settings = ", ".join(f"{key} {value:g}" for key, value in result["settings"].items())
            figures = " | ".join(f"{curve[step]:.3f}" for step in shown)
            lines.append(f"| {name} | {figures} | {settings} |")
        lines.append("")
    lines += [f"{read['runs']} runs on {read['hardware']}:\n", f"```sh\n{read['command']}\n```\n"]
    return "\n".join(lines)
