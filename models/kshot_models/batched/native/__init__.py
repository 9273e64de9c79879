"""The operations of kshot_models.batched for a CPU, in single precision: compiled by Numba, products by torch."""

from kshot_models.batched.native.convolution import (
    Convolved,
    again,
    convolve,
    convolved,
    gradients,
    input_gradient,
    weight_gradient,
)
from kshot_models.batched.native.normalization import (
    gradient_by_sums,
    gradient_sums,
    normalize,
    normalize_gradient,
    normalize_second_gradient,
)
from kshot_models.batched.native.scaling import scale, scale_gradient

__all__ = [
    "Convolved",
    "again",
    "convolve",
    "convolved",
    "gradient_by_sums",
    "gradient_sums",
    "gradients",
    "input_gradient",
    "normalize",
    "normalize_gradient",
    "normalize_second_gradient",
    "scale",
    "scale_gradient",
    "weight_gradient",
]
