"""The comparison is fair and says what torch's optimizers do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from kshot_models.inner import adam, sgd
from kshot_training.commands import compare as command
from kshot_training.optimizer_comparison import LEARNED, Baseline, Contest, compare, draw_comparison, run_torch, tune
from kshot_training.problems import Quadratics
from kshot_training.unroll import optimize

FAMILY = Quadratics(dimensions=3, seed=1)
CONTEST = Contest(steps=12, tuned_at=6, runs=5, tuning_runs=4, together=2)
RATES = Baseline(torch.optim.SGD, {}, {"lr": (0.001, 0.02, 5.0)})


def test_torch_optimizers_do_on_a_batch_of_problems_what_our_rules_do() -> None:
    problem = FAMILY.draw(0, 3)
    torch.testing.assert_close(
        run_torch(torch.optim.SGD, {"lr": 0.02}, problem, 6), optimize(sgd(rate=0.02), {}, problem, 6)
    )
    torch.testing.assert_close(
        run_torch(torch.optim.Adam, {"lr": 0.05}, problem, 6),
        optimize(adam(rate=0.05), {}, problem, 6),
        rtol=1e-4,
        atol=1e-5,
    )


def test_tuning_takes_the_lowest_final_loss_and_never_what_diverges() -> None:
    problem = FAMILY.draw(0, 8)
    assert tune(RATES, problem, 10) == {"lr": 0.02}
    assert run_torch(torch.optim.SGD, {"lr": 5.0}, problem, 10)[-1].mean() > 1e6


def test_all_are_run_on_the_same_problems(tmp_path: Path) -> None:
    told: list[str] = []
    compared = compare(
        sgd(rate=0.02),
        {},
        tuning=FAMILY,
        test=Quadratics(dimensions=3, seed=2),
        contest=CONTEST,
        beside={"other": (adam(rate=0.05), {})},
        baselines={"SGD": Baseline(torch.optim.SGD, {}, {"lr": (0.02,)})},
        report=told.append,
    )
    assert list(compared) == [LEARNED, "other", "SGD"]
    assert compared[LEARNED].curve == pytest.approx(compared["SGD"].curve, abs=2e-4)
    assert compared["other"].curve != compared[LEARNED].curve
    assert len(compared["SGD"].curve) == 13
    assert len(told) == 3
    draw_comparison({"one": compared, "two": compared}, tmp_path / "plot.png", title="both", horizon=6)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_figures_that_name_their_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    wrong = parser.parse_args(["sine-maml"])
    assert command.run(wrong) == 2
    assert "trains a learner" in capsys.readouterr().err
    json_file, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    flags = ["--runs", "3", "--tuning-runs", "2", "--steps", "4", "--tuned-at", "2"]
    flags += [
        "--beside",
        "l2l-mlp",
        "--variant",
        "flat:problem.dimensions=2",
        "--json",
        str(json_file),
        "--plot",
        str(plot),
    ]
    assert command.run(parser.parse_args(["l2l-quadratic", *flags])) == 0
    figures = json.loads(json_file.read_text())
    assert figures["command"].startswith("kshot compare l2l-quadratic --runs 3 --tuning-runs 2 --steps 4")
    assert "--beside l2l-mlp" in figures["command"]
    assert list(figures["beside"]) == ["l2l-mlp"]
    assert list(figures["problems"]) == ["as trained", "flat"]
    assert list(figures["problems"]["flat"])[:2] == ["learned", "l2l-mlp"]
    assert len(figures["problems"]["flat"]["Adam"]["log10_mean_loss"]) == 5
    assert plot.exists()
    assert "as trained" in capsys.readouterr().out
