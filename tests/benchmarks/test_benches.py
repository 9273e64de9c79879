"""Whole benches on a tiny work item: the shape of what they report. Never how fast anything was."""

from __future__ import annotations

import argparse
import json
import math
import mmap
from pathlib import Path

import pytest
import torch

from kshot_bench import command, memory
from kshot_bench.benches import adapt
from kshot_bench.benches.train import train
from kshot_bench.contest import Options
from kshot_bench.crew import Crew
from kshot_bench.errors import Disagreement, WorkerFailed
from kshot_bench.jobs import Answer, Gemm
from kshot_bench.report import Report, read_report
from kshot_bench.served import Served
from kshot_bench.tasks import learner_spec
from kshot_bench.work import Work

SIZES = {"way": 3, "shot": 1, "steps": 1, "queries": 3, "size": 16, "repetitions": 2, "threads": 1}
TINY = [*(f"--{name}={value}" for name, value in SIZES.items()), "--channels=4,4", "--window=0.01"]


def bench(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([*arguments]))


@pytest.mark.parametrize("network", ["conv4", "resnet12"])
def test_report(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "adapt.json"
    assert bench("adapt", *TINY, f"--network={network}", "--allow-noise", "--json", str(path)) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert read_report(path) == Report.model_validate(last)
    assert (last["bench"], last["device"]) == ("adapt", "cpu")
    ours = ["kshot", adapt.ONNX, adapt.GRAPHS] if network == "conv4" else ["kshot"]
    assert [row["name"] for row in last["rows"]] == [*ours, "higher", "torchopt", "autograd"]
    assert last["work"]["sizes"]["network"] == network
    assert last["best_peer"] not in ours
    assert all(row["difference"] < 1e-4 for row in last["rows"][1:])
    for row in last["rows"]:
        assert row["ms_per_task"] * row["tasks_per_second"] == pytest.approx(1000)
        assert row["latency_ms"] > 0
    times = {row["name"]: row["ms_per_task"] for row in last["rows"]}
    assert last["ratio_to_best_peer"] == pytest.approx(times[last["best_peer"]] / times["kshot"])
    assert last["fraction_of_floor"] == pytest.approx(last["floor"]["ms_per_task"] / times["kshot"])
    assert last["floor"]["ms_per_task"] <= last["work"]["flops"] / last["floor"]["gemm_gflops"] / 1e6 * 1.001
    assert last["machine"]["cores"] >= 1
    assert all(math.isfinite(last[key]) for key in ("latency_ratio_to_best_peer", "latency_fraction_of_floor"))


def test_classify(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("classify", "--sessions=4", *TINY, "--allow-noise", "--json") == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["name"] for row in last["rows"]] == ["kshot", "session loop"]
    assert last["work"]["flops"] == 2 * 9 * (256 * 4 + 64 * 16) + 2 * 64 * 3
    assert 0 <= last["rows"][1]["difference"] < 1e-5


def test_train() -> None:
    sizes = Work(way=3, steps=1, queries=3, size=16, channels=(4, 4))
    contest = train(sizes, Options(threads=1, repetitions=2, window_seconds=0.01, allow_noise=True), tasks=2)
    assert [row.name for row in contest.rows] == ["kshot", "higher", "torchopt", "autograd"]
    assert all(row.difference is not None and row.difference < 1e-4 for row in contest.rows[1:])


def test_peaks_are_what_was_touched() -> None:
    before = memory._reset_peak()
    with mmap.mmap(-1, 64 << 20) as touched:
        touched.write(b"x" * (8 << 20) * 8)
    assert memory._kernel_bytes("VmHWM") - before > 60 << 20
    before = memory._reset_peak()
    assert memory._kernel_bytes("VmHWM") - before < 8 << 20


def test_every_way_of_kshot_gives_a_gradient(tiny: Work) -> None:
    for name in memory.SUBJECTS:
        assert memory.peak_memory(name, tiny, "cpu") >= 0


def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("adapt", "--size", "2", "--allow-noise") == 2
    assert "take a larger --size" in capsys.readouterr().err
    assert bench("adapt", "--device", "abacus") == 2
    assert "expected cpu, cuda or cuda:N, got 'abacus'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert bench("adapt", "--device", "cuda") == 2
        assert "sees no GPU here" in capsys.readouterr().err


def test_sides_that_disagree_are_not_compared(tiny: Work) -> None:
    other = tiny.model_copy(update={"rate": 2.0})
    with Served(other, learner_spec(other)) as served:
        served.work = tiny
        with pytest.raises(Disagreement, match="autograd should give the same probabilities"):
            adapt.differences(served, ("autograd",), "cpu")


def test_workers_answer_and_say_what_went_wrong(tiny: Work) -> None:
    with Crew(1) as crew:
        (rate,) = crew.perform(Gemm(work=tiny, seconds=0.01))
        assert rate > 0
        assert crew.rate(Answer(peer="autograd", work=tiny, count=1), 1) > 0
        with pytest.raises(WorkerFailed, match="KeyError"):
            crew.perform(Answer(peer="nobody", work=tiny, count=1))
    crew.close()
