"""Problems for learned optimizers; a new one is a file here and a row in table.py."""

from kshot_training.problems.base import Family, Optimizee, Problem, ProblemFamily
from kshot_training.problems.gaussians import ClusterNetworks, LogisticRegressions
from kshot_training.problems.images import ImageNetworks
from kshot_training.problems.quadratic import Quadratics
from kshot_training.problems.table import PROBLEMS, Surroundings, build_problems

__all__ = [
    "PROBLEMS",
    "ClusterNetworks",
    "Family",
    "ImageNetworks",
    "LogisticRegressions",
    "Optimizee",
    "Problem",
    "ProblemFamily",
    "Quadratics",
    "Surroundings",
    "build_problems",
]
