"""The operations of kshot_models.batched for a CPU, in single precision: tensors, to the kernels of ../../native."""

from kshot_models.batched.native import blocks, unrolled
from kshot_models.batched.native.adam import adam_step
from kshot_models.batched.native.convolution import convolve, gradients, input_gradient, weight_gradient
from kshot_models.batched.native.head import linear_cross_entropy
from kshot_models.batched.native.lstm import lstm_step, lstm_step_gradient
from kshot_models.batched.native.normalization import normalize, normalize_gradient, normalize_second_gradient
from kshot_models.batched.native.scaling import scale, scale_gradient

__all__ = [
    "adam_step",
    "blocks",
    "convolve",
    "gradients",
    "input_gradient",
    "linear_cross_entropy",
    "lstm_step",
    "lstm_step_gradient",
    "normalize",
    "normalize_gradient",
    "normalize_second_gradient",
    "scale",
    "scale_gradient",
    "unrolled",
    "weight_gradient",
]
