"""The section of RESULTS.md on language models, from what `kshot language --json --plot` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

__all__ = ["METHODS", "render_language", "spread"]

METHODS = ("static", "dynamic evaluation", "learned updater")

_HEAD = """
## Language models that learn on while they read

A character LSTM whose weights change after every segment of a long document, in bits per character on documents that
were never trained on (lower is better). `static`: they do not change. `dynamic evaluation`: gradient descent, pulled
back to the static weights (Krause et al., 2018, arXiv:1709.07432): of SGD and the RMS-scaled form, rates and decays,
the best on validation documents. `learned updater`: a Meta-Learner LSTM on displacements from the static weights, so
that its gates write and pull back (Wolf et al., 2018, arXiv:1803.10631). Mean and standard deviation over seeds, each
with static weights of its own. Wolf et al. measured larger models on other texts: there are no figures of theirs here.
"""


def render_language(files: Iterable[Path]) -> str:
    """The section's text; empty where there is no file.

    Args:
        files: JSON of `kshot language`; the picture of each stands beside it.
    """
    parts = [_comparison(path) for path in files]
    return _HEAD + "".join(parts) if parts else ""


def _comparison(path: Path) -> str:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    seeds: dict[str, Any] = read["seeds"]
    quarters = [f"{k * read['characters'] // 4:,}" for k in range(5)]
    lines = [f"\n### {path.stem}\n", f"![Bits per character](training/results/language/{path.stem}.png)\n"]
    spans = " | ".join(f"{a} to {b}" for a, b in pairwise(quarters))
    lines += [f"| | all | {spans} | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---" * (6 + len(seeds)) + "|"]
    for name in METHODS:
        curves = [found[name]["by_position"] for found in seeds.values()]
        cells = [_told([found[name]["bits"] for found in seeds.values()])]
        cells += [_told([_quarter(curve, k) for curve in curves]) for k in range(4)]
        cells += [f"{found[name]['bits']:.3f}" for found in seeds.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", _sentence(read, seeds), ""]
    return "\n".join(lines)


def _sentence(read: dict[str, Any], seeds: dict[str, Any]) -> str:
    documents, (_, dynamic, learned) = read["documents"], METHODS
    better = [
        sum(a < b for a, b in zip(found[learned]["documents"], found[dynamic]["documents"], strict=True))
        for found in seeds.values()
    ]
    tuned = "; ".join(
        f"{found['settings']['kind']}, rate {found['settings']['rate']:g}, decay {found['settings']['decay']:g}"
        for found in seeds.values()
    )
    name = read["recipe"]
    runs = " ".join(f"runs/{name}-{seed}" for seed in seeds)
    files = f"training/results/language/{name}"
    return (
        f"{read['weights']:,} weights, trained on {read['training_characters']:,} characters; the first "
        f"{read['characters']:,} characters of {documents['test']} documents, in segments of {read['segment']}. The "
        f"learned updater is below dynamic evaluation on {', '.join(map(str, better))} of them, by seed. Dynamic "
        f"evaluation was tuned to: {tuned}. On {read['hardware']}, one thread, with, for each SEED of "
        f"{', '.join(seeds)}:\n\n"
        f"```sh\nkshot train {name} seed=SEED --data-root DIR --out runs/{name}-SEED\n"
        f"kshot language {runs} --data-root DIR --json {files}.json --plot {files}.png\n```"
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; 0 of a single one."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _quarter(curve: list[float], k: int) -> float:
    part = curve[k * len(curve) // 4 : (k + 1) * len(curve) // 4]
    return sum(part) / len(part)


def _told(values: list[float]) -> str:
    mean, deviation = spread(values)
    return f"{mean:.3f} ± {deviation:.3f}"
