"""The columns of a table of blocks: sizes, and addresses. `MORE_` is what comes to a block's tensors besides the
gradient from above."""

from __future__ import annotations

COUNT = 18
(
    HEIGHT, WIDTH, INSIDE, OUTSIDE,
    FILTERS, GAIN, BIAS,
    RAW, OUT, FOUND,
    OF_FILTERS, SUMS, BELOW, SENT,
    MORE_RAW, MORE_MEAN, MORE_VARIANCE, MORE_OUT,
) = range(COUNT)  # fmt: skip
