"""Inner optimizers; a new one is a file here and a row in registry.py."""

from kshot_models.inner.adam import AdamState, adam
from kshot_models.inner.chain import chain
from kshot_models.inner.lslr import lslr
from kshot_models.inner.meta_sgd import meta_sgd
from kshot_models.inner.newton_cg import newton_cg
from kshot_models.inner.proximal import proximal
from kshot_models.inner.sgd import sgd
from kshot_models.inner.transformation import (
    GradientTransformation,
    InnerOptimizer,
    Objective,
    State,
    Update,
    stateless,
)

__all__ = [
    "AdamState",
    "GradientTransformation",
    "InnerOptimizer",
    "Objective",
    "State",
    "Update",
    "adam",
    "chain",
    "lslr",
    "meta_sgd",
    "newton_cg",
    "proximal",
    "sgd",
    "stateless",
]
