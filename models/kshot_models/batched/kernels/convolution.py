"""Convolutions of many tasks as products of matrices that are never written out.

    convolve          rows: positions of the output      inner: (place in the filter, inside)     columns: outside
    input_gradient    rows: positions of the input       inner: (place in the filter, outside)    columns: inside
    weight_gradient   rows: (place in the filter, inside)  inner: positions of the output         columns: outside

A tile of the left matrix is gathered from the features as it is needed. Sums run in one order, so the same input gives
the same bits. Filters may be the same memory for all tasks (a stride of 0 between them).
"""

# A kernel's arguments are pointers, sizes and compile-time constants, which have no Python types; names as in the
# field: m, k, n for rows, inner and columns. mypy does not read kernels.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kshot_models.batched.kernels.tuning import tuned

__all__ = ["convolve", "input_gradient", "weight_gradient"]

_ROWS, _INNER = 64, 32
_SIZES = ("n", "height", "width", "out_height", "out_width", "parts", "length")  # change too often to compile for
_PROGRAMS = (
    512  # about as many as keep a large GPU busy; a sum over positions is cut into parts until there are so many
)

# What may be faster for one size and slower for another; the first is taken where nothing is measured.
_PRODUCTS = (
    triton.Config({"INNER": 32}, num_warps=4, num_stages=3),
    triton.Config({"INNER": 64}, num_warps=4, num_stages=3),
    triton.Config({"INNER": 32}, num_warps=4, num_stages=5),
)
_GRADIENTS = (
    triton.Config({"INNER": 32, "HALVES": 0}, num_warps=4, num_stages=3),
    triton.Config({"INNER": 32, "HALVES": 1}, num_warps=4, num_stages=3),
    triton.Config({"INNER": 64, "HALVES": 1}, num_warps=4, num_stages=3),
    triton.Config({"INNER": 32, "HALVES": 1}, num_warps=4, num_stages=5),
)


