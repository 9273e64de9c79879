"""Static weights, dynamic evaluation and the learned updater on documents that none of them has seen.

a run ──> tuned on its validation documents ──> bits per character of its test documents, by position
                                             └─> JSON, a seed an entry ──> plot, RESULTS.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kshot_training.language.bits import bits_of_documents, read_static, read_updated
from kshot_training.language.dynamic import dynamic_evaluation, reader_of, relative_pull, tune
from kshot_training.language.recipe import LanguageRecipe
from kshot_training.language.results import METHODS, spread
from kshot_training.language.run import Texts, TrainedLanguage

__all__ = ["compare_language", "draw_language", "measured_bits", "write_seed"]

POINTS = 40  # of a curve


def compare_language(
    recipe: LanguageRecipe, trained: TrainedLanguage, texts: Texts, *, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Tune dynamic evaluation, then read the test documents in each of the three ways.

    Returns:
        what write_seed stores: by method, `bits` per character of all, `documents` of each document and `by_position`.
    """
    best = tune(recipe.dynamic, trained.reader, trained.rms, texts.parts["validation"], report=report)[0]
    pull = relative_pull(trained.rms) if best.kind == "rms" else None
    rule = dynamic_evaluation(rate=best.rate, decay=best.decay, pull=pull)
    ways: dict[str, Callable[[], Tensor]] = {
        "static": lambda: _read(recipe, texts, trained.reader, read_static),
        "dynamic evaluation": lambda: _read(
            recipe, texts, reader_of(best.kind, trained.reader), lambda stream: read_updated(rule, {}, stream)
        ),
        "learned updater": lambda: _read(
            recipe, texts, trained.reader, lambda stream: read_updated(trained.rule, trained.phi, stream)
        ),
    }
    found: dict[str, Any] = {"settings": dict(zip(("kind", "rate", "decay"), best, strict=False))}
    for name, read in ways.items():
        found[name] = measured_bits(read())
        report(f"{name}: {found[name]['bits']:.4f} bits per character")
    return found


def measured_bits(bits: Tensor) -> dict[str, Any]:
    """The figures of (segments, documents) bits per character."""
    curve = [float(part.mean()) for part in torch.tensor_split(bits.double().mean(1), min(POINTS, len(bits)))]
    return {
        "bits": round(float(bits.double().mean()), 5),
        "documents": [round(float(value), 4) for value in bits.double().mean(0)],
        "by_position": [round(value, 4) for value in curve],
    }


def write_seed(path: Path, head: Mapping[str, Any], seed: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put one seed into a file, beside the others of the same head.

    Args:
        path: JSON.
        head: what all seeds have in common; another one starts the file afresh.
        seed: of the run.
        found: see compare_language.

    Returns:
        what the file holds now.
    """
    read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seeds = read.get("seeds", {}) if {key: read.get(key) for key in head} == dict(head) else {}
    seeds[str(seed)] = dict(found)
    ordered = dict(sorted(seeds.items(), key=lambda item: int(item[0])))
    written = {**head, "bits": _over_seeds(ordered), "seeds": ordered}
    path.parent.mkdir(parents=True, exist_ok=True)
    # A curve a line: figures that are looked at in a diff.
    text = re.sub(r"\[[^\[\]]*\]", lambda found: " ".join(found[0].split()), json.dumps(written, indent=1))
    path.write_text(text + "\n", encoding="utf-8")
    return written


def _over_seeds(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of the bits per character, by method."""
    values = {name: spread([found[name]["bits"] for found in seeds.values()]) for name in METHODS}
    return {name: {"mean": round(mean, 5), "sd": round(deviation, 5)} for name, (mean, deviation) in values.items()}


def draw_language(written: Mapping[str, Any], path: Path) -> None:
    """Draw bits per character over the position in the document: means over seeds, bands of one deviation."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    seeds = list(written["seeds"].values())
    static = _curves(seeds, METHODS[0])
    for name in METHODS:
        curves = _curves(seeds, name)
        points = (torch.arange(curves.shape[1]) + 0.5) * written["characters"] / curves.shape[1]
        for axes, shown in ((left, curves), (right, curves - static)):
            middle, wide = shown.mean(0), shown.std(0) if len(shown) > 1 else torch.zeros(shown.shape[1])
            axes.plot(points.tolist(), middle.tolist(), linewidth=1.5, label=name)
            axes.fill_between(points.tolist(), (middle - wide).tolist(), (middle + wide).tolist(), alpha=0.25)
    left.set(xlabel="character of the document", ylabel="bits per character")
    right.set(xlabel="character of the document", ylabel="bits per character, less static")
    left.legend(fontsize="small")
    figure.suptitle(written["recipe"])
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")


def _curves(seeds: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.tensor([found[name]["by_position"] for found in seeds], dtype=torch.float64)


def _read(recipe: LanguageRecipe, texts: Texts, reader: Any, read: Any) -> Tensor:
    section = recipe.measure
    return bits_of_documents(
        read, reader, texts.parts["test"], characters=section.characters, together=section.together
    )
