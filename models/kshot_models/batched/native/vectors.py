"""What compilers are not led to by loops, written in LLVM's own language: a tile of a matrix product, and transforms.

Both are straight-line code on vectors of eight numbers, which a processor with shorter ones takes in pieces. Kernels
call them with addresses; distances between rows and columns are counted in numbers, not in bytes.
"""

# Numba and llvmlite have few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["WIDTH", "Stages", "at", "copy_vector", "product_tile", "transform", "transposed", "turn_block"]

WIDTH = 8  # numbers of a vector
Stages: TypeAlias = tuple[tuple[tuple[float, ...], ...], ...]
"""A matrix as a product of sparse ones, the first to be applied first."""

_NUMBER = ir.FloatType()
_VECTOR = ir.VectorType(_NUMBER, WIDTH)
_ADDRESS = ir.IntType(64)
_LANES = ir.VectorType(ir.IntType(32), WIDTH)
_BYTES = 4


def product_tile(rows: int, columns: int) -> Callable[..., None]:
    """A function that computes a tile of a product, `rows` by `columns`, in registers.

        c[r, j] = (c[r, j] if adding else 0) + sum over i < inner of a[r, i] b[i, j]

    Of more rows than there are, the last is computed several times over. If `columns` is WIDTH there may be fewer, and
    what lies beside them is neither read nor written.

    Args:
        rows: of the tile.
        columns: a multiple of WIDTH.

    Returns:
        (a, a_down, a_across, b, b_down, c, c_down, inner, rows there are, columns there are, adding) -> None
    """
    vectors = range(0, columns, WIDTH)

    @intrinsic
    def tile(context, a, a_down, a_across, b, b_down, c, c_down, inner, there, wide, adding):
        del context, a, a_down, a_across, b, b_down, c, c_down, inner, there, wide, adding

        def generate(context, builder, signature, arguments):
            del signature
            a, a_down, a_across, b, b_down, c, c_down, inner, there, wide, adding = arguments
            code = _Code(builder, wide if columns == WIDTH else None)
            last = builder.sub(there, _count(1))
            row = [builder.select(builder.icmp_signed("<", _count(r), last), _count(r), last) for r in range(rows)]
            starts = [code.moved(a, builder.mul(at, a_down)) for at in row]
            ends = [code.moved(c, builder.mul(at, c_down)) for at in row]
            sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in vectors] for _ in row]
            with builder.if_else(adding) as (more, fresh):
                with more:
                    for end, of_row in zip(ends, sums, strict=True):
                        for v, total in zip(vectors, of_row, strict=True):
                            builder.store(code.load(code.moved(end, _count(v))), total)
                with fresh:
                    for total in (total for of_row in sums for total in of_row):
                        builder.store(_all(0), total)
            with cgutils.for_range(builder, inner, intp=_ADDRESS) as loop:
                right_row = code.moved(b, builder.mul(loop.index, b_down))
                right = [code.load(code.moved(right_row, _count(v))) for v in vectors]
                column = builder.mul(loop.index, a_across)
                for start, of_row in zip(starts, sums, strict=True):
                    left = code.spread(code.moved(start, column))
                    for value, total in zip(right, of_row, strict=True):
                        builder.store(code.fused(left, value, builder.load(total)), total)
            for end, of_row in zip(ends, sums, strict=True):
                for v, total in zip(vectors, of_row, strict=True):
                    code.store(builder.load(total), code.moved(end, _count(v)))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10, types.boolean), generate

    made: Callable[..., None] = tile
    return made


