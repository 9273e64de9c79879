"""Problems for learned optimizers; a new one is a file here and a row in table.py."""

from kshot_training.problems.base import Problem, ProblemFamily
from kshot_training.problems.images import ImageNetworks
from kshot_training.problems.quadratic import Quadratics

__all__ = ["ImageNetworks", "Problem", "ProblemFamily", "Quadratics"]
