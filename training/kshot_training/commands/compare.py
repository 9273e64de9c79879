"""`kshot compare`: learned optimizers beside tuned SGD, NAG, RMSprop and Adam on problems of a recipe."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "compare a learned optimizer with tuned ones"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", help="a recipe with a [problem]: a TOML file or a shipped name")
    parser.add_argument("--optimizer", metavar="ARTIFACT", help="a folder or a shipped name (default: the recipe's)")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="ARTIFACT",
        help="another learned optimizer on the same problems, by folder or shipped name; may be given again",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="TITLE:KEY=VALUE[;KEY=VALUE]",
        help="another problem, e.g. '40 units:problem.hidden=[40]'; may be given again",
    )
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="test problems (default: 100)")
    parser.add_argument("--tuning-runs", type=int, default=16, metavar="N", help="problems of the grid (default: 16)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="that are shown (default: 200)")
    parser.add_argument("--tuned-at", type=int, default=100, metavar="N", help="steps to be lowest at (default: 100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into this file")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the mean losses into this file")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where `kshot data` put the data sets")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of decoded images (default: ~/.cache/kshot)")


def run(args: argparse.Namespace) -> int:
    """Compare; 0 when done, 2 for a wrong request."""
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError

    try:
        return _compare(args)
    except (TrainingError, ModelError) as error:
        print(f"kshot compare: {error}", file=sys.stderr)
        return 2


def _compare(args: argparse.Namespace) -> int:
    from kshot_models.load import load_optimizer
    from kshot_training.optimizer_comparison import Contest, compare, draw_comparison
    from kshot_training.optimizer_run import recipe_families
    from kshot_training.process import default_cache, prepare_process
    from kshot_training.recipe_files import read_optimizer_recipe
    from kshot_training.sampling import Place

    prepare_process()
    recipe = read_optimizer_recipe(args.recipe)
    learned = load_optimizer(args.optimizer or recipe.artifact.name)
    beside = [load_optimizer(name) for name in args.beside]
    contest = Contest(args.steps, args.tuned_at, args.runs, args.tuning_runs)
    place = Place(args.data_root, args.cache or default_cache())
    panels, began = {}, time.monotonic()
    for title, overrides in [("as trained", []), *map(_variant, args.variant)]:
        print(f"{title}: log10 of the mean loss after {args.tuned_at} steps", file=sys.stderr)
        families = recipe_families(read_optimizer_recipe(args.recipe, overrides), place)
        panels[title] = compare(
            learned.rule,
            learned.phi,
            tuning=families.tuning,
            test=families.test,
            contest=contest,
            beside={other.manifest.name: (other.rule, other.phi) for other in beside},
            report=lambda line: print(f"  {line}", file=sys.stderr),
        )
    for title, compared in panels.items():
        for name, result in compared.items():
            told = "  ".join(f"{step}: {result.at(step):7.3f}" for step in (args.tuned_at, args.steps))
            print(f"{title:16} {name:14} {told}")
    if args.json:
        figures: dict[str, Any] = {
            title: {name: {"settings": c.settings, "log10_mean_loss": c.curve} for name, c in compared.items()}
            for title, compared in panels.items()
        }
        digests = {other.manifest.name: other.digest for other in beside}
        _write(args, figures, learned.digest, digests, time.monotonic() - began)
    if args.plot:
        horizon = recipe.way_to_train.horizons[-1].steps
        draw_comparison(panels, args.plot, title=recipe.name, horizon=horizon)
    return 0


def _variant(text: str) -> tuple[str, list[str]]:
    title, _, overrides = text.partition(":")
    return title, [part for part in overrides.split(";") if part]


def _write(
    args: argparse.Namespace, figures: dict[str, Any], digest: str, beside: dict[str, str], seconds: float
) -> None:
    from kshot_training.results import hardware

    options = f" --optimizer {args.optimizer}" if args.optimizer else ""
    options += "".join(f" --beside {name}" for name in args.beside)
    options += "".join(f" --variant '{text}'" for text in args.variant)
    written = {
        "recipe": args.recipe,
        "optimizer": digest,
        "beside": beside,
        "runs": args.runs,
        "tuning_runs": args.tuning_runs,
        "tuned_at": args.tuned_at,
        "hardware": hardware(),
        "seconds": round(seconds, 1),
        "command": f"kshot compare {args.recipe} --runs {args.runs} --tuning-runs {args.tuning_runs} "
        f"--steps {args.steps}{options}",
        "problems": figures,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    # A curve a line: figures that are looked at in a diff.
    text = json.dumps(written, indent=1, ensure_ascii=False)
    args.json.write_text(_joined(text) + "\n", encoding="utf-8")


def _joined(text: str) -> str:
    import re

    return re.sub(r"\[[^\[\]]*\]", lambda found: " ".join(found[0].split()), text)