def transform(
    stages: Stages, *, reads_over: bool = False, writes_over: bool = False, adding: bool = False
) -> Callable[..., None]:
    """A function that computes Y = M X M' for a matrix M of constants, in each channel.

    X and Y lie in memory as rows of positions, and the channels of a position next to each other.

    Args:
        stages: M.
        reads_over: X may reach over an image's border: positions outside are 0.
        writes_over: Y may: positions outside are not written.
        adding: Y is added to what is there.

    Returns:
        (x, x_down, x_across, y, y_down, y_across, top, bottom, left, right, channels) -> None; of the side that may
        reach over the border, rows from `top` to before `bottom` are inside, and columns alike. Channels are a
        multiple of WIDTH.
    """
    wide, tall = len(stages[0][0]), len(stages[-1])

    @intrinsic
    def transformed(context, x, x_down, x_across, y, y_down, y_across, top, bottom, left, right, channels):
        del context, x, x_down, x_across, y, y_down, y_across, top, bottom, left, right, channels

        def generate(context, builder, signature, arguments):
            del signature
            x, x_down, x_across, y, y_down, y_across, top, bottom, left, right, channels = arguments
            code = _Code(builder)
            nothing = builder.ptrtoint(cgutils.alloca_once_value(builder, _all(0)), _ADDRESS)
            nowhere = builder.ptrtoint(cgutils.alloca_once(builder, _VECTOR), _ADDRESS)
            rows = [code.between(at, top, bottom) for at in range(max(wide, tall))]
            columns = [code.between(at, left, right) for at in range(max(wide, tall))]

            def place(start, down, across, row, column):
                return code.moved(
                    start, builder.add(builder.mul(_count(row), down), builder.mul(_count(column), across))
                )

            def inside(row, column, address, other):
                return builder.select(builder.and_(rows[row], columns[column]), address, other)

            with cgutils.for_range_slice(builder, _count(0), channels, _count(WIDTH), intp=_ADDRESS) as (channel, _):
                half = []
                for column in range(wide):
                    values = []
                    for row in range(wide):
                        at = code.moved(place(x, x_down, x_across, row, column), channel)
                        values.append(code.load(inside(row, column, at, nothing) if reads_over else at))
                    half.append(code.combined(stages, values))
                for row in range(tall):
                    for column, value in enumerate(code.combined(stages, [part[row] for part in half])):
                        at = code.moved(place(y, y_down, y_across, row, column), channel)
                        into = inside(row, column, at, nowhere) if writes_over else at
                        code.store(builder.fadd(code.load(into), value) if adding else value, into)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 11), generate

    made: Callable[..., None] = transformed
    return made


@intrinsic
def _at(context, address):
    del context, address

    def generate(context, builder, signature, arguments):
        del context, signature
        return builder.inttoptr(arguments[0], _NUMBER.as_pointer())

    return types.CPointer(types.float32)(types.intp), generate


