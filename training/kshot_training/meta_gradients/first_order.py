"""The first-order form of a learner: its inner gradients count as constants."""

from __future__ import annotations

import dataclasses

from kshot_models.learners import GradientLearner
from kshot_models.types import Learner

__all__ = ["first_order_form"]


def first_order_form(learner: Learner) -> Learner:
    """The same learner without derivatives of inner gradients; one without inner gradients is returned as it is."""
    return dataclasses.replace(learner, first_order=True) if isinstance(learner, GradientLearner) else learner
