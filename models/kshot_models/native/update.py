"""A step down a gradient, for all weights or for one member's of a team."""

from __future__ import annotations

from kshot_models.native.jit import Array1, Indices, inlined

__all__ = ["change_weights"]


@inlined
def change_weights(
    weights: Array1,
    gradients: Array1,
    ends: Indices,
    rates: Array1,
    by_weight: Array1,
    part: tuple[int, int, int],
) -> None:
    """weights -= rates * by_weight * gradients, in place.

    Args:
        weights: of all parameters, one after the other.
        gradients: of them.
        ends: (parameters,) where each one ends in both.
        rates: (parameters,); 0 of what stays as it is.
        by_weight: factors of all weights, or none.
        part: a member, of how many, and how many parameters they share. Those after them are the first member's.
    """
    member, members, shared = part
    first = 0
    for number in range(len(ends)):
        if number < shared:
            each = (ends[number] - first) // members
            begin, end = first + each * member, first + each * (member + 1)
        else:
            begin, end = first, ends[number] if member == 0 else first
        rate = rates[number]
        if rate != 0 and len(by_weight) > 0:
            for i in range(begin, end):
                weights[i] -= rate * by_weight[i] * gradients[i]
        elif rate != 0:
            for i in range(begin, end):
                weights[i] -= rate * gradients[i]
        first = ends[number]
