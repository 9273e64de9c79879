"""Products of matrices that are small enough for a processor's caches, as parts of kernels."""

# Numba's functions of addresses: all are integers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from kshot_models.native.instructions import WIDTH
from kshot_models.native.jit import Array2, inlined
from kshot_models.native.vectors import product_tile, turn_block

__all__ = ["multiply", "turned"]

_WIDE = 2 * WIDTH
_INNER = 128  # terms of a sum at once: so much of both factors stays in the first cache
_BYTES = 4

# Twelve vectors of sums, two of the right factor and one of the left: as many registers as there are.
_six, _four, _narrow = product_tile(6, _WIDE), product_tile(4, _WIDE), product_tile(6, WIDTH)


@inlined
def multiply(a, a_down, a_across, b, b_down, c, c_down, rows, inner, columns, adding) -> None:
    """c = a b, or c + a b if adding: addresses, and the distances between rows and, in a, between columns."""
    for first in range(0, inner, _INNER):
        count = min(_INNER, inner - first)
        for column in range(0, columns, _WIDE):
            wide = min(_WIDE, columns - column)
            right = b + _BYTES * (first * b_down + column)
            row = 0
            while row < rows:
                there = rows - row
                left, into = a + _BYTES * (first * a_across + row * a_down), c + _BYTES * (row * c_down + column)
                if wide == _WIDE and (there <= 4 or 7 <= there <= 8):  # fours leave least over
                    _four(left, a_down, a_across, right, b_down, into, c_down, count, min(there, 4), wide, adding)
                    row += 4
                elif wide == _WIDE:
                    _six(left, a_down, a_across, right, b_down, into, c_down, count, min(there, 6), wide, adding)
                    row += 6
                else:
                    for more in range(0, wide, WIDTH):
                        at, end, some = right + _BYTES * more, into + _BYTES * more, min(wide - more, WIDTH)
                        _narrow(left, a_down, a_across, at, b_down, end, c_down, count, min(there, 6), some, adding)
                    row += 6
        adding = True


@inlined
def turned(matrix: Array2, out: Array2) -> None:
    """The transpose."""
    rows, columns = matrix.shape
    whole_rows, whole_columns = rows // WIDTH * WIDTH, columns // WIDTH * WIDTH
    for column in range(0, whole_columns, WIDTH):
        for row in range(0, whole_rows, WIDTH):
            source = matrix.ctypes.data + _BYTES * (row * columns + column)
            turn_block(source, columns, out.ctypes.data + _BYTES * (column * rows + row), rows)
    for row in range(rows):
        for column in range(whole_columns if row < whole_rows else 0, columns):
            out[column, row] = matrix[row, column]
