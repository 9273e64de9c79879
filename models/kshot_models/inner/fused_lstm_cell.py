"""The LSTM cell as one operation: a kernel for CPUs forward and back, and the primitives that it stands for.

    gates = W x + U h + b      c' = sigmoid(f) c + sigmoid(i) tanh(g)      h' = sigmoid(o) tanh(c')

A cell for every weight of a network has some 80 numbers between its inputs and its outputs, which primitives carry
through memory several times, and autograd once more. The kernel (batched/native/lstm.py) keeps them in a cache and
computes them again on the way back. Where its gradient is to be differentiated in turn, that is made of primitives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_models.batched.backend import kernels_for
from kshot_models.batched.folding import applied
from kshot_models.serving import only_mapped

__all__ = ["fits", "from_primitives", "fused_lstm_cell", "through_gates"]


def fits(*tensors: Tensor) -> bool:
    """Whether there is a kernel for such tensors, and nothing but vmap at work on them."""
    return all(hasattr(kernels_for(tensor), "lstm_step") for tensor in tensors) and only_mapped()


def fused_lstm_cell(
    weight_input: Tensor, weight_hidden: Tensor, bias: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """One step by the kernel.

    Args:
        weight_input: (4 hidden, inputs); the blocks are the input gates, forget gates, candidates and output gates.
        weight_hidden: (4 hidden, hidden).
        bias: (4 hidden,).
        inputs: (inputs, n).
        hidden: (hidden, n).
        cell: (hidden, n). Where it and `hidden` are one 0, expanded, their products are left out.

    Returns:
        h' and c', (hidden, n) each.
    """
    results: tuple[Tensor, Tensor] = applied(_Cell, weight_input, weight_hidden, bias, inputs, hidden, cell)
    return results


def from_primitives(
    weight_input: Tensor, weight_hidden: Tensor, bias: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from primitives; all may have leading axes.

    The n cases are the last axis: the four gates are then whole blocks of memory, and on a CPU several times faster.
    """
    return through_gates(weight_input @ inputs + weight_hidden @ hidden + bias[..., None], cell)


class _Cell(torch.autograd.Function):
    """See fused_lstm_cell; inputs, hidden and cell may have an axis of tasks in front."""

    @staticmethod
    def forward(
        weight_input: Tensor, weight_hidden: Tensor, bias: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights = torch.cat([weight_input, bias[:, None], weight_hidden], 1)
        compute = kernels_for(inputs).lstm_step  # type: ignore[union-attr]  # `fits` has looked
        state = None if _is_zero(hidden) and _is_zero(cell) else (_with_tasks(hidden), _with_tasks(cell))
        results = compute(weights, _with_tasks(inputs), state)
        return results if inputs.ndim == 3 else tuple(result[0] for result in results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        del output
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_cell: Tensor | None) -> Any:
        if grad_hidden is None and grad_cell is None:
            return (None,) * 6
        if torch.is_grad_enabled():
            return _differentiable_gradient(ctx, grad_hidden, grad_cell)
        weight_input, weight_hidden, bias, inputs, hidden, cell = ctx.saved_tensors
        weights = torch.cat([weight_input, bias[:, None], weight_hidden], 1)
        wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
        zero = not wanted[1] and _is_zero(hidden) and _is_zero(cell)
        of_weights, *others = kernels_for(inputs).lstm_step_gradient(  # type: ignore[union-attr]  # as forward
            weights,
            _with_tasks(inputs),
            None if zero else (_with_tasks(hidden), _with_tasks(cell)),
            (_with_tasks(grad_hidden), _with_tasks(grad_cell)),
            wanted=wanted,
        )
        features = inputs.shape[-2]
        by_inputs = (each if each is None or inputs.ndim == 3 else each[0] for each in others)
        return of_weights[:, :features], of_weights[:, features + 1 :], of_weights[:, features], *by_inputs

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Any, Any]:
        mapped = info.batch_size
        weights, cases = (
            [
                tensor.expand(mapped, *tensor.shape) if at is None else tensor.movedim(at, 0)
                for tensor, at in zip(tensors[part], in_dims[part], strict=True)
            ]
            for part in (slice(3), slice(3, 6))
        )
        tasks = cases[0].shape[1:-2]  # of a mapping inside this one
        if any(at is not None for at in in_dims[:3]):
            among = (w.reshape(mapped, *(1 for _ in tasks), *w.shape[1:]) for w in weights)
            results = from_primitives(*among, *cases)
        else:
            h, c = fused_lstm_cell(*tensors[:3], *(case.flatten(0, -3) for case in cases))
            results = h.reshape(mapped, *tasks, *h.shape[1:]), c.reshape(mapped, *tasks, *c.shape[1:])
        return results, (0, 0)


def _differentiable_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    # A name of their own for each: h may have been made of the weights, whose part by way of h is not asked for here.
    leaves = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    wanted = [leaf for leaf, needed in zip(leaves, ctx.needs_input_grad, strict=True) if needed]
    pairs = [(o, g) for o, g in zip(from_primitives(*leaves), grads, strict=True) if g is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in pairs], wanted, [grad for _, grad in pairs], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)


def _is_zero(tensor: Tensor) -> bool:
    return not any(tensor.stride()) and tensor.numel() > 0 and float(tensor.flatten()[0]) == 0


def _with_tasks(tensor: Tensor | None) -> Any:
    return tensor if tensor is None or tensor.ndim == 3 else tensor[None]


def through_gates(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The step from what the gates are before their sigmoids, for who has computed these in another way.

    Args:
        gates: (..., 4 hidden, n), the four blocks in the order of the weights.
        cell: (..., hidden, n).

    Returns:
        h' and c', (..., hidden, n) each.
    """
    i, f, g, o = gates.chunk(4, dim=-2)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
