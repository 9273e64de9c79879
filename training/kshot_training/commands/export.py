"""`kshot export`: an artifact with graphs that adapt and predict without torch."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write an artifact that adapts without torch"
EXTRA = "onnx-export"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Copy an artifact and add onnx/adapt.onnx and onnx/predict.onnx, inner gradients included, which "
        "`kshot serve --runtime onnxruntime` serves without torch. Torch serves the copy too, with the same sessions."
    )
    parser.add_argument("artifact", help="an artifact folder, or a name in the zoo")
    parser.add_argument("--onnx", action="store_true", required=True, help="as ONNX graphs, the only form there is")
    parser.add_argument(
        "--out", type=Path, default=Path("models-onnx"), metavar="DIR",
        help="repository for the copy, DIR/<name>/<version>/ (default: models-onnx)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the copy and name its folder; 0 when done, 2 for an artifact that has no graphs."""
    from kshot_models.errors import ModelError
    from kshot_models.load import resolve
    from kshot_models.onnx_files import ADAPT, PREDICT
    from kshot_training.errors import TrainingError
    from kshot_training.onnx_graphs.writing import export_onnx

    try:
        target = export_onnx(resolve(args.artifact), args.out)
    except (TrainingError, ModelError) as error:
        print(f"kshot export: {error}", file=sys.stderr)
        return 2
    for name in (ADAPT, PREDICT):
        print(f"{target / name}  {(target / name).stat().st_size:,} bytes")
    return 0
