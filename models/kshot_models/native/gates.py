"""The gates of an LSTM on vectors of cases, forward and back, in LLVM's own language: no loop of calls becomes vectors.

    e^x - 1 = 2^n (e^r - 1) + (2^n - 1)      n = round(x / log 2), r = x - n log 2      e^r - 1 = r P(r)

P is the polynomial of degree 5 of least relative error (Remez), 2.3e-8 as rounded; sigmoids and hyperbolic tangents are
made of the above with a relative error below 3e-7, around 0 too. Arguments are cut off where the results no longer
change, or at +-43 where a sigmoid is 2e-19; what is not a number stays so.
"""

# Numba and llvmlite have few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kshot_models.native.instructions import ADDRESS, LANES, VECTOR, WIDTH, Code, constant, places

__all__ = ["through_gates", "through_gates_gradient"]

_POLYNOMIAL = (1.0, 0.49999997, 0.16666506, 0.041667137, 0.008369104, 0.0013888873)
_MOST = 43.0  # the product of two such exponentials is a number still
_LOG2_HIGH = 0.693359375  # of few digits, so that its multiples are exact
_LOG2_LOW = math.log(2) - _LOG2_HIGH


@intrinsic
def _through_gates(context, gates, cell, hidden_after, cell_after, units, down, columns):
    del context, gates, cell, hidden_after, cell_after, units, down, columns

    def generate(context, builder, signature, arguments):
        del signature
        gates, cell, hidden_after, cell_after, units, down, columns = arguments
        code = Code(builder)
        with _each_vector(builder, units, down, columns) as place:
            i, f, g, o = _four_gates(code, gates, units, down, place)
            i, f, o = (_exponential(code, builder.fneg(gate)) for gate in (i, f, o))
            g = _exponential_less_one(code, _twice(builder, g))
            before = code.load(code.moved(cell, place))
            added = builder.fdiv(g, builder.fmul(_more(builder, i, 1), _more(builder, g, 2)))
            after = builder.fadd(builder.fdiv(before, _more(builder, f, 1)), added)
            code.store(after, code.moved(cell_after, place))
            seen = _exponential_less_one(code, _twice(builder, after))
            hidden = builder.fdiv(seen, builder.fmul(_more(builder, o, 1), _more(builder, seen, 2)))
            code.store(hidden, code.moved(hidden_after, place))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


@intrinsic
def _through_gates_gradient(context, gates, cell, of_hidden, of_cell, units, down, columns):
    del context, gates, cell, of_hidden, of_cell, units, down, columns

    def generate(context, builder, signature, arguments):
        del signature
        gates, cell, of_hidden, of_cell, units, down, columns = arguments
        code, one = Code(builder), constant(1)
        multiplied = builder.fmul
        with _each_vector(builder, units, down, columns) as place:
            i, f, g, o = _four_gates(code, gates, units, down, place)
            i, f, o = (_sigmoid(code, gate) for gate in (i, f, o))
            g, before = _tangent(code, g), code.load(code.moved(cell, place))
            seen = _tangent(code, code.fused(f, before, multiplied(i, g)))
            to_hidden, to_cell = (code.load(code.moved(start, place)) for start in (of_hidden, of_cell))
            opened = multiplied(to_hidden, o)
            to_cell = builder.fadd(to_cell, multiplied(opened, code.fused(builder.fneg(seen), seen, one)))
            to_input = multiplied(multiplied(to_cell, i), g)
            results = (
                multiplied(to_input, builder.fsub(one, i)),
                multiplied(multiplied(multiplied(to_cell, before), f), builder.fsub(one, f)),
                multiplied(multiplied(to_cell, i), code.fused(builder.fneg(g), g, one)),
                multiplied(multiplied(opened, seen), builder.fsub(one, o)),
            )
            for block, result in enumerate(results):
                code.store(result, _gate_address(code, gates, units, down, place, block))
            code.store(multiplied(to_cell, f), code.moved(of_cell, place))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


