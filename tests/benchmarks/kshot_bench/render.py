"""BENCHMARKS.md from committed reports: `python -m kshot_bench.render FOLDER BENCHMARKS.md` (`make benchmarks`).

A goal whose report is not there keeps its row, empty, with the command that would measure it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from kshot_bench.goals import GOALS, Goal
from kshot_bench.plots import plot_curves
from kshot_bench.report import Report, Row, read_report

__all__ = ["COMMANDS", "main", "render"]

COMMANDS: Mapping[str, str] = {  # what writes each report; the folder is that of the results
    "adapt": (
        "kshot bench adapt --curve tasks=1,4,16,64,256,1024 --curve way=2,5,10,20 --curve shot=1,5,10,20 "
        "--curve steps=1,5,20,50 --curve size=28,56,84"
    ),
    "adapt-frozen": "kshot bench adapt --frozen",
    "adapt-resnet12": (
        "kshot bench adapt --network resnet12 --size 84 --input-channels 3 --steps 1 --queries 5 --repetitions 3 "
        "--window 0.1 --curve size=28,56,84"
    ),
    "classify": "kshot bench classify",
    "train": "kshot bench train",
    "memory": "kshot bench memory",
    "serve": "kshot bench serve",
    "serve-sessions": "kshot bench serve --sessions 10000",
    "adapt-cuda": "kshot bench adapt --device cuda --curve tasks=1,16,64,256,1024",
    "adapt-resnet12-cuda": (
        "kshot bench adapt --device cuda --network resnet12 --size 84 --input-channels 3 --curve tasks=1,4,16"
    ),
    "classify-cuda": "kshot bench classify --device cuda",
    "train-cuda": "kshot bench train --device cuda --tasks 64",
    "memory-cuda": "kshot bench memory --device cuda",
}

HEAD = """# Benchmarks