@intrinsic
def _copy_vector(context, source, into):
    del context, source, into

    def generate(context, builder, signature, arguments):
        del signature
        source, into = arguments
        code = _Code(builder)
        code.store(code.load(source), into)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def _turn_block(context, source, source_down, into, into_down):
    del context, source, source_down, into, into_down

    def generate(context, builder, signature, arguments):
        del signature
        source, source_down, into, into_down = arguments
        code = _Code(builder)
        rows = [code.load(code.moved(source, builder.mul(_count(r), source_down))) for r in range(WIDTH)]
        step = 1
        while step < WIDTH:  # change places between rows that lie a step apart, in blocks of such a size
            upper = [lane if not lane & step else WIDTH + lane - step for lane in range(WIDTH)]
            lower = [lane + step if not lane & step else WIDTH + lane for lane in range(WIDTH)]
            for r in (r for r in range(WIDTH) if not r & step):
                one, other = rows[r], rows[r + step]
                rows[r] = builder.shuffle_vector(one, other, ir.Constant(_LANES, upper))
                rows[r + step] = builder.shuffle_vector(one, other, ir.Constant(_LANES, lower))
            step *= 2
        for r, row in enumerate(rows):
            code.store(row, code.moved(into, builder.mul(_count(r), into_down)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


# The compiler gives them their first argument; callers do not.
at = cast("Callable[[int], Any]", _at)
"""(address) -> a pointer to numbers of single precision."""

copy_vector = cast("Callable[[int, int], None]", _copy_vector)
"""(source, into): copy the vector at one address to another."""

turn_block = cast("Callable[[int, int, int, int], None]", _turn_block)
"""(source, source_down, into, into_down): write the transpose of a block of WIDTH by WIDTH numbers."""


def transposed(stages: Stages) -> Stages:
    """M'."""
    return tuple(tuple(zip(*stage, strict=True)) for stage in reversed(stages))


class _Code:
    """Instructions on vectors; with `wide` they are masked: only so many numbers are read and written."""

    def __init__(self, builder: Any, wide: Any = None) -> None:
        self._builder = builder
        self._mask = None
        if wide is not None:
            count = self._repeated(builder.trunc(wide, _LANES.element), _LANES)
            self._mask = builder.icmp_signed("<", ir.Constant(_LANES, list(range(WIDTH))), count)

    def moved(self, address: Any, numbers: Any) -> Any:
        """An address so many numbers on."""
        return self._builder.add(address, self._builder.mul(numbers, _count(_BYTES)))

    def between(self, place: int, first: Any, end: Any) -> Any:
        """first <= place < end."""
        build = self._builder
        return build.and_(build.icmp_signed("<=", first, _count(place)), build.icmp_signed("<", _count(place), end))

    def load(self, address: Any) -> Any:
        """A vector."""
        pointer = self._builder.inttoptr(address, _VECTOR.as_pointer())
        if self._mask is None:
            loaded = self._builder.load(pointer)
            loaded.align = _BYTES
            return loaded
        load = self._known("masked.load", _VECTOR, pointer.type, _LANES.element, self._mask.type, _VECTOR)
        return self._builder.call(load, [pointer, ir.Constant(_LANES.element, _BYTES), self._mask, _all(0)])

    def store(self, value: Any, address: Any) -> None:
        """A vector."""
        pointer = self._builder.inttoptr(address, _VECTOR.as_pointer())
        if self._mask is None:
            self._builder.store(value, pointer).align = _BYTES
            return
        store = self._known("masked.store", ir.VoidType(), _VECTOR, pointer.type, _LANES.element, self._mask.type)
        self._builder.call(store, [value, pointer, ir.Constant(_LANES.element, _BYTES), self._mask])

    def spread(self, address: Any) -> Any:
        """The number there, in all places of a vector."""
        return self._repeated(self._builder.load(self._builder.inttoptr(address, _NUMBER.as_pointer())), _VECTOR)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the processor can."""
        return self._builder.call(self._known("fmuladd", _VECTOR, _VECTOR, _VECTOR, _VECTOR), [a, b, c])

    def combined(self, stages: Stages, values: Sequence[Any]) -> Sequence[Any]:
        """M v."""
        for stage in stages:
            values = [self._weighted(row, values) for row in stage]
        return values

    def _weighted(self, weights: Sequence[float], values: Sequence[Any]) -> Any:
        terms = sorted(((w, v) for w, v in zip(weights, values, strict=True) if w), key=lambda term: term[0] != 1)
        (first, total), *others = terms
        total = total if first == 1 else self._builder.fmul(_all(first), total)
        for weight, value in others:
            if abs(weight) == 1:
                total = (self._builder.fadd if weight > 0 else self._builder.fsub)(total, value)
            else:
                total = self.fused(_all(weight), value, total)
        return total

    def _repeated(self, value: Any, kind: Any) -> Any:
        one = self._builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_LANES.element, 0))
        return self._builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_LANES, [0] * WIDTH))

    def _known(self, name: str, result: Any, *arguments: Any) -> Any:
        pointers = "".join(f".p0v{WIDTH}f32" for argument in arguments if argument.is_pointer)
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.{name}.v{WIDTH}f32{pointers}")


def _count(value: int) -> Any:
    return ir.Constant(_ADDRESS, value)


def _all(value: float) -> Any:
    return ir.Constant(_VECTOR, [float(value)] * WIDTH)
