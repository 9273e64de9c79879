"""Learners; a new one is a file here and a row in registry.py."""

from kshot_models.learners.closed_form import ClosedFormLearner
from kshot_models.learners.context import ContextLearner
from kshot_models.learners.frozen import FrozenLearner
from kshot_models.learners.gradient import GradientLearner

__all__ = ["ClosedFormLearner", "ContextLearner", "FrozenLearner", "GradientLearner"]
