"""BENCHMARKS.md is what the committed reports make; goals, curves and commands on reports made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kshot_bench.curves import parse_curve
from kshot_bench.errors import BenchError
from kshot_bench.everything import commands
from kshot_bench.goals import GOALS
from kshot_bench.machine import describe
from kshot_bench.noise import judge
from kshot_bench.render import COMMANDS, main, render
from kshot_bench.report import Report, Row, best, read_report, table, work_item, write_report
from kshot_bench.show import show
from kshot_bench.work import Cost, Work

REPOSITORY = Path(__file__).parents[2]


def report(**changes: Any) -> Report:
    rows = (
        Row(name="kshot", ms_per_task=10.0, tasks_per_second=100.0, latency_ms=12.0, peak_bytes=5e6),
        Row(name="higher", ms_per_task=26.0, tasks_per_second=38.5, latency_ms=18.0, difference=1e-6),
    )
    fields: dict[str, Any] = {
        "bench": "adapt",
        "device": "cpu",
        "work": work_item("adapt and predict", Work(), Cost(1.84e9, 3.4e7)),
        "rows": rows,
        "best_peer": "higher",
        "ratio_to_best_peer": 2.6,
        "fraction_of_floor": 0.9,
        "latency_best_peer": "higher",
        "latency_ratio_to_best_peer": 1.5,
        "machine": describe("cpu"),
        "command": "kshot bench adapt",
    }
    return Report.model_validate(fields | changes)


def test_goals_are_read_and_what_is_not_measured_has_its_command(tmp_path: Path) -> None:
    write_report(tmp_path / "adapt.json", report())
    text = render(tmp_path)
    assert "| adapt + predict, CPU: throughput | >= 2.5x the best peer | 2.60x | yes |" in text
    assert "| adapt + predict, CPU: throughput | >= 95% of the fp32 GEMM floor | 90% | no |" in text
    assert "| >= 50x the best peer |  | not measured: `kshot bench adapt --device cuda" in text
    assert "| higher | 26 | 38.5 | 18 |  | 1e-06 |" in text
    assert "```sh\nkshot bench adapt\n```" in text


def test_a_report_says_which_network(tmp_path: Path) -> None:
    work = Work(network="resnet12", size=84, input_channels=3)
    write_report(tmp_path / "adapt-resnet12.json", report(work=work_item("adapt and predict", work, Cost(1e9, 1e7))))
    assert "Adapt and predict: ResNet-12, 84x84x3, 5-way" in render(tmp_path)


def test_noise_is_said_in_the_goals_and_in_the_section(tmp_path: Path) -> None:
    noise = judge({"kshot": [1.0, 2.0, 3.0]}, 0.4, allow_noise=True)
    noisy = report(noise=noise, noisy=noise.noisy)
    write_report(tmp_path / "adapt.json", noisy)
    text = render(tmp_path)
    assert "| 2.60x (noisy) | cannot tell: measure again on a quiet machine |" in text
    assert "**Noisy**: the repetitions of kshot spread by 50% of their median (limit 15%); other processes" in text
    assert "NOISY: the repetitions of kshot" in show(noisy)


@pytest.mark.parametrize(
    ("ours", "peer", "told"),
    [
        (0.05, 0.05, "2.60x | yes"),
        (0.20, 0.05, "2.60x (noisy) | cannot tell: measure again on a quiet machine"),
        (0.05, 0.20, "2.60x (noisy) | cannot tell: measure again on a quiet machine"),
    ],
)
def test_a_goal_is_told_where_the_rows_that_it_compares_were_steady(
    ours: float, peer: float, told: str, tmp_path: Path
) -> None:
    noise = judge({"kshot, onnxruntime": [1.0, 2.0, 3.0]}, 0.01, allow_noise=True)
    steady = report()
    rows = [row.model_copy(update={"spread": ours if row == steady.rows[0] else peer}) for row in steady.rows]
    write_report(tmp_path / "adapt.json", report(rows=rows, noise=noise, noisy=noise.noisy))
    text = render(tmp_path)
    assert f"| >= 2.5x the best peer | {told} |" in text
    assert "**Noisy**: the repetitions of kshot, onnxruntime" in text


def test_sessions_goal(tmp_path: Path) -> None:
    details = {
        "live sessions": 10_000,
        "classify p99 ms, 64 sessions": 4.0,
        "classify p99 ms, the latest of 10000": 4.5,
        "server memory with them, MB": 900.0,
    }
    write_report(tmp_path / "serve-sessions.json", report(bench="serve", details=details))
    assert "| 10,000 sessions: 900 MB; p99 4.0 -> 4.5 ms | yes |" in render(tmp_path)


def test_curves_are_plotted(tmp_path: Path) -> None:
    points = [{"way": 2, "kshot": 200.0, "limit": 300.0}, {"way": 5, "kshot": 100.0, "limit": 120.0}]
    write_report(tmp_path / "adapt.json", report(curves={"way": points}))
    assert main([str(tmp_path), str(tmp_path / "BENCHMARKS.md")]) == 0
    assert (tmp_path / "adapt.png").read_bytes().startswith(b"\x89PNG")
    assert f"![curves](tests/benchmarks/{tmp_path.name}/adapt.png)" in (tmp_path / "BENCHMARKS.md").read_text()


def test_reports_survive_the_disk_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results" / "adapt.json"
    write_report(path, report())
    assert read_report(path) == report(machine=read_report(path).machine)
    path.write_text(path.read_text().replace('"bench"', '"bank"'))
    with pytest.raises(ValidationError):
        read_report(path)


def test_the_committed_page_is_the_one_that_the_committed_reports_make() -> None:
    assert (REPOSITORY / "BENCHMARKS.md").read_text(encoding="utf-8") == render(
        REPOSITORY / "tests" / "benchmarks" / "results"
    )


def test_one_command_measures_everything(tmp_path: Path) -> None:
    here, there = commands(tmp_path, "cpu", ["--allow-noise"]), commands(tmp_path, "cuda", [])
    assert here.keys() | there.keys() == COMMANDS.keys()
    assert here["memory"] == ["kshot", "bench", "memory", "--allow-noise", "--json", str(tmp_path / "memory.json")]
    assert all(command[3:5] == ["--device", "cuda"] for command in there.values())
    assert {goal.report for goal in GOALS} <= COMMANDS.keys()


def test_curves_are_told_by_name_and_values() -> None:
    assert parse_curve("way=2,5,10") == ("way", (2, 5, 10))
    for wrong in ("way", "way=", "ways=2", "way=2,x", "way=0"):
        with pytest.raises(BenchError, match="expected NAME=N,N"):
            parse_curve(wrong)


def test_best_and_table() -> None:
    rows = [Row(name="a", ms_per_task=2.0), Row(name="b", ms_per_task=1.0), Row(name="c")]
    assert best(rows, "ms_per_task") == rows[1]
    assert best(rows, "peak_bytes") is None
    assert table(["x", "value"], [["a", 1234.5], ["bc", None]]) == "x   value\na   1,234\nbc"
