"""What MAML++ keeps for each inner step: gains and biases (BNWB) and the running moments (BNRS) of every norm.

    support pass of step j (from 0)     row j       the fast weights have taken j steps
    query pass after step j             row j       they have taken j + 1

as in the authors' code; a pass before any step takes row 0, one beyond the tables their last row. Norms are the layers
whose own name begins with `norm`.

Reference: Antoniou, Edwards and Storkey, 2019, arXiv:1810.09502.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_models.types import Params

__all__ = ["fresh_moments", "gains_at", "is_norm", "moments_at", "query_row", "with_rows"]


def is_norm(name: str) -> bool:
    """Whether a parameter is the gain or bias of a norm: `norm1.gain`, `body.norm1.bias`."""
    return name.split(".")[-2].startswith("norm") if "." in name else False


def query_row(steps_taken: int) -> int:
    """The row of a query pass: that of the step before it."""
    return max(steps_taken - 1, 0)


def with_rows(body: Params, steps: int) -> Params:
    """The same parameters with norm gains and biases (channels,) -> (steps, channels), all rows alike."""
    return {name: p.repeat(steps, 1) if is_norm(name) else p for name, p in body.items()}


def gains_at(params: Params, row: int) -> Params:
    """The same parameters with norm gains and biases (steps, channels) -> (channels,): those of `row`."""
    return {name: _row(p, row) if is_norm(name) else p for name, p in params.items()}


def fresh_moments(body: Params, steps: int) -> Params:
    """Mean 0 and variance 1, (steps, channels), for each norm of a network."""
    gains = {name.removesuffix(".gain"): p for name, p in body.items() if is_norm(name) and name.endswith(".gain")}
    means = {f"{layer}.mean": torch.zeros(steps, len(p)) for layer, p in gains.items()}
    return means | {f"{layer}.variance": torch.ones(steps, len(p)) for layer, p in gains.items()}


def moments_at(stats: Params, row: int) -> Params:
    """Moments (channels,) of `row`."""
    return {name: _row(table, row) for name, table in stats.items()}


def _row(table: Tensor, row: int) -> Tensor:
    return table[min(row, len(table) - 1)]
