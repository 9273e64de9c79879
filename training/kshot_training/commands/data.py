"""`kshot data`: fetch, make and look at data sets."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["EXTRA", "HELP", "configure", "run"]

HELP = "fetch, make and look at data sets"
EXTRA = "training"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_omniglot(actions.add_parser("omniglot", help="unpack and check Omniglot; download it without --from"))
    _configure_mini_imagenet(
        actions.add_parser("mini-imagenet", help="check the lists and images of mini-ImageNet, which you bring")
    )
    _configure_glyphs(actions.add_parser("glyphs", help="write invented characters as a folder of class folders"))
    _configure_info(actions.add_parser("info", help="count the classes and images of a data set; draw some of them"))


def run(args: argparse.Namespace) -> int:
    """Do it; 0 when done, 2 for a wrong request, wrong data or no network."""
    from kshot_training.data import DataError

    actions = {"glyphs": _glyphs, "info": _info, "mini-imagenet": _mini_imagenet, "omniglot": _omniglot}
    try:
        actions[args.action](args)
    except (DataError, OSError) as error:
        print(f"kshot data: {error}", file=sys.stderr)
        return 2
    return 0


def _configure_omniglot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="folder with images_background.zip and images_evaluation.zip (default: download them)",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to unpack (default: --from, or ./omniglot)")


def _configure_mini_imagenet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        required=True,
        help="folder with train.csv, val.csv, test.csv and images/ or images.zip; it may serve as --data-root",
    )
    parser.add_argument("--partial", action="store_true", help="fewer classes or images than the whole are right")


def _configure_glyphs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, metavar="DIR", required=True, help="a folder that is empty or not there yet")
    parser.add_argument("--classes", type=_positive, default=100, metavar="N", help="characters (default: 100)")
    parser.add_argument("--drawings", type=_positive, default=20, metavar="M", help="of each character (default: 20)")
    parser.add_argument("--size", type=_size, default=105, metavar="PIXELS", help="side of the images (default: 105)")
    parser.add_argument(
        "--seed", type=_natural, default=0, help="another seed is another world of scripts (default: 0)"
    )


def _configure_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="omniglot, omniglot:DIR, mini-imagenet, folder:PATH, glyphs, glyphs:classes=50")
    parser.add_argument("--split", help="train, val, test, ... (default: all classes)")
    parser.add_argument("--scheme", help="how the data set is split: vinyals, mixed or lake, of omniglot")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data sets are")
    parser.add_argument("--rotations", action="store_true", help="count each class four times, turned by quarters")
    parser.add_argument("--size", type=_size, default=64, metavar="PIXELS", help="side of the images (default: 64)")
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="draw a contact sheet of random classes into this file"
    )
    parser.add_argument("--seed", type=_natural, default=0, help="which classes the contact sheet shows (default: 0)")


def _omniglot(args: argparse.Namespace) -> None:
    from kshot_training.data.omniglot import CHARACTERS, DRAWINGS
    from kshot_training.data.omniglot_archive import download, has_half, unpack

    folder = args.to or args.source or Path("omniglot")
    for half, characters in CHARACTERS.items():
        if args.source is None and not has_half(half, folder):
            with _progress(f"fetching {half}.zip", unit="bytes") as progress:
                download(half, folder, progress=progress)
        with _progress(f"unpacking {half}") as progress:
            unpacked = unpack(half, args.source or folder, folder, progress=progress)
        print(f"{unpacked}: {characters} characters, {DRAWINGS} drawings of each")


def _mini_imagenet(args: argparse.Namespace) -> None:
    from kshot_training.data.mini_imagenet import check_mini_imagenet

    for split, classes in check_mini_imagenet(args.source, partial=args.partial).items():
        print(f"{args.source / split}.csv: {classes} classes, every image is there")


def _glyphs(args: argparse.Namespace) -> None:
    from kshot_training.data.glyphs import write_glyphs

    with _progress("drawing") as progress:
        write_glyphs(
            args.to, classes=args.classes, drawings=args.drawings, size=args.size, seed=args.seed, progress=progress
        )
    print(f"{args.to}: {args.classes} classes, {args.drawings} drawings of each")


def _info(args: argparse.Namespace) -> None:
    from kshot_models.manifest import InputSpec
    from kshot_training.data import load_classes
    from kshot_training.data.sheet import contact_sheet

    spec = InputSpec(height=args.size, width=args.size, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    classes = load_classes(
        args.source, spec=spec, split=args.split, scheme=args.scheme, root=args.root, rotations=args.rotations
    )
    counts = classes.counts
    lines = [
        f"classes     {classes.num_classes}" + (f" ({len(classes.names)} x 4 rotations)" if args.rotations else ""),
        f"images      {classes.num_images}",
        f"of a class  {counts.min()} to {counts.max()}, mean {counts.mean():.1f}",
        f"names       {', '.join(classes.names[:3])}, ...",
    ]
    print("\n".join(lines))
    if args.sheet is not None:
        contact_sheet(classes, seed=args.seed).save(args.sheet, format="PNG")
        print(f"sheet       {args.sheet}")


@contextlib.contextmanager
def _progress(task: str, *, unit: str = "files") -> Iterator[Callable[[int, int | None], None]]:
    """A bar on the standard error stream when that is a terminal; nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not text.isdecimal() or not 8 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"expected pixels from 8 to 1024, got {text!r}")
    return int(text)
