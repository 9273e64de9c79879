"""Classifier heads; a new one is a file here and a row in registry.py."""

from kshot_models.heads.head import Head, Start, linear_logits
from kshot_models.heads.linear import linear
from kshot_models.heads.prototype import prototype, prototypes
from kshot_models.heads.ridge import ridge
from kshot_models.heads.shared import shared

__all__ = ["Head", "Start", "linear", "linear_logits", "prototype", "prototypes", "ridge", "shared"]
