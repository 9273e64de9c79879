"""The operations of kshot_models.batched as Triton kernels, in single precision; products as torch's settings say."""

from kshot_models.batched.kernels.convolution import convolve, input_gradient, weight_gradient
from kshot_models.batched.kernels.normalization import normalize, normalize_gradient, normalize_second_gradient
from kshot_models.batched.kernels.scaling import scale, scale_gradient

__all__ = [
    "convolve",
    "input_gradient",
    "normalize",
    "normalize_gradient",
    "normalize_second_gradient",
    "scale",
    "scale_gradient",
    "weight_gradient",
]
