"""Operations with an axis of tasks, each task with weights of its own: what networks run on."""

from kshot_models.batched.backend import everywhere, suits, tf32_products
from kshot_models.batched.convolution import convolve
from kshot_models.batched.folding import applied
from kshot_models.batched.normalization import Features, Pooling, normalize_activate, through_moments
from kshot_models.batched.scaling import scale_activate

__all__ = [
    "Features",
    "Pooling",
    "applied",
    "convolve",
    "everywhere",
    "normalize_activate",
    "scale_activate",
    "suits",
    "tf32_products",
    "through_moments",
]
