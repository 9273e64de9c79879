"""A learned optimizer beside tuned ones, on problems that neither has seen: figures, JSON and the paper's plot.

    tuning problems ──grid──> the learning rate (and momentum) of SGD, NAG, RMSprop and Adam
    test problems   ──────> mean loss by step, of these and of the learned ones, on the same mini-batches

All start where the problem says, and hand-made optimizers keep torch's defaults but for what is tuned: the lowest mean
loss after the tuned number of steps wins. Reported is log10 of the mean loss, as the code of the paper does.

Reference: Andrychowicz et al., 2016, arXiv 1606.04474, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.types import Params
from kshot_training.optimizer_run import mean_log10
from kshot_training.problems import Problem, ProblemFamily
from kshot_training.unroll import optimize

__all__ = ["BASELINES", "LEARNED", "Baseline", "Compared", "Contest", "compare", "draw_comparison", "run_torch", "tune"]

LEARNED = "learned"
Make = Callable[..., torch.optim.Optimizer]


class Baseline(NamedTuple):
    """A hand-made optimizer and what is tried of it."""

    make: Make
    fixed: Mapping[str, Any]
    grid: Mapping[str, Sequence[float]]


_RATES = tuple(10 ** (k / 3) for k in range(-12, 4))  # 1e-4 to 10, three a decade
BASELINES: Mapping[str, Baseline] = {
    "SGD": Baseline(torch.optim.SGD, {}, {"lr": _RATES}),
    "NAG": Baseline(torch.optim.SGD, {"nesterov": True}, {"lr": _RATES, "momentum": (0.8, 0.9, 0.95)}),
    "RMSprop": Baseline(torch.optim.RMSprop, {}, {"lr": _RATES}),
    "Adam": Baseline(torch.optim.Adam, {}, {"lr": _RATES}),
}


class Contest(NamedTuple):
    """How long and on how many problems."""

    steps: int  # that are shown
    tuned_at: int  # steps after which the tuned ones are to be lowest
    runs: int  # test problems
    tuning_runs: int
    together: int = 32  # problems side by side, which bounds memory


class Compared(NamedTuple):
    """One optimizer on the test problems."""

    settings: dict[str, float]
    curve: list[float]  # log10 of the mean loss before each step and after the last one; infinite: diverged

    def at(self, step: int) -> float:
        """log10 of the mean loss after `step` steps."""
        return self.curve[step]


def run_torch(make: Make, settings: Mapping[str, Any], problem: Problem, steps: int) -> Tensor:
    """Let a torch optimizer work on all tasks of a problem at once: they are elementwise, so none sees another.

    Returns:
        the losses before each step and after the last one, (steps + 1, tasks).
    """
    params: Params = {name: p.clone().requires_grad_() for name, p in problem.start.items()}
    optimizer = make(params.values(), **settings)
    path = []
    for step in range(steps):
        optimizer.zero_grad()
        losses = problem.losses(params, step)
        path.append(losses.detach())
        torch.autograd.backward(losses.sum())
        optimizer.step()
    with torch.no_grad():
        path.append(problem.losses(params, steps))
    return torch.stack(path)


def tune(baseline: Baseline, problem: Problem, steps: int) -> dict[str, float]:
    """The settings of the grid with the lowest mean loss after `steps` steps."""
    candidates = [
        dict(zip(baseline.grid, values, strict=True)) for values in itertools.product(*baseline.grid.values())
    ]

    def final(settings: dict[str, float]) -> float:
        return mean_log10(run_torch(baseline.make, {**baseline.fixed, **settings}, problem, steps)[-1])

    return min(candidates, key=final)


def compare(
    rule: InnerOptimizer,
    phi: Params,
    *,
    tuning: ProblemFamily,
    test: ProblemFamily,
    contest: Contest,
    beside: Mapping[str, tuple[InnerOptimizer, Params]] = MappingProxyType({}),
    baselines: Mapping[str, Baseline] = BASELINES,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Compared]:
    """Tune the baselines and run everything.

    Args:
        rule: the learned update rule.
        phi: what it learned.
        tuning: problems to tune on.
        test: problems to compare on.
        contest: how long and on how many.
        beside: other learned rules by name, with what they learned.
        baselines: hand-made optimizers that it is compared with.
        report: told of each optimizer that is done.

    Returns:
        by name, the learned ones first.
    """
    sizes = [min(contest.together, contest.runs - begin) for begin in range(0, contest.runs, contest.together)]

    def everywhere(run: Callable[[Problem], Tensor]) -> list[float]:
        losses = torch.cat([run(test.draw(number, size)) for number, size in enumerate(sizes)], 1)
        return [round(mean_log10(row), 4) for row in losses]

    compared: dict[str, Compared] = {}
    for name, (its_rule, its_phi) in {LEARNED: (rule, phi), **beside}.items():
        compared[name] = Compared({}, everywhere(partial(_learned, its_rule, its_phi, steps=contest.steps)))
        report(f"{name}: {compared[name].at(contest.tuned_at):.3f}")
    trial = tuning.draw(0, contest.tuning_runs)
    for name, baseline in baselines.items():
        settings = tune(baseline, trial, contest.tuned_at)
        everything = {**baseline.fixed, **settings}
        make = baseline.make
        curve = everywhere(lambda problem, make=make, e=everything: run_torch(make, e, problem, contest.steps))  # type: ignore[misc]  # defaults that bind the loop's values
        compared[name] = Compared({key: float(f"{value:.4g}") for key, value in settings.items()}, curve)
        report(f"{name}: {compared[name].at(contest.tuned_at):.3f} with {compared[name].settings}")
    return compared


def _learned(rule: InnerOptimizer, phi: Params, problem: Problem, *, steps: int) -> Tensor:
    return optimize(rule, phi, problem, steps)


def draw_comparison(panels: Mapping[str, Mapping[str, Compared]], path: Path, *, title: str, horizon: int) -> None:
    """Draw the mean loss over the steps, one panel for each kind of problem; a line where training ended.

    Args:
        panels: by title.
        path: a PNG.
        title: above all.
        horizon: steps that the optimizer was trained for.
    """
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, (name, compared) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for optimizer, result in compared.items():
            shown = [10**value if value < 6 else float("nan") for value in result.curve]
            axes.plot(shown, linewidth=2 if optimizer == LEARNED else 1, label=optimizer)
        axes.axvline(horizon, color="grey", linewidth=1, linestyle=":")
        axes.set(xlabel="step", ylabel="mean loss", yscale="log", title=name)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")
