"""A report as text for people."""

from __future__ import annotations

from kshot_bench.report import Report, table

__all__ = ["show"]

_COLUMNS = (
    ("name", "name"),
    ("ms/task", "ms_per_task"),
    ("tasks/s", "tasks_per_second"),
    ("spread", "spread"),
    ("cpu ms", "cpu_ms_per_task"),
    ("alone ms", "latency_ms"),
    ("p99 ms", "latency_p99_ms"),
    ("spread", "latency_spread"),
    ("peak MB", "peak_bytes"),
    ("difference", "difference"),
    ("", "note"),
)


def show(report: Report) -> str:
    """A table of the rows, then what they amount to."""
    work, machine = report.work, report.machine
    shown = [(h, f) for h, f in _COLUMNS if any(getattr(row, f) not in (None, "") for row in report.rows)]
    lines = [
        f"{work.name}: {work.flops / 1e9:.3g} GFLOP, {work.bytes / 1e6:.3g} MB a task",
        f"on {machine.gpu or machine.processor}, {machine.cores} cores",
        table([h for h, _ in shown], [[_value(row, f) for _, f in shown] for row in report.rows]),
        *_verdicts(report),
    ]
    lines += [f"{name}: {value}" for name, value in report.details.items() if value is not None]
    if report.noise is not None and report.noisy:
        lines.append(f"NOISY: {'; '.join(report.noise.reasons)}")
    return "\n".join(lines)


def _value(row: object, field: str) -> object:
    value = getattr(row, field)
    return value / 1e6 if field == "peak_bytes" and value is not None else value


def _verdicts(report: Report) -> list[str]:
    lines = []
    if report.ratio_to_best_peer is not None:
        lines.append(f"{report.ratio_to_best_peer:.2f}x the best peer ({report.best_peer})")
    if report.cpu_ratio_to_best_peer is not None:
        floor = "" if report.cpu_fraction_of_floor is None else f", {report.cpu_fraction_of_floor:.1%} of the floor"
        lines.append(f"in processor time: {report.cpu_ratio_to_best_peer:.2f}x{floor}")
    if report.latency_ratio_to_best_peer is not None:
        lines.append(f"one task alone: {report.latency_ratio_to_best_peer:.2f}x ({report.latency_best_peer})")
    if report.floor is not None and report.fraction_of_floor is not None:
        alone = "" if report.latency_fraction_of_floor is None else f", alone {report.latency_fraction_of_floor:.1%}"
        lines.append(
            f"{report.fraction_of_floor:.1%} of the fp32 floor{alone}: {report.floor.ms_per_task:.3g} ms a task at "
            f"{report.floor.gemm_gflops:.0f} GFLOP/s; copying {report.floor.copy_gbytes_per_second:.3g} GB/s"
        )
    return lines
