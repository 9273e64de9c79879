"""What compilers are not led to by loops, written in LLVM's own language: a tile of a matrix product, and transforms.

Both are straight-line code on vectors (instructions.py). Kernels call them with addresses; distances between rows and
columns are counted in numbers, not in bytes.
"""

# Numba and llvmlite have few types.
# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kshot_models.native.instructions import (
    ADDRESS,
    LANES,
    NUMBER,
    VECTOR,
    WIDTH,
    Code,
    Stages,
    constant,
    places,
)

__all__ = ["at", "copy_vector", "product_tile", "transform", "transposed", "turn_block"]


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
            code = Code(builder, wide if columns == WIDTH else None)
            last = builder.sub(there, places(1))
            row = [builder.select(builder.icmp_signed("<", places(r), last), places(r), last) for r in range(rows)]
            starts = [code.moved(a, builder.mul(at, a_down)) for at in row]
            ends = [code.moved(c, builder.mul(at, c_down)) for at in row]
            sums = [[cgutils.alloca_once(builder, VECTOR) for _ in vectors] for _ in row]
            with builder.if_else(adding) as (more, fresh):
                with more:
                    for end, of_row in zip(ends, sums, strict=True):
                        for v, total in zip(vectors, of_row, strict=True):
                            builder.store(code.load(code.moved(end, places(v))), total)
                with fresh:
                    for total in (total for of_row in sums for total in of_row):
                        builder.store(constant(0), total)
            with cgutils.for_range(builder, inner, intp=ADDRESS) as loop:
                right_row = code.moved(b, builder.mul(loop.index, b_down))
                right = [code.load(code.moved(right_row, places(v))) for v in vectors]
                column = builder.mul(loop.index, a_across)
                for start, of_row in zip(starts, sums, strict=True):
                    left = code.spread(code.moved(start, column))
                    for value, total in zip(right, of_row, strict=True):
                        builder.store(code.fused(left, value, builder.load(total)), total)
            for end, of_row in zip(ends, sums, strict=True):
                for v, total in zip(vectors, of_row, strict=True):
                    code.store(builder.load(total), code.moved(end, places(v)))
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
            code = Code(builder)
            nothing = builder.ptrtoint(cgutils.alloca_once_value(builder, constant(0)), ADDRESS)
            nowhere = builder.ptrtoint(cgutils.alloca_once(builder, VECTOR), ADDRESS)
            rows = [code.between(at, top, bottom) for at in range(max(wide, tall))]
            columns = [code.between(at, left, right) for at in range(max(wide, tall))]

            def place(start, down, across, row, column):
                return code.moved(
                    start, builder.add(builder.mul(places(row), down), builder.mul(places(column), across))
                )

            def inside(row, column, address, other):
                return builder.select(builder.and_(rows[row], columns[column]), address, other)

            with cgutils.for_range_slice(builder, places(0), channels, places(WIDTH), intp=ADDRESS) as (channel, _):
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
        return builder.inttoptr(arguments[0], NUMBER.as_pointer())

    return types.CPointer(types.float32)(types.intp), generate


@intrinsic
def _copy_vector(context, source, into):
    del context, source, into

    def generate(context, builder, signature, arguments):
        del signature
        source, into = arguments
        code = Code(builder)
        code.store(code.load(source), into)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def _turn_block(context, source, source_down, into, into_down):
    del context, source, source_down, into, into_down

    def generate(context, builder, signature, arguments):
        del signature
        source, source_down, into, into_down = arguments
        code = Code(builder)
        rows = [code.load(code.moved(source, builder.mul(places(r), source_down))) for r in range(WIDTH)]
        step = 1
        while step < WIDTH:  # change places between rows that lie a step apart, in blocks of such a size
            upper = [lane if not lane & step else WIDTH + lane - step for lane in range(WIDTH)]
            lower = [lane + step if not lane & step else WIDTH + lane for lane in range(WIDTH)]
            for r in (r for r in range(WIDTH) if not r & step):
                one, other = rows[r], rows[r + step]
                rows[r] = builder.shuffle_vector(one, other, ir.Constant(LANES, upper))
                rows[r + step] = builder.shuffle_vector(one, other, ir.Constant(LANES, lower))
            step *= 2
        for r, row in enumerate(rows):
            code.store(row, code.moved(into, builder.mul(places(r), into_down)))
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
