"""Inner optimizers; a new one is a file here and a row in registry.py."""

from kshot_models.inner.adam import AdamState, adam
from kshot_models.inner.chain import chain
from kshot_models.inner.linear_rule import linear_rule
from kshot_models.inner.lslr import lslr
from kshot_models.inner.lstm import LSTMState, lstm
from kshot_models.inner.meta_learner_lstm import MetaLearnerLSTMState, meta_learner_lstm
from kshot_models.inner.meta_sgd import meta_sgd
from kshot_models.inner.newton_cg import newton_cg
from kshot_models.inner.policy import PolicyState, policy
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
    "LSTMState",
    "MetaLearnerLSTMState",
    "Objective",
    "PolicyState",
    "State",
    "Update",
    "adam",
    "chain",
    "linear_rule",
    "lslr",
    "lstm",
    "meta_learner_lstm",
    "meta_sgd",
    "newton_cg",
    "policy",
    "proximal",
    "sgd",
    "stateless",
]
