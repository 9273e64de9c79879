"""What MAML, first-order MAML and Reptile have in common, measured: their expected meta-gradients as two terms.

    E[meta-gradient] = c1 AvgGrad - c2 AvgGradInner + O(rate^2)          k gradients, inner steps of `rate`
    AvgGrad = E[g_1]     AvgGradInner = E[H_2 g_1]                       g, H of different mini-batches, at the start

              c1     c2
    MAML      1      2 (k - 1) rate
    FOMAML    1      (k - 1) rate
    Reptile   k      k (k - 1) rate / 2

AvgGrad minimizes the expected loss, -AvgGradInner makes gradients of different mini-batches agree. The expectations
here are exact: a task of few points, each a mini-batch of its own, and every order in which they can come.

    python -m kshot_training.average_gradients training/results/figures      writes avg-grad.json and avg-grad.png

Reference: Nichol, Achiam and Schulman, 2018, arXiv 1803.02999, section 5.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad, vjp

from kshot_models.learners import GradientLearner
from kshot_models.losses import mean_squared_error
from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Episode, Examples, MetaParams, Params
from kshot_training.data import SinusoidSampler
from kshot_training.meta_gradients import MetaGradient, reptile, through_adaptation

__all__ = ["ALGORITHMS", "Coefficients", "draw", "expected", "main", "measure"]

ALGORITHMS = ("MAML", "FOMAML", "Reptile")
POINTS = 4  # of the task: the largest k


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Of one algorithm at k gradients and one inner rate."""

    algorithm: str
    k: int
    rate: float
    grad: float  # c1
    inner: float  # c2


def expected(algorithm: str, k: int, rate: float) -> Coefficients:
    """The coefficients of the table above."""
    first, second = {"MAML": (1, 2 * (k - 1)), "FOMAML": (1, k - 1), "Reptile": (k, k * (k - 1) / 2)}[algorithm]
    return Coefficients(algorithm, k, rate, float(first), float(second) * rate)


def measure(algorithm: str, k: int, rate: float, *, seed: int = 0) -> Coefficients:
    """Regress the expected meta-gradient on AvgGrad and AvgGradInner, over the parameters of a small tanh network.

    Args:
        algorithm: One of ALGORITHMS.
        k: Gradients: k - 1 inner steps and the query's, or k inner steps of Reptile. 1 to POINTS.
        rate: Of the inner steps; small, as the two terms are the first of a series in it.
        seed: Of the network and the task.
    """
    learner, meta = _learner(rate, seed)
    points = SinusoidSampler(shot=POINTS, queries=1, seed=seed, dtype=torch.float64).sample(0, 1).support
    points = Examples(*(tensor[0] for tensor in points))
    first, second = _terms(learner, meta, points)
    if algorithm == "Reptile":
        total = _reptile_mean(learner, meta, points, k) / rate
    else:
        plain = through_adaptation(first_order=algorithm == "FOMAML", loss=mean_squared_error)
        total = _pairs_mean(dataclasses.replace(learner, steps=k - 1), meta, points, plain)
    solution = torch.linalg.lstsq(torch.stack([first, -second], 1), total[:, None]).solution
    return Coefficients(algorithm, k, rate, float(solution[0]), float(solution[1]))


def _learner(rate: float, seed: int) -> tuple[GradientLearner, MetaParams]:
    spec = LearnerSpec.model_validate(
        {
            "type": "gradient_regression",
            "norm": "none",
            "steps": 1,
            "network": {"type": "mlp", "hidden": (8, 8), "activation": "tanh"},
            "head": {"type": "linear", "way": 1},
            "inner": ({"type": "sgd", "rate": rate},),
        }
    )
    learner = build_learner(spec, InputSpec(height=1, width=1, channels=1, mean=(0.0,), std=(1.0,)))
    assert isinstance(learner, GradientLearner)
    return learner, meta_map(torch.Tensor.double, learner.init(torch.Generator().manual_seed(seed)))


