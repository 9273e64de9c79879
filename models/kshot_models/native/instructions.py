"""Instructions on vectors of eight numbers, as llvmlite writes them; a processor with shorter ones takes pieces."""

# llvmlite has few types.
# mypy: disable-error-code="import-untyped, no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import cgutils

__all__ = ["ADDRESS", "BYTES", "LANES", "NUMBER", "VECTOR", "WIDTH", "Code", "Stages", "constant", "places"]

WIDTH = 8  # numbers of a vector
BYTES = 4  # of a number
Stages: TypeAlias = tuple[tuple[tuple[float, ...], ...], ...]
"""A matrix as a product of sparse ones, the first to be applied first."""

NUMBER = ir.FloatType()
VECTOR = ir.VectorType(NUMBER, WIDTH)
ADDRESS = ir.IntType(64)
LANES = ir.VectorType(ir.IntType(32), WIDTH)


class Code:
    """Instructions on vectors; with `wide` they are masked: only so many numbers are read and written."""

    def __init__(self, builder: Any, wide: Any = None) -> None:
        self.builder = builder
        self._mask = None
        if wide is not None:
            count = self._repeated(builder.trunc(wide, LANES.element), LANES)
            self._mask = builder.icmp_signed("<", ir.Constant(LANES, list(range(WIDTH))), count)

    def moved(self, address: Any, numbers: Any) -> Any:
        """An address so many numbers on."""
        return self.builder.add(address, self.builder.mul(numbers, places(BYTES)))

    def between(self, place: int, first: Any, end: Any) -> Any:
        """first <= place < end."""
        build = self.builder
        return build.and_(build.icmp_signed("<=", first, places(place)), build.icmp_signed("<", places(place), end))

    def load(self, address: Any) -> Any:
        """A vector."""
        pointer = self.builder.inttoptr(address, VECTOR.as_pointer())
        if self._mask is None:
            loaded = self.builder.load(pointer)
            loaded.align = BYTES
            return loaded
        load = self.known("masked.load", VECTOR, pointer.type, LANES.element, self._mask.type, VECTOR)
        return self.builder.call(load, [pointer, ir.Constant(LANES.element, BYTES), self._mask, constant(0)])

    def store(self, value: Any, address: Any) -> None:
        """A vector."""
        pointer = self.builder.inttoptr(address, VECTOR.as_pointer())
        if self._mask is None:
            self.builder.store(value, pointer).align = BYTES
            return
        store = self.known("masked.store", ir.VoidType(), VECTOR, pointer.type, LANES.element, self._mask.type)
        self.builder.call(store, [value, pointer, ir.Constant(LANES.element, BYTES), self._mask])

    def spread(self, address: Any) -> Any:
        """The number there, in all places of a vector."""
        return self._repeated(self.builder.load(self.builder.inttoptr(address, NUMBER.as_pointer())), VECTOR)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the processor can."""
        return self.builder.call(self.known("fmuladd", VECTOR, VECTOR, VECTOR, VECTOR), [a, b, c])

    def combined(self, stages: Stages, values: Sequence[Any]) -> Sequence[Any]:
        """M v."""
        for stage in stages:
            values = [self._weighted(row, values) for row in stage]
        return values

    def known(self, name: str, result: Any, *arguments: Any) -> Any:
        """An operation of LLVM's own on vectors, by its name, its result and what it takes."""
        pointers = "".join(f".p0v{WIDTH}f32" for argument in arguments if argument.is_pointer)
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.v{WIDTH}f32{pointers}")

    def _weighted(self, weights: Sequence[float], values: Sequence[Any]) -> Any:
        terms = sorted(((w, v) for w, v in zip(weights, values, strict=True) if w), key=lambda term: term[0] != 1)
        (first, total), *others = terms
        total = total if first == 1 else self.builder.fmul(constant(first), total)
        for weight, value in others:
            if abs(weight) == 1:
                total = (self.builder.fadd if weight > 0 else self.builder.fsub)(total, value)
            else:
                total = self.fused(constant(weight), value, total)
        return total

    def _repeated(self, value: Any, kind: Any) -> Any:
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(LANES.element, 0))
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(LANES, [0] * WIDTH))


def places(value: int) -> Any:
    """So many places, rows or bytes: an integer as addresses are."""
    return ir.Constant(ADDRESS, value)


def constant(value: float) -> Any:
    """A vector of one number."""
    return ir.Constant(VECTOR, [float(value)] * WIDTH)
