"""Learners; a new one is a file here and a row in registry.py."""

from kshot_models.learners.gradient import GradientLearner
from kshot_models.learners.prototype import PrototypeLearner

__all__ = ["GradientLearner", "PrototypeLearner"]
