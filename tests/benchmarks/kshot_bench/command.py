"""`kshot bench`: how fast kshot is here, beside its peers and the machine's limit."""

# A command speaks, and imports what it needs when it runs: `kshot --help` must not wait for torch.
# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

HELP = "measure kshot beside its peers and the machine's limit"
EXTRA = "bench"

NOISY_EXIT = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Measure kshot beside other ways of doing the same work and beside the machine's limit, by turns, in one run. "
        "Exit code 3: the machine is too noisy to tell."
    )
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    adapt = benches.add_parser("adapt", help="adapt to a support set and answer its queries")
    adapt.add_argument(
        "--frozen", action="store_true", help="adapt nothing of the encoder; the peer is scikit-learn on features"
    )
    adapt.add_argument(
        "--curve",
        action="append",
        default=[],
        metavar="NAME=N,N,...",
        help="also throughput as one size varies: way, shot, steps, queries, size, or tasks at once; may be repeated",
    )
    classify = benches.add_parser("classify", help="one image each for many adapted sessions")
    classify.add_argument(
        "--sessions", type=int, default=256, metavar="N", help="sessions in one batch (default: %(default)s)"
    )
    train = benches.add_parser("train", help="second-order meta-gradients: tasks a second and peak memory")
    train.add_argument("--tasks", type=int, default=4, metavar="N", help="tasks of a meta-batch (default: %(default)s)")
    memory = benches.add_parser("memory", help="peak memory of a second-order meta-gradient, and its growth with steps")
    serve = benches.add_parser("serve", help="a real server under load, beside the engine in this process")
    serve.add_argument("--clients", type=int, default=2, metavar="N", help="client processes (default: %(default)s)")
    serve.add_argument(
        "--connections", type=int, default=8, metavar="N", help="connections of each client (default: %(default)s)"
    )
    serve.add_argument(
        "--sessions", type=int, default=0, metavar="N", help="also hold so many live sessions (default: leave it out)"
    )
    for each in (adapt, classify, train, memory, serve):
        _add_common(each)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", nargs="?", const=Path("-"), type=Path, metavar="FILE", help="end with one JSON object; also into FILE"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="cores to use (default: all)")
    for name, default, what in (
        ("way", 5, "classes of a task"),
        ("shot", 1, "support images of a class"),
        ("steps", 5, "inner steps"),
        ("queries", 15, "query images of a task, all classes together"),
        ("size", 28, "height and width of an image"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--input-channels", type=int, choices=(1, 3), default=1, help="of an image (default: %(default)s)"
    )
    parser.add_argument(
        "--network", choices=("conv4", "resnet12"), default="conv4", help="what embeds images (default: %(default)s)"
    )
    parser.add_argument(
        "--channels", metavar="N,N,...", help="width of each block (default: as in the network's papers)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=7, metavar="N", help="rounds of turns (default: %(default)s)"
    )
    parser.add_argument(
        "--window", type=float, default=0.5, metavar="SECONDS", help="of one side in one turn (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-noise", action="store_true", help="report from a noisy machine too, and mark the report as noisy"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 0 when done, 3 when the machine is too noisy to tell, 2 for what cannot be measured."""
    from kshot_bench.errors import BenchError, TooNoisy
    from kshot_bench.runs import run_bench
    from kshot_bench.show import show

    try:
        report = run_bench(arguments, command=shlex.join(["kshot", *sys.argv[1:]]))
    except TooNoisy as noisy:
        sys.stderr.write(f"kshot bench: {noisy}\n")
        return NOISY_EXIT
    except (BenchError, ValueError) as error:
        sys.stderr.write(f"kshot bench: {error}\n")
        return 2
    sys.stdout.write(show(report) + "\n")
    if arguments.json is not None:
        from kshot_bench.report import write_report

        if arguments.json != Path("-"):
            write_report(arguments.json, report)
        sys.stdout.write(report.line() + "\n")
    return 0
