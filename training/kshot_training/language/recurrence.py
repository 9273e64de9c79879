"""An LSTM's recurrence over many steps as one operation, whose way back is written out in differentiable operations.

    gates_t = inputs_t + W h_{t-1}      c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)      h_t = sigmoid(o) tanh(c_t)

Step by step, autograd adds up a product of W's size for every character. Here the gradient by W is one product over all
of them, the gates are computed again from the h that are known by then, and only what has to wait for a later step is
in a loop: several times faster for weights that are a document's own. Derivatives of any order are those of the same
recurrence from primitives, of which a test makes sure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_models.inner.fused_lstm_cell import through_gates

__all__ = ["lstm_recurrence"]


def lstm_recurrence(inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Run all steps.

    Args:
        inputs: (*tasks, 4 hidden, length, n): what the inputs and the bias bring to the gates, before the sigmoids; the
            blocks are the input gates, forget gates, candidates and output gates.
        weight: (*tasks, 4 hidden, hidden), of the recurrence.
        hidden: (*tasks, hidden, n), before the first step.
        cell: (*tasks, hidden, n), likewise.

    Returns:
        h and c after each step, (*tasks, hidden, length, n) each.
    """
    out: tuple[Tensor, Tensor] = _Recurrence.apply(inputs, weight, hidden, cell)  # type: ignore[no-untyped-call]  # as torch declares it
    return out


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        hiddens, cells = [], []
        h, c = hidden, cell
        for step in inputs.unbind(-2):
            h, c = through_gates(step + _product(weight, h), c)
            hiddens.append(h)
            cells.append(c)
        out = torch.stack(hiddens, -2), torch.stack(cells, -2)
        ctx.save_for_backward(inputs, weight, hidden, cell, *out)
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs, weight, hidden, cell, hiddens, cells = ctx.saved_tensors
        before = torch.cat([hidden[..., None, :], hiddens[..., :-1, :]], -2).flatten(-2)  # (*tasks, hidden, length * n)
        kept, local, opened = _local_derivatives(
            inputs + (weight @ before).reshape(inputs.shape),
            torch.cat([cell[..., None, :], cells[..., :-1, :]], -2),
            cells,
        )
        transposed = weight.mT.contiguous()
        from_hidden, from_cell = (part.unbind(-2) for part in cotangents)
        h, c = torch.zeros_like(hidden), torch.zeros_like(cell)
        by_gates: list[Tensor] = []
        for t in reversed(range(len(from_hidden))):
            h = h + from_hidden[t]
            c = c + from_cell[t] + h * opened[t]
            by_gates.append(torch.cat([c, c, c, h], -2) * local[t])
            h, c = _product(transposed, by_gates[-1]), c * kept[t]
        gates = torch.stack(by_gates[::-1], -2)
        return gates, gates.flatten(-2) @ before.mT, h, c


def _local_derivatives(
    gates: Tensor, cells_before: Tensor, cells: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """For each step: d c_t / d c_{t-1}; of the three inner gates d c_t and of the output gate d h_t; d h_t / d c_t."""
    i, f, g, o = gates.chunk(4, dim=-3)
    i, f, g, o, seen = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid(), cells.tanh()
    local = [g * i * (1 - i), cells_before * f * (1 - f), i * (1 - g * g), seen * o * (1 - o)]
    return f.unbind(-2), torch.cat(local, -3).unbind(-2), (o * (1 - seen * seen)).unbind(-2)


def _product(weight: Tensor, inputs: Tensor) -> Tensor:
    """weight @ inputs. A batch of products with single vectors is several times faster without the library's bmm."""
    if weight.ndim == 2 or inputs.shape[-1] > 1:
        return weight @ inputs
    return (weight * inputs.mT).sum(-1, keepdim=True)
