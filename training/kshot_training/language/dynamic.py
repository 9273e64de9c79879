"""Dynamic evaluation, the rule made by hand: gradient descent on what was read, with a pull back to the static weights.

    sgd    theta' = theta - rate * grad                   + decay * (theta_static - theta)
    rms    theta' = theta - rate * grad / (rms + epsilon) + decay * pull * (theta_static - theta)

with rms of each weight's gradient over training text, and pull = rms / mean(rms), but decay * pull is at most 1:
weights with larger gradients are pulled more. On displacements (streams.py), the first is the linear rule.

Reference: Krause et al., 2018, arXiv 1709.07432, equations 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.tree import tree_map
from kshot_models.types import Params
from kshot_training.language.bits import bits_of_documents, read_updated
from kshot_training.language.recipe import DynamicSection
from kshot_training.language.streams import Reader

__all__ = ["Tuned", "dynamic_evaluation", "reader_of", "relative_pull", "tune"]

Kind = Literal["sgd", "rms"]


class Tuned(NamedTuple):
    """A setting of dynamic evaluation, and what it came to on validation documents."""

    kind: Kind
    rate: float
    decay: float
    bits: float


def dynamic_evaluation(*, rate: float, decay: float, pull: Params | None = None) -> InnerOptimizer:
    """The rule on displacements d: d' = d - rate * grad - min(decay * pull, 1) * d.

    Args:
        rate: step size, in the units that the reader gives displacements.
        decay: share of a displacement that is forgotten with each segment.
        pull: multiples of it, shaped like the weights; None: 1.
    """

    def decays(name: str, grad: Tensor) -> Tensor:
        share = grad.new_tensor(decay) if pull is None else decay * pull[name]
        return share.clamp(max=1)

    def update(
        grads: Params, state: tuple[()], params: Params, loss: Tensor, *, objective: Objective | None = None
    ) -> tuple[Params, tuple[()]]:
        del loss, objective
        return {name: -rate * grad - decays(name, grad) * params[name] for name, grad in grads.items()}, state

    return InnerOptimizer(lambda params, generator: {}, lambda phi: GradientTransformation(lambda params: (), update))


def relative_pull(rms: Params) -> Params:
    """rms / mean(rms), the mean over all weights."""
    mean = torch.cat([leaf.reshape(-1) for leaf in rms.values()]).mean()
    return tree_map(lambda leaf: leaf / mean, rms)


def reader_of(kind: Kind, reader: Reader) -> Reader:
    """The reader whose units make descent on displacements that of `kind`; `reader` has the RMS scale."""
    return reader if kind == "rms" else Reader(reader.model, reader.static, None, reader.segment)


def tune(
    section: DynamicSection,
    reader: Reader,
    rms: Params,
    documents: Sequence[Tensor],
    *,
    report: Callable[[str], None] = lambda line: None,
) -> list[Tuned]:
    """Try the grid: all rates of both kinds without decay, then all decays with the rates of the better kind.

    Returns:
        all that was tried, the fewest bits per character on `documents` first.
    """
    pull = relative_pull(rms)

    def tried(kind: Kind, rate: float, decay: float) -> Tuned:
        rule = dynamic_evaluation(rate=rate, decay=decay, pull=pull if kind == "rms" else None)
        read = bits_of_documents(
            lambda stream: read_updated(rule, {}, stream),
            reader_of(kind, reader),
            documents,
            characters=section.characters,
            together=len(documents),
        )
        found = Tuned(kind, rate, decay, float(read.mean().nan_to_num(float("inf"))))
        report(f"dynamic evaluation by {kind}, rate {rate:g}, decay {decay:g}: {found.bits:.4f}")
        return found

    rates: dict[Kind, tuple[float, ...]] = {"sgd": section.sgd_rates, "rms": section.rms_rates}
    found = [tried(kind, rate, 0.0) for kind, some in rates.items() for rate in some]
    better = min(found, key=lambda each: each.bits).kind
    found += [tried(better, rate, decay) for decay in section.decays if decay for rate in rates[better]]
    return sorted(found, key=lambda each: each.bits)