# The compiler gives them their first argument; callers do not.
through_gates = cast("Callable[[int, int, int, int, int, int, int], None]", _through_gates)
"""(gates, cell, hidden after, cell after, units, down, columns): a step from what the gates are before their sigmoids.

    c' = sigmoid(f) c + sigmoid(i) tanh(g)      h' = sigmoid(o) tanh(c')

Addresses of matrices whose rows lie `down` numbers apart: gates (4 units, columns), the input gates, forget gates,
candidates and output gates; the others (units, columns). Columns are a multiple of WIDTH.
"""

through_gates_gradient = cast("Callable[[int, int, int, int, int, int, int], None]", _through_gates_gradient)
"""(gates, cell, of hidden, of cell, units, down, columns): the way back of `through_gates`, in place.

`of hidden` and `of cell` are the gradients of h' and c'. What the gates were becomes their gradient, and the gradient
of c' that of c.
"""


@contextmanager
def _each_vector(builder: Any, units: Any, down: Any, columns: Any) -> Iterator[Any]:
    """A loop over the vectors of a matrix (units, columns); its body is given how many numbers on each lies."""
    with cgutils.for_range(builder, units, intp=ADDRESS) as unit:
        start = builder.mul(unit.index, down)
        with cgutils.for_range_slice(builder, places(0), columns, places(WIDTH), intp=ADDRESS) as (column, _):
            yield builder.add(start, column)


def _gate_address(code: Code, gates: Any, units: Any, down: Any, place: Any, block: int) -> Any:
    rows = code.builder.mul(code.builder.mul(places(block), units), down)
    return code.moved(gates, code.builder.add(rows, place))


def _four_gates(code: Code, gates: Any, units: Any, down: Any, place: Any) -> list[Any]:
    return [code.load(_gate_address(code, gates, units, down, place, block)) for block in range(4)]


def _twice(builder: Any, x: Any) -> Any:
    return builder.fadd(x, x)


def _more(builder: Any, x: Any, number: float) -> Any:
    return builder.fadd(x, constant(number))


def _sigmoid(code: Code, x: Any) -> Any:
    """1 / (1 + e^-x)."""
    opposite = _exponential(code, code.builder.fneg(x))
    return code.builder.fdiv(constant(1), _more(code.builder, opposite, 1))


def _tangent(code: Code, x: Any) -> Any:
    """(e^2x - 1) / (e^2x + 1)."""
    doubled = _exponential_less_one(code, _twice(code.builder, x))
    return code.builder.fdiv(doubled, _more(code.builder, doubled, 2))


def _exponential(code: Code, x: Any) -> Any:
    """e^x."""
    power, rest = _split(code, x)
    return code.fused(power, rest, power)


def _exponential_less_one(code: Code, x: Any) -> Any:
    """e^x - 1, around 0 too."""
    power, rest = _split(code, x)
    return code.fused(power, rest, code.builder.fsub(power, constant(1)))


def _split(code: Code, x: Any) -> tuple[Any, Any]:
    """2^n and e^r - 1, where x = n log 2 + r."""
    builder = code.builder
    x = builder.select(builder.fcmp_ordered("<", x, constant(-_MOST)), constant(-_MOST), x)
    x = builder.select(builder.fcmp_ordered(">", x, constant(_MOST)), constant(_MOST), x)
    rounded = code.known("nearbyint", VECTOR, VECTOR)
    n = builder.call(rounded, [builder.fmul(x, constant(1 / math.log(2)))])
    r = code.fused(n, constant(-_LOG2_HIGH), x)
    r = code.fused(n, constant(-_LOG2_LOW), r)
    *lower, total = (constant(c) for c in _POLYNOMIAL)
    for coefficient in reversed(lower):
        total = code.fused(r, total, coefficient)
    exponent = builder.shl(builder.add(builder.fptosi(n, LANES), _whole(127)), _whole(23))
    return builder.bitcast(exponent, VECTOR), builder.fmul(r, total)


def _whole(number: int) -> Any:
    return ir.Constant(LANES, [number] * WIDTH)
