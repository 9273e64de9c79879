"""The columns of a table of blocks: sizes, and addresses. `MORE_` is what comes to a block's tensors besides the
gradient from above, `CHANGE` and `AGAIN` what again.py takes and gives."""

from __future__ import annotations

COUNT = 23
(
    HEIGHT, WIDTH, INSIDE, OUTSIDE,
    FILTERS, GAIN, BIAS,
    RAW, OUT, FOUND,
    OF_FILTERS, SUMS, BELOW, SENT,
    MORE_RAW, MORE_MEAN, MORE_VARIANCE, MORE_OUT,
    CHANGE, CHANGE_SUMS, CHANGE_ABOVE, AGAIN, AGAIN_GAIN,
) = range(COUNT)  # fmt: skip
