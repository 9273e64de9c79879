"""`kshot export`: an artifact with graphs that adapt and predict without torch, or one of a frozen encoder."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kshot_training.frozen import FrozenRequest

HELP = "write an artifact that adapts without torch, or one of your own encoder"
EXTRA = "onnx-export"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "With an artifact and --onnx: copy it and add onnx/adapt.onnx and onnx/predict.onnx, inner gradients included, "
        "which `kshot serve --runtime onnxruntime` serves without torch. Torch serves the copy too, with the same "
        "sessions. With --encoder: make an artifact of an ONNX encoder of your own (DINOv2, CLIP, ...), which stays as "
        "it is, and a head that learns on its features; --onnx adds the graphs to that one too."
    )
    parser.add_argument("artifact", nargs="?", help="an artifact folder, or a name in the zoo")
    parser.add_argument("--onnx", action="store_true", help="write the graphs of adapt and predict")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR",
        help="repository for what is written, DIR/<name>/<version>/ (default: models-onnx, with --encoder models)",
    )  # fmt: skip
    _configure_encoder(parser.add_argument_group("an encoder of your own"))
    _configure_pixels(parser.add_argument_group("its images"))
    _configure_head(parser.add_argument_group("its head"))


def _configure_encoder(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--encoder", type=Path, metavar="FILE",
        help="an ONNX model in one file: float32 images (n, channels, height, width) -> float32 (n, features) or "
        "(n, tokens, features)",
    )  # fmt: skip
    group.add_argument("--name", help="of the artifact (default: the file's name)")
    group.add_argument("--version", default="1", help="of the artifact (default: 1)")
    group.add_argument("--description", default="", help="a sentence for those who choose a model")
    group.add_argument("--output", metavar="NAME", help="the output that holds the features, where there are several")
    group.add_argument(
        "--tokens", choices=["first", "mean"], default="first",
        help="of (n, tokens, features): the first, which is the class token, or the mean of all (default: first)",
    )  # fmt: skip
    group.add_argument(
        "--length", choices=["unit", "raw"], default="unit",
        help="divide each embedding by its length, or leave it (default: unit)",
    )  # fmt: skip
    group.add_argument("--max-way", type=int, default=50, help="the most classes of a session (default: 50)")
    group.add_argument("--max-support", type=int, default=250, help="the most images that teach (default: 250)")
    group.add_argument("--max-queries", type=int, default=256, help="the most queries of a request (default: 256)")


def _configure_pixels(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--size", type=_size, metavar="N|HxW", help="needed where the encoder takes any size")
    group.add_argument("--channels", type=int, choices=[1, 3], help="(default: the encoder's, or 3)")
    group.add_argument(
        "--mean", type=_values, metavar="M,M,M", help="of values from 0 to 1 (default: ImageNet's; 0 for one channel)"
    )
    group.add_argument("--std", type=_values, metavar="S,S,S", help="likewise (default: ImageNet's; 1 for one channel)")
    group.add_argument(
        "--resize", choices=["box", "bilinear", "bicubic", "lanczos"], default="bicubic", help="(default: bicubic)"
    )


def _configure_head(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--head", choices=["prototype", "ridge", "matching", "anil"], default="prototype",
        help="nearest class mean, ridge regression, attention over the images, or inner steps of a linear classifier "
        "that starts at the class means (default: prototype)",
    )  # fmt: skip
    group.add_argument("--scale", type=float, help="factor on the logits (default: 10, with --length raw 1)")
    group.add_argument(
        "--regularizer", type=float, default=1.0, help="of ridge, in units of squared features (default: 1)"
    )
    group.add_argument("--steps", type=int, default=5, help="inner steps of anil (default: 5)")
    group.add_argument("--rate", type=float, default=1.0, help="of these steps, on the mean loss (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Write the artifact and name its files; 0 when done, 2 for what cannot be exported."""
    from kshot_models.errors import ModelError
    from kshot_training.errors import TrainingError

    try:
        written = _write(args)
    except (TrainingError, ModelError) as error:
        print(f"kshot export: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def _write(args: argparse.Namespace) -> list[Path]:
    from kshot_models.load import resolve
    from kshot_models.onnx_files import ADAPT, ENCODER, PREDICT
    from kshot_training.errors import EncoderSettingsError
    from kshot_training.onnx_graphs.writing import export_onnx

    graphs = [ADAPT, PREDICT] if args.onnx else []
    if args.encoder is not None:
        from kshot_training.frozen import export_frozen

        if args.artifact is not None:
            raise EncoderSettingsError(f"expected an artifact or --encoder, got {args.artifact} and {args.encoder}")
        target = export_frozen(_request(args), args.out or Path("models"), graphs=args.onnx)
        return [target / name for name in (ENCODER, *graphs)]
    if args.artifact is None or not args.onnx:
        raise EncoderSettingsError("expected ARTIFACT --onnx, or --encoder FILE; see kshot export --help")
    target = export_onnx(resolve(args.artifact), args.out or Path("models-onnx"))
    return [target / name for name in graphs]


def _request(args: argparse.Namespace) -> FrozenRequest:
    from pydantic import ValidationError

    from kshot_models.manifest import Limits
    from kshot_training.errors import EncoderSettingsError
    from kshot_training.frozen import FrozenHead, FrozenRequest, PixelSettings

    try:
        limits = Limits(max_way=args.max_way, max_support=args.max_support, max_queries=args.max_queries)
    except ValidationError as error:
        raise EncoderSettingsError(f"limits: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    return FrozenRequest(
        encoder=args.encoder,
        name=args.name or args.encoder.stem.lower(),
        version=args.version,
        head=FrozenHead(args.head, args.scale, args.regularizer, args.steps, args.rate),
        pixels=PixelSettings(args.size, args.channels, args.mean, args.std, args.resize),
        limits=limits,
        output=args.output,
        tokens=args.tokens,
        length=args.length,
        description=args.description,
    )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _values(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
