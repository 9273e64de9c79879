"""How far meta-gradients are from the exact implicit one: by inner steps, and by steps of conjugate gradients.

    exact       phi* = argmin L_S(phi) + strength / 2 |phi - theta|^2      by Newton's method, to rounding
                (I + H / strength)^-1 grad L_Q(phi*)                       by a dense solve
    iMAML       n inner steps of gradient descent, k Hessian-vector products
    MAML        the same inner steps, differentiated through
    FOMAML      the same inner steps, not differentiated through

Told is |g - exact| / |exact|, in double precision. The task is a sine wave on a tanh network of 97 weights, so that
the Hessian can be written down, with a strength that leaves the inner problem curved upwards where it is solved. The
error of iMAML has two parts, how far phi is from phi*, and how well the linear system is solved: the larger one shows.
That of MAML falls as phi converges, at the price of memory for the path: adaptation_memory.py.

    python -m kshot_training.implicit_error training/results/figures      writes implicit-error.json and .png

Reference: Rajeswaran, Finn, Kakade and Levine, 2019, arXiv 1909.04630, section 5, figure 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev

from kshot_models.learners import GradientLearner
from kshot_models.losses import mean_squared_error
from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Examples, MetaParams, Params
from kshot_training.data import SinusoidSampler
from kshot_training.meta_gradients import MetaGradient, imaml, through_adaptation

__all__ = ["Errors", "draw", "exact_gradient", "main", "measure", "problem"]

STRENGTH, RATE = 6.0, 0.02
INNER_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CG_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15)
SHOWN_CG, SHOWN_INNER = (1, 2, 5, 10), (4, 16, 64, 256)  # the lines of the two panels
NAME = "implicit-error"

Errors = dict[str, list[float]]  # by line: relative errors along the panel's axis


class Problem(NamedTuple):
    """A learner without its number of inner steps, and one task."""

    learner: Callable[[int], GradientLearner]
    meta: MetaParams
    episode: Episode  # with a tasks axis of one


def problem(seed: int = 2) -> Problem:
    """The sine wave, the network and where it starts."""
    episode = SinusoidSampler(shot=10, queries=10, seed=seed, dtype=torch.float64).sample(0, 1)
    meta = meta_map(Tensor.double, _learner(1).init(torch.Generator().manual_seed(seed)))
    return Problem(_learner, meta, episode)


def exact_gradient(task: Problem) -> Tensor:
    """The implicit meta-gradient by dense linear algebra, flat in the order of names (weights,)."""
    support, query = (Examples(*(tensor[0] for tensor in part)) for part in task.episode)
    names = sorted(task.meta.init)
    start = _flat(task.meta.init)

    def loss_on(examples: Examples) -> Callable[[Tensor], Tensor]:
        def loss(flat: Tensor) -> Tensor:
            parts = torch.split(flat, [task.meta.init[name].numel() for name in names])
            weights = {n: part.view_as(task.meta.init[n]) for n, part in zip(names, parts, strict=True)}
            return task.learner(1).support_loss(weights, {}, examples, torch.ones(1, dtype=flat.dtype))

        return loss

    def inner(flat: Tensor) -> Tensor:
        return loss_on(support)(flat) + STRENGTH / 2 * (flat - start).square().sum()

    adapted = start
    for _ in range(500):  # into the valley that the inner loop goes to, where Newton's method may take over
        adapted = adapted - RATE * grad(inner)(adapted)
    for _ in range(8):
        adapted = adapted - torch.linalg.solve(jacrev(grad(inner))(adapted), grad(inner)(adapted))
    system = jacrev(grad(inner))(adapted) / STRENGTH
    solution: Tensor = torch.linalg.solve(system, grad(loss_on(query))(adapted))
    return solution


def measure(
    task: Problem,
    *,
    inner_steps: Sequence[int] = INNER_STEPS,
    cg_steps: Sequence[int] = CG_STEPS,
    shown_inner: Sequence[int] = SHOWN_INNER,
    shown_cg: Sequence[int] = SHOWN_CG,
) -> dict[str, Errors]:
    """Relative errors of meta-gradients.

    Args:
        task: On which.
        inner_steps: The axis of `by inner steps`, for MAML, FOMAML and iMAML.
        cg_steps: The axis of `by CG steps`, for iMAML.
        shown_inner: A line of `by CG steps` for each.
        shown_cg: A line of iMAML in `by inner steps` for each.
    """
    exact = exact_gradient(task)

    def error(gradient: MetaGradient, steps: int) -> float:
        grads, _ = gradient(task.learner(steps), task.meta, task.episode, way=1, generator=torch.Generator())
        return float((_flat(grads.init) - exact).norm() / exact.norm())

    unrolled = {
        "FOMAML": through_adaptation(first_order=True, loss=mean_squared_error),
        "MAML": through_adaptation(loss=mean_squared_error),
    }
    implicit = {k: imaml(strength=STRENGTH, cg_steps=k, loss=mean_squared_error) for k in {*cg_steps, *shown_cg}}
    lines = unrolled | {f"iMAML, {k} CG step{'s' * (k > 1)}": implicit[k] for k in shown_cg}
    return {
        "by inner steps": {name: [error(line, n) for n in inner_steps] for name, line in lines.items()},
        "by CG steps": {f"{n} inner steps": [error(implicit[k], n) for k in cg_steps] for n in shown_inner},
    }


def draw(errors: Mapping[str, Errors], path: Path) -> None:
    """Both panels, on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import, and only this needs it
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(10, 3.9), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"MAML": ("black", "--"), "FOMAML": ("grey", ":")}
    for name, values in errors["by inner steps"].items():
        colour, style = styles.get(name, (None, "-"))
        left.plot(INNER_STEPS, values, style, color=colour, marker="o", markersize=3, label=name)
    left.set(xscale="log", yscale="log", xlabel="inner steps", ylabel="relative error of the meta-gradient")
    left.set_xticks(INNER_STEPS, [str(n) for n in INNER_STEPS], minor=False)
    left.minorticks_off()
    for name, values in errors["by CG steps"].items():
        right.plot(CG_STEPS, values, marker="o", markersize=3, label=f"iMAML, {name}")
    right.set(yscale="log", xlabel="steps of conjugate gradients")
    for axes in (left, right):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    FigureCanvasAgg(figure)  # the canvas that needs no display; it makes itself the figure's own
    figure.savefig(path, format="png")


def main(arguments: Sequence[str]) -> int:
    """Measure and draw: python -m kshot_training.implicit_error FOLDER."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    errors = measure(problem())
    told = {"inner_steps": INNER_STEPS, "cg_steps": CG_STEPS, "strength": STRENGTH, "rate": RATE, "errors": errors}
    (folder / f"{NAME}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draw(errors, folder / f"{NAME}.png")
    return 0


def _learner(steps: int) -> GradientLearner:
    spec = LearnerSpec.model_validate(
        {
            "type": "gradient_regression",
            "norm": "none",
            "steps": steps,
            "network": {"type": "mlp", "hidden": (8, 8), "activation": "tanh"},
            "head": {"type": "linear", "way": 1},
            "inner": ({"type": "proximal", "strength": STRENGTH}, {"type": "sgd", "rate": RATE}),
        }
    )
    learner = build_learner(spec, InputSpec(height=1, width=1, channels=1, mean=(0.0,), std=(1.0,)))
    assert isinstance(learner, GradientLearner)
    return learner


def _flat(params: Params) -> Tensor:
    return torch.cat([params[name].reshape(-1) for name in sorted(params)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
