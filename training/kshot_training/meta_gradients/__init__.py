"""Meta-gradients. A new one is a file here, a section in ../meta_gradient_sections.py and a row in ../build.py."""

from kshot_training.meta_gradients.base import MetaGradient, Metrics
from kshot_training.meta_gradients.compiled import compiled
from kshot_training.meta_gradients.imaml import imaml
from kshot_training.meta_gradients.in_turn import in_turn
from kshot_training.meta_gradients.joint import joint
from kshot_training.meta_gradients.reptile import reptile
from kshot_training.meta_gradients.through_adaptation import query_loss, through_adaptation

__all__ = [
    "MetaGradient",
    "Metrics",
    "compiled",
    "imaml",
    "in_turn",
    "joint",
    "query_loss",
    "reptile",
    "through_adaptation",
]