def _terms(learner: GradientLearner, meta: MetaParams, points: Examples) -> tuple[Tensor, Tensor]:
    """AvgGrad and AvgGradInner, flat, over all points and all ordered pairs of them."""
    fast, rests = learner.start(meta, points, 1)
    present = torch.ones(1, dtype=torch.float64)

    def gradient_at(weights: Params, point: int) -> Params:
        slope: Params = grad(learner.support_loss)(weights, rests, _rows(points, [point]), present)
        return slope

    slopes = [gradient_at(fast, point) for point in range(POINTS)]
    products = []
    for i in range(POINTS):
        # Of a gradient: the Hessian, which is symmetric.
        _, pull = vjp(partial(gradient_at, point=i), fast)  # type: ignore[misc]  # annotated with the has_aux form too
        products += [pull(slopes[j])[0] for j in range(POINTS) if j != i]
    return _flat_mean(slopes), _flat_mean(products)


def _pairs_mean(learner: GradientLearner, meta: MetaParams, points: Examples, gradient_of: MetaGradient) -> Tensor:
    pairs = list(itertools.permutations(range(POINTS), 2))
    support = _rows(points, [[i] for i, _ in pairs])
    query = _rows(points, [[j] for _, j in pairs])
    grads, _ = gradient_of(learner, meta, Episode(support, query), way=1, generator=torch.Generator())
    return _flat_mean([grads.init])


def _reptile_mean(learner: GradientLearner, meta: MetaParams, points: Examples, k: int) -> Tensor:
    gradient_of = reptile(batch=1, steps=k, loss=mean_squared_error)
    moved = []
    for order in itertools.permutations(range(POINTS)):
        support = _rows(points, [list(order)])
        # The same draws for every order of the points: so every order in which they are taken occurs once.
        generator = torch.Generator().manual_seed(0)
        grads, _ = gradient_of(learner, meta, Episode(support, support), way=1, generator=generator)
        moved.append(grads.init)
    return _flat_mean(moved)


def _rows(points: Examples, index: Sequence[int] | Sequence[list[int]]) -> Examples:
    return Examples(*(tensor[torch.tensor(index)] for tensor in points))


def _flat_mean(trees: Sequence[Params]) -> Tensor:
    # By name: fast weights and meta-parameters need not have the same order.
    return torch.stack([torch.cat([tree[name].reshape(-1) for name in sorted(tree)]) for tree in trees]).mean(0)


def draw(measured: Sequence[Coefficients], path: Path) -> None:
    """Draw measured coefficients as points on the lines that they should lie on."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import, and only this needs it

    figure = Figure(figsize=(8, 3), dpi=90, layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, algorithm in zip(("C0", "C1", "C2"), ALGORITHMS, strict=True):
        style = "--" if algorithm == "FOMAML" else "-"  # its line lies on that of MAML on the left
        rows = [row for row in measured if row.algorithm == algorithm]
        ks = [row.k for row in rows]
        theory = [expected(algorithm, row.k, row.rate) for row in rows]
        left.plot(ks, [row.grad for row in theory], style, color=colour, label=algorithm)
        left.plot(ks, [row.grad for row in rows], "o", color=colour)
        right.plot(ks, [row.inner / row.rate for row in theory], style, color=colour)
        right.plot(ks, [row.inner / row.rate for row in rows], "o", color=colour)
    left.set(title="coefficient of AvgGrad", xlabel="gradients k", xticks=range(1, POINTS + 1))
    right.set(title="coefficient of -AvgGradInner / rate", xlabel="gradients k", xticks=range(1, POINTS + 1))
    left.legend(title="points: measured")
    figure.savefig(path)


def main(arguments: Sequence[str]) -> int:
    """Measure and draw: python -m kshot_training.average_gradients FOLDER."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    measured = [measure(algorithm, k, 1e-4) for algorithm in ALGORITHMS for k in range(1, POINTS + 1)]
    rows = [dataclasses.asdict(row) for row in measured]
    (folder / "avg-grad.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(measured, folder / "avg-grad.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