def convolve(inputs: Tensor, filters: Tensor, stride: int, precision: str) -> Tensor:
    """See ../convolution.py."""
    inputs, filters = _dense(inputs), _dense(filters)
    tasks, n, height, width, inside = inputs.shape
    outside = filters.shape[1]
    out = inputs.new_empty(tasks, n, -(-height // stride), -(-width // stride), outside)
    columns = _columns(outside)
    grid = (triton.cdiv(out[0, ..., 0].numel(), _ROWS), triton.cdiv(outside, columns), tasks)
    _convolve[grid](
        inputs, filters, out, n, height, width, *out.shape[2:4], **_constants(inputs, filters, inside, outside),
        STRIDE=stride, COLUMNS=columns, ROWS=_ROWS, PRECISION=precision,
    )  # fmt: skip
    return out


def input_gradient(grad: Tensor, filters: Tensor, height: int, width: int, stride: int, precision: str) -> Tensor:
    """See ../convolution.py."""
    grad, filters = _dense(grad), _turned(filters, grad.shape[-1])
    tasks, n, out_height, out_width, outside = grad.shape
    inside = filters.shape[1]
    found = grad.new_empty(tasks, n, height, width, inside)
    columns = _columns(inside)
    rows = n * triton.cdiv(height, stride) * triton.cdiv(width, stride)  # of the largest class of positions
    grid = (triton.cdiv(rows, _ROWS), triton.cdiv(inside, columns), tasks * stride**2)
    _input_gradient[grid](
        grad, filters, found, n, height, width, out_height, out_width, **_constants(grad, filters, inside, outside),
        STRIDE=stride, COLUMNS=columns, ROWS=_ROWS, PRECISION=precision,
    )  # fmt: skip
    return found


def weight_gradient(inputs: Tensor, grad: Tensor, stride: int, precision: str) -> Tensor:
    """See ../convolution.py."""
    inputs, grad = _dense(inputs), _dense(grad)
    tasks, n, height, width, inside = inputs.shape
    outside = grad.shape[-1]
    rows, columns = min(_ROWS, max(16, triton.next_power_of_2(9 * inside))), _columns(outside)
    blocks = triton.cdiv(9 * inside, rows) * triton.cdiv(outside, columns)
    positions = grad[0, ..., 0].numel()
    parts = max(1, min(_PROGRAMS // (blocks * tasks), triton.cdiv(positions, 4 * _INNER)))
    length = triton.cdiv(triton.cdiv(positions, parts), 2 * _INNER) * 2 * _INNER
    parts = triton.cdiv(positions, length)
    found = grad.new_empty(tasks, parts, outside, 9 * inside)
    grid = (triton.cdiv(9 * inside, rows), triton.cdiv(outside, columns), tasks * parts)
    _weight_gradient[grid](
        inputs, grad, found, n, height, width, *grad.shape[2:4], parts, length,
        **_constants(inputs, grad, inside, outside), STRIDE=stride, COLUMNS=columns, ROWS=rows, PRECISION=precision,
    )  # fmt: skip
    return found[:, 0] if parts == 1 else found.sum(1)


def _turned(filters: Tensor, outside: int) -> Tensor:
    """Filters (tasks, outside, 9 * inside) as (tasks, inside, 9 * outside): what a product sums over lies together."""
    shared = filters.stride(0) == 0
    own = filters[:1] if shared else filters.contiguous()
    turned = own.view(len(own), outside, 9, -1).permute(0, 3, 2, 1).reshape(len(own), -1, 9 * outside)
    return turned.expand(len(filters), -1, -1) if shared else turned


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernels read it: contiguous, or contiguous memory that all tasks share."""
    shared = tensor.stride(0) == 0 and tensor[0].is_contiguous()
    return tensor if shared else tensor.contiguous()


def _constants(left: Tensor, right: Tensor, inside: int, outside: int) -> dict[str, int]:
    """What a kernel is compiled for, beside its stride and tile; sizes of images and batches are not among it."""
    return {
        "LEFT_OWN": int(left.stride(0) > 0),
        "RIGHT_OWN": int(right.stride(0) > 0),
        "INSIDE": inside,
        "OUTSIDE": outside,
    }


def _columns(channels: int) -> int:
    return min(64, max(16, int(triton.next_power_of_2(channels))))


@tuned(*_PRODUCTS)
@triton.jit(do_not_specialize=_SIZES)
def _convolve(
    x, w, out, n, height, width, out_height, out_width,
    LEFT_OWN: tl.constexpr, RIGHT_OWN: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    task = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    positions = n * out_height * out_width
    image, place = m // (out_height * out_width), m % (out_height * out_width)
    top, left = place // out_width * STRIDE - 1, place % out_width * STRIDE - 1
    x += task * n * height * width * INSIDE * LEFT_OWN
    w += task * 9 * INSIDE * OUTSIDE * RIGHT_OWN
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, 9 * INSIDE, INNER):
        k = start + tl.arange(0, INNER)
        tap, c = k // INSIDE, k % INSIDE
        y, z = top[:, None] + (tap // 3)[None, :], left[:, None] + (tap % 3)[None, :]
        there = (y >= 0) & (y < height) & (z >= 0) & (z < width)
        there = there & (m < positions)[:, None] & (k < 9 * INSIDE)[None, :]
        a = tl.load(x + ((image[:, None] * height + y) * width + z) * INSIDE + c[None, :], mask=there, other=0.0)
        b = tl.load(
            w + o[None, :] * (9 * INSIDE) + k[:, None],
            mask=(k < 9 * INSIDE)[:, None] & (o < OUTSIDE)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    out += task * positions * OUTSIDE
    tl.store(out + m[:, None] * OUTSIDE + o[None, :], total, mask=(m < positions)[:, None] & (o < OUTSIDE)[None, :])


@tuned(*_PRODUCTS)
@triton.jit(do_not_specialize=_SIZES)
def _input_gradient(
    g, w, out, n, height, width, out_height, out_width,
    LEFT_OWN: tl.constexpr, RIGHT_OWN: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Positions of one remainder by the stride meet the same places of a filter, and no others.
    task, remainder = (tl.program_id(2) // (STRIDE * STRIDE)).to(tl.int64), tl.program_id(2) % (STRIDE * STRIDE)
    below, beside = remainder // STRIDE, remainder % STRIDE
    if STRIDE == 1:
        down, across = 3, 3
    else:
        down, across = 1 + below, 1 + beside
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    high, wide = (height - below + STRIDE - 1) // STRIDE, (width - beside + STRIDE - 1) // STRIDE
    around, across_image = tl.maximum(high * wide, 1), tl.maximum(wide, 1)  # a class may be empty
    image, place = m // around, m % around
    bottom, right = place // across_image * STRIDE + below, place % across_image * STRIDE + beside
    here = m < n * high * wide
    g += task * n * out_height * out_width * OUTSIDE * LEFT_OWN
    w += task * 9 * INSIDE * OUTSIDE * RIGHT_OWN
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, down * across * OUTSIDE, INNER):
        k = start + tl.arange(0, INNER)
        tap, o = k // OUTSIDE, k % OUTSIDE
        if STRIDE == 1:
            row, column = tap // across, tap % across
        else:
            row, column = 1 - below + 2 * (tap // across), 1 - beside + 2 * (tap % across)
        inner = k < down * across * OUTSIDE
        y, z = (bottom[:, None] + 1 - row[None, :]) // STRIDE, (right[:, None] + 1 - column[None, :]) // STRIDE
        there = (bottom[:, None] + 1 >= row[None, :]) & (right[:, None] + 1 >= column[None, :])
        there = there & (y < out_height) & (z < out_width) & here[:, None] & inner[None, :]
        a = tl.load(
            g + ((image[:, None] * out_height + y) * out_width + z) * OUTSIDE + o[None, :], mask=there, other=0.0
        )
        b = tl.load(
            w + c[None, :] * (9 * OUTSIDE) + ((row * 3 + column) * OUTSIDE + o)[:, None],
            mask=inner[:, None] & (c < INSIDE)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
    out += task * n * height * width * INSIDE
    position = (image * height + bottom) * width + right
    tl.store(out + position[:, None] * INSIDE + c[None, :], total, mask=here[:, None] & (c < INSIDE)[None, :])


@tuned(*_GRADIENTS)
@triton.jit(do_not_specialize=_SIZES)
def _weight_gradient(
    x, g, out, n, height, width, out_height, out_width, parts, length,
    LEFT_OWN: tl.constexpr, RIGHT_OWN: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
    HALVES: tl.constexpr,
):  # fmt: skip
    task, part = (tl.program_id(2) // parts).to(tl.int64), tl.program_id(2) % parts
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tap, c = k // INSIDE, k % INSIDE
    positions = n * out_height * out_width
    x += task * n * height * width * INSIDE * LEFT_OWN
    g += task * n * out_height * out_width * OUTSIDE * RIGHT_OWN
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(part * length, min((part + 1) * length, positions), INNER):
        m = start + tl.arange(0, INNER)
        image, place = m // (out_height * out_width), m % (out_height * out_width)
        y = (place // out_width * STRIDE - 1)[None, :] + (tap // 3)[:, None]
        z = (place % out_width * STRIDE - 1)[None, :] + (tap % 3)[:, None]
        there = (y >= 0) & (y < height) & (z >= 0) & (z < width)
        there = there & (m < positions)[None, :] & (k < 9 * INSIDE)[:, None]
        a = tl.load(x + ((image[None, :] * height + y) * width + z) * INSIDE + c[:, None], mask=there, other=0.0)
        b = tl.load(
            g + m[:, None] * OUTSIDE + o[None, :], mask=(m < positions)[:, None] & (o < OUTSIDE)[None, :], other=0.0
        )
        if HALVES and PRECISION == "tf32":
            # Both tiles lie across what is summed over, which products of TF32 cannot read; halves of 16 bits can be.
            high_a, high_b = a.to(tl.bfloat16), b.to(tl.bfloat16)
            low_a, low_b = (a - high_a.to(tl.float32)).to(tl.bfloat16), (b - high_b.to(tl.float32)).to(tl.bfloat16)
            total = tl.dot(low_a, high_b, total)
            total = tl.dot(high_a, low_b, total)
            total = tl.dot(high_a, high_b, total)
        else:
            total = tl.dot(a, b, total, input_precision=PRECISION)
    out += (task * parts + part) * OUTSIDE * 9 * INSIDE
    tl.store(
        out + o[None, :] * (9 * INSIDE) + k[:, None],
        total,
        mask=(k < 9 * INSIDE)[:, None] & (o < OUTSIDE)[None, :],
    )