What `kshot bench` measured: kshot beside its peers and the machine's limit, by turns, in one run. kshot's side is the
engine that `kshot serve` runs. Peers: [higher](https://github.com/facebookresearch/higher),
[torchopt](https://github.com/metaopt/torchopt), a plain clone-and-adapt loop with autograd (as learn2learn works), and
scikit-learn's logistic regression on frozen features. Sides that do the same inner loop give the same answers, which is
checked before they are timed; "difference" is how far apart they are.

The floor is the work's multiplications at the best fp32 GEMM rate of the same machine in the same run. Many tasks:
peers have one process for each core; ms a task is wall time over tasks. One alone: the median of single tasks, all
cores. Spread: interquartile range over median of the repetitions. CPU ms: the processor time that a task takes in all
threads and processes, which other load on the machine hardly changes. A report marked **noisy** was taken while the
machine was busy with other things, or unsteady: its wall times are too long, and ratios of them are rough. A goal is
told all the same where what it compares was steady.

Written by `make benchmarks` from `tests/benchmarks/results/*.json`; do not edit. `make bench` measures all of it anew
on a CPU, `make bench-gpu` the rows that need a GPU.
"""


def render(folder: Path) -> str:
    """The text of BENCHMARKS.md for the reports `*.json` of a folder."""
    reports = {path.stem: read_report(path) for path in sorted(folder.glob("*.json"))}
    order = [name for name in COMMANDS if name in reports] + [name for name in reports if name not in COMMANDS]
    return "\n".join([HEAD, _goals(reports), *(_section(name, reports[name], folder) for name in order)])


def _goals(reports: Mapping[str, Report]) -> str:
    lines = ["## Goals\n", "| what | goal | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {goal.what} | {goal.goal} | {_measured(goal, reports.get(goal.report))} |" for goal in GOALS]
    return "\n".join([*lines, ""])


def _measured(goal: Goal, report: Report | None) -> str:
    reading = None if report is None else goal.read(report)
    if reading is None or report is None:
        return f" | not measured: `{COMMANDS[goal.report]}`"
    if reading.noisy(report):
        return f"{reading.text} (noisy) | cannot tell: measure again on a quiet machine"
    return f"{reading.text} | {'yes' if reading.reached else 'no'}"


def _section(name: str, report: Report, folder: Path) -> str:
    work, machine = report.work, report.machine
    lines = [f"## {name}\n", f"{_sentence(work.name)}: {_sizes(report)}.\n"]
    lines += _rows(report)
    if report.floor is not None:
        floor = report.floor
        lines.append(
            f"\nFloor: {floor.gemm_gflops:.0f} GFLOP/s (one process: {floor.gemm_gflops_one_process:.0f}), so "
            f"{_number(floor.ms_per_task)} ms a task. Copying: {floor.copy_gbytes_per_second:.1f} GB/s."
        )
    lines += _verdicts(report)
    lines += ["", *(f"- {key}: {_number(value)}" for key, value in report.details.items() if value is not None)]
    if report.curves:
        lines.append(f"\n![curves](tests/benchmarks/{folder.name}/{name}.png)")
    if report.noisy and report.noise is not None:
        lines.append(f"\n**Noisy**: {'; '.join(report.noise.reasons)}.")
    versions = ", ".join(f"{package} {version}" for package, version in machine.versions.items())
    where = (
        f"{machine.gpu + ', ' if machine.gpu else ''}{machine.processor}, {machine.cores} cores, {machine.instructions}"
    )
    lines.append(f"\n{where}, {machine.memory_gib:g} GiB; {versions}; {machine.measured_at[:10]}:\n")
    lines.append(f"```sh\n{report.command}\n```\n")
    return "\n".join(lines)


_COLUMNS = (
    ("", "name"),
    ("ms a task", "ms_per_task"),
    ("tasks/s", "tasks_per_second"),
    ("spread", "spread"),
    ("CPU ms", "cpu_ms_per_task"),
    ("one alone, ms", "latency_ms"),
    ("spread ", "latency_spread"),
    ("peak MB", "peak_bytes"),
    ("difference", "difference"),
)


def _rows(report: Report) -> list[str]:
    shown = [(head, field) for head, field in _COLUMNS if any(getattr(row, field) is not None for row in report.rows)]
    lines = [f"| {' | '.join(head for head, _ in shown)} |", f"|{'---|' * len(shown)}"]
    return lines + [f"| {' | '.join(_cell(row, field) for _, field in shown)} |" for row in report.rows]


def _cell(row: Row, field: str) -> str:
    value = getattr(row, field)
    if value is None:
        return ""
    if field in {"spread", "latency_spread"}:
        return f"{value:.0%}"
    return _number(value / 1e6 if field == "peak_bytes" else value)


def _verdicts(report: Report) -> list[str]:
    told = []
    if report.ratio_to_best_peer is not None:
        told.append(f"{report.ratio_to_best_peer:.2f}x of {report.best_peer}")
    if report.cpu_ratio_to_best_peer is not None:
        told.append(f"in processor time {report.cpu_ratio_to_best_peer:.2f}x")
    if report.latency_ratio_to_best_peer is not None:
        told.append(f"alone {report.latency_ratio_to_best_peer:.2f}x of {report.latency_best_peer}")
    if report.fraction_of_floor is not None:
        told.append(f"{report.fraction_of_floor:.0%} of the floor")
    if report.cpu_fraction_of_floor is not None:
        told.append(f"{report.cpu_fraction_of_floor:.0%} of it in processor time")
    return [f"\nkshot: {', '.join(told)}."] if told else []


def _sizes(report: Report) -> str:
    sizes = report.work.sizes
    image = f"{sizes.size}x{sizes.size}x{sizes.input_channels}"
    network = f"Conv4-{sizes.channels[-1]}" if sizes.network == "conv4" else "ResNet-12"
    return (
        f"{network}, {image}, {sizes.way}-way {sizes.shot}-shot, {sizes.steps} inner steps, "
        f"{sizes.queries} queries; {report.work.flops / 1e9:.3g} GFLOP, "
        f"{report.work.bytes / 1e6:.3g} MB a task"
    )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(arguments: list[str]) -> int:
    """Write BENCHMARKS.md, and a plot beside each report that has curves."""
    folder, target = map(Path, arguments)
    for path in sorted(folder.glob("*.json")):
        report = read_report(path)
        if report.curves:
            plot_curves(report.curves, path.with_suffix(".png"), title=f"{path.stem}: {_sizes(report)}")
    target.write_text(render(folder), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
