"""`kshot train`: a recipe in, an artifact out."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kshot_training.language.recipe import LanguageRecipe
    from kshot_training.optimizer_recipe import OptimizerRecipe
    from kshot_training.recipe import Recipe

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "meta-train an artifact by a recipe"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", nargs="?", help="a TOML file, or the name of a shipped recipe (--list shows them)")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="replaces a value of the recipe: outer.steps=200"
    )
    parser.add_argument("--list", action="store_true", help="list the shipped recipes and exit")
    parser.add_argument(
        "--dry-run", action="store_true", help="read the recipe, count what it costs, and train nothing"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where `kshot data` put the data sets")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of decoded images (default: ~/.cache/kshot)")
    parser.add_argument("--threads", type=int, metavar="N", help="tasks side by side (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Train, then export; 0 when done, 130 when stopped by a signal (after a checkpoint), 2 for a wrong request."""
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError

    try:
        return _list() if args.list else _train(args)
    except (TrainingError, ModelError) as error:
        print(f"kshot train: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    from kshot_training.recipe_files import read_any_recipe, shipped_recipes

    for name in shipped_recipes():
        print(f"{name:24} {read_any_recipe(name).description}")
    return 0


def _tell_cost(recipe: Recipe) -> int:
    import torch

    from kshot_training.build import build_learner
    from kshot_training.flops import outer_step_flops

    meta = build_learner(recipe.learner, recipe.input).init(torch.Generator().manual_seed(0))
    parameters = sum(tensor.numel() for part in meta for tensor in part.values())
    flops = outer_step_flops(recipe)
    print(f"{recipe.name}: {recipe.outer.steps} outer steps of {recipe.episodes.tasks} tasks, {parameters} numbers")
    print(f"{flops / 1e9:.3f} GFLOP an outer step, {flops * recipe.outer.steps / 1e15:.3f} PFLOP in all")
    return 0


def _train(args: argparse.Namespace) -> int:
    from kshot_training.errors import RecipeError
    from kshot_training.finish import finish
    from kshot_training.language.recipe import LanguageRecipe
    from kshot_training.optimizer_recipe import OptimizerRecipe
    from kshot_training.process import (
        default_cache,
        default_threads,
        job_device,
        job_size,
        prepare_process,
        stop_signals,
    )
    from kshot_training.progress import bar_reporter
    from kshot_training.ranks import join_ranks
    from kshot_training.recipe_files import read_any_recipe
    from kshot_training.sampling import Place, recipe_episodes
    from kshot_training.training_run import train

    if args.recipe is None:
        raise RecipeError("expected a recipe: a TOML file or a shipped name; `kshot train --list` shows these")
    recipe = read_any_recipe(args.recipe, args.overrides)
    if isinstance(recipe, OptimizerRecipe):
        return _train_optimizer(recipe, args)
    if isinstance(recipe, LanguageRecipe):
        return _train_language(recipe, args)
    if args.dry_run:
        return _tell_cost(recipe)
    folder = _run_folder(recipe.name, args)
    workers = args.threads or default_threads()
    prepare_process()
    device = job_device(args.device)
    episodes = recipe_episodes(recipe, Place(args.data_root, args.cache or default_cache(), device))
    with stop_signals() as stop, join_ranks(size=job_size(), device=device) as ranks:
        trained = train(
            recipe,
            folder,
            episodes,
            reporter=lambda done: bar_reporter(done=done, steps=recipe.outer.steps, tasks=recipe.episodes.tasks),
            stop=stop,
            resume=args.resume,
            device=device,
            workers=workers,
            ranks=ranks,
        )
    leads = ranks is None or ranks.leads
    if not trained.finished:
        if leads:
            print(f"stopped after outer step {trained.step}; --resume goes on", file=sys.stderr)
        return 130
    if not leads:
        return 0
    artifact, measured = finish(recipe, trained, folder, episodes, workers=workers)
    for row in measured:
        told = f"{row.way}-way {row.shot}-shot, {row.norm}: {row.accuracy:.2%} ± {row.ci95:.2%}"
        print(f"{row.data} {row.split}, {told} ({row.episodes} episodes)")
    print(artifact)
    return 0


def _run_folder(name: str, args: argparse.Namespace) -> Path:
    from kshot_training.errors import CheckpointError

    folder: Path = args.out or Path("runs") / name
    if not args.resume and any(folder.glob("**/checkpoints/step-*")):
        raise CheckpointError(f"{folder} holds a run: add --resume to go on with it, or name another --out")
    return folder


def _train_optimizer(recipe: OptimizerRecipe, args: argparse.Namespace) -> int:
    import torch

    from kshot_training.errors import RecipeError
    from kshot_training.optimizer_run import export_optimizer, recipe_families, train_optimizer
    from kshot_training.process import default_cache, prepare_process, stop_signals
    from kshot_training.progress import bar_reporter
    from kshot_training.sampling import Place

    if args.dry_run:
        raise RecipeError("--dry-run tells the cost of episodes, and an optimizer is trained on problems: leave it out")
    folder = _run_folder(recipe.name, args)
    prepare_process()
    torch.set_num_threads(args.threads or 1)  # the tasks of a problem are one computation
    families = recipe_families(recipe, Place(args.data_root, args.cache or default_cache()))
    with stop_signals() as stop:
        trained = train_optimizer(
            recipe,
            folder,
            families,
            reporter=lambda done: bar_reporter(done=done, steps=recipe.outer.steps, tasks=recipe.way_to_train.tasks),
            stop=stop,
            resume=args.resume,
        )
    if not trained.finished:
        print(f"stopped after outer step {trained.step}; --resume goes on", file=sys.stderr)
        return 130
    artifact, measured = export_optimizer(recipe, trained, folder, families)
    for row in measured:
        print(
            f"{row.problem}: log10 of the mean loss after {row.steps} steps {row.log10_mean_loss:.3f} ({row.runs} runs)"
        )
    print(artifact)
    return 0


def _train_language(recipe: LanguageRecipe, args: argparse.Namespace) -> int:
    import torch

    from kshot_training.errors import RecipeError
    from kshot_training.language.run import recipe_texts, train_language
    from kshot_training.process import prepare_process, stop_signals
    from kshot_training.progress import bar_reporter

    if args.dry_run:
        raise RecipeError("--dry-run tells the cost of episodes, and a language model is trained on text: leave it out")
    folder = _run_folder(recipe.name, args)
    prepare_process()
    torch.set_num_threads(args.threads or 1)
    texts = recipe_texts(recipe, args.data_root)
    with stop_signals() as stop:
        trained = train_language(
            recipe,
            folder,
            texts,
            reporter=lambda done, steps: bar_reporter(done=done, steps=steps, tasks=1),
            stop=stop,
            resume=args.resume,
        )
    if not trained.finished:
        print(f"{trained.phase}: stopped after outer step {trained.step}; --resume goes on", file=sys.stderr)
        return 130
    print(folder)
    return 0
