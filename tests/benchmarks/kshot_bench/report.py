"""What a benchmark answers: one JSON object, and the same as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kshot_bench.machine import Machine
from kshot_bench.noise import Noise
from kshot_bench.work import Cost, Work

__all__ = ["Floor", "Report", "Row", "WorkItem", "best", "read_report", "table", "work_item", "write_report"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkItem(_Strict):
    """What one task is."""

    name: str
    sizes: Work
    flops: float
    bytes: float  # if every operand of every product crossed memory once


class Row(_Strict):
    """One way of doing the work. What does not apply is None.

    `ms_per_task` is that of throughput: many tasks, all cores. `latency_ms` is the median of one task alone, all cores.
    `cpu_ms_per_task` is the processor time of all our threads and processes, which other load on the machine hardly
    changes. Spreads are interquartile ranges over medians.
    """

    name: str
    ms_per_task: float | None = None
    tasks_per_second: float | None = None
    spread: float | None = None
    cpu_ms_per_task: float | None = None
    latency_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_spread: float | None = None
    peak_bytes: float | None = None
    difference: float | None = None  # largest from kshot's answers: probabilities, or relative in a gradient
    note: str = ""


class Floor(_Strict):
    """The limit of the machine, measured in the same run: the work's multiplications at its best fp32 GEMM rate."""

    gemm_gflops: float  # one process for each core
    gemm_gflops_one_process: float  # one process, a thread for each core
    copy_gbytes_per_second: float  # read and written
    ms_per_task: float
    cpu_ms_per_task: float | None = None  # on all cores
    latency_ms: float
    bytes_ms: float  # the work's bytes at the copy rate; not a floor where caches hold the work


class Report(_Strict):
    """The result of one run. Ratios are above 1, and fractions near 1, where kshot is fast."""

    bench: str
    device: str
    work: WorkItem
    rows: tuple[Row, ...]
    best_peer: str | None = None
    ratio_to_best_peer: float | None = None  # of throughput; of peak bytes in `memory`
    fraction_of_floor: float | None = None  # of throughput
    cpu_ratio_to_best_peer: float | None = None  # of processor time: what a busy machine can still tell
    cpu_fraction_of_floor: float | None = None
    latency_best_peer: str | None = None
    latency_ratio_to_best_peer: float | None = None
    latency_fraction_of_floor: float | None = None
    floor: Floor | None = None
    details: dict[str, float | int | str | bool | None] = {}  # what only this bench has
    curves: dict[str, list[dict[str, float]]] = {}  # points by the size that varies
    noise: Noise | None = None
    noisy: bool = False
    machine: Machine
    command: str

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False)


def work_item(name: str, sizes: Work, cost: Cost) -> WorkItem:
    """A work item with its cost."""
    return WorkItem(name=name, sizes=sizes, flops=cost.flops, bytes=cost.bytes)


def best(rows: Iterable[Row], field: str) -> Row | None:
    """The row with the least value of a field; None if no row has one."""
    having = [row for row in rows if getattr(row, field) is not None]
    return min(having, key=lambda row: float(getattr(row, field)), default=None)


def read_report(path: Path) -> Report:
    """Read a report that `--json FILE` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    return Report.model_validate_json(path.read_text(encoding="utf-8"))


def write_report(path: Path, report: Report) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    temporary.replace(path)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns; None is a blank, floats have three digits that count."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
