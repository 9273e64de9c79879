"""`kshot language`: static weights, dynamic evaluation and a learned updater, in bits per character."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kshot_training.language.recipe import LanguageRecipe
    from kshot_training.language.run import Texts

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "compare how language models learn on while they read"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of `kshot train`, one a seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into this file, seed by seed")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the bits per character (needs --json)")
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder that the text's relative path starts from"
    )


def run(args: argparse.Namespace) -> int:
    """Compare; 0 when done, 2 for a wrong request."""
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError

    try:
        return _compare(args)
    except (TrainingError, ModelError) as error:
        print(f"kshot language: {error}", file=sys.stderr)
        return 2


def _compare(args: argparse.Namespace) -> int:
    from kshot_training.errors import RecipeError
    from kshot_training.language.comparison import compare_language, draw_language, write_seed
    from kshot_training.language.run import load_language, recipe_texts
    from kshot_training.process import prepare_process

    if args.plot and not args.json:
        raise RecipeError("--plot draws what stands in the --json file: name one")
    prepare_process()
    for folder in args.runs:
        recipe = _recipe(folder)
        texts = recipe_texts(recipe, args.data_root)
        trained = load_language(recipe, folder, texts)
        if not trained.finished:
            raise RecipeError(f"{folder} is not at its end: `kshot train ... --resume` goes on")
        print(f"{folder}: seed {recipe.seed}", file=sys.stderr)
        began = time.monotonic()
        found = compare_language(recipe, trained, texts, report=lambda line: print(f"  {line}", file=sys.stderr))
        found["seconds"] = round(time.monotonic() - began, 1)
        print(
            json.dumps(
                {name: value["bits"] for name, value in found.items() if isinstance(value, dict) and "bits" in value}
            )
        )
        if args.json:
            written = write_seed(args.json, _head(recipe, texts), recipe.seed, found)
    if args.plot:
        draw_language(written, args.plot)
    return 0


def _recipe(folder: Path) -> LanguageRecipe:
    from pydantic import ValidationError

    from kshot_training.errors import CheckpointError
    from kshot_training.language.recipe import LanguageRecipe

    try:
        return LanguageRecipe.model_validate_json((folder / "recipe.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"expected the folder of a language model's run, {folder} is none ({error})") from error


def _head(recipe: LanguageRecipe, texts: Texts) -> dict[str, Any]:
    """What the runs of one comparison have in common."""
    import torch

    from kshot_training.language.model import CharacterLSTM
    from kshot_training.results import hardware

    weights = CharacterLSTM(texts.symbols, recipe.model.hidden).init(torch.Generator()).values()
    return {
        "recipe": recipe.name,
        "weights": sum(leaf.numel() for leaf in weights),
        "documents": {use: len(documents) for use, documents in texts.parts.items()},
        "training_characters": sum(map(len, texts.parts["static"])),
        "characters": recipe.measure.characters // recipe.reading.segment * recipe.reading.segment,
        "segment": recipe.reading.segment,
        "hardware": hardware(),
    }
