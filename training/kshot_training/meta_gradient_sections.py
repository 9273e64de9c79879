"""What a recipe may say of its meta-gradient: a section for each type, with the options of its own.

A new meta-gradient is a section here, in the union of `Recipe.meta_gradient`, and a row in build.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kshot_training.sections import Positive, PositiveFloat, Section, Share

__all__ = ["Imaml", "InTurn", "Joint", "Reptile", "ThroughAdaptation"]


class ThroughAdaptation(Section):
    """MAML and all that is trained as it is; see meta_gradients/through_adaptation.py."""

    type: Literal["through_adaptation"]
    order: Literal[1, 2] = 2
    step_weights: tuple[float, ...] | None = None
    multi_step_until: Annotated[int, Field(ge=0)] = 0  # outer steps with a loss after each inner step; schedules.py
    multi_step_epoch: Positive = 1  # outer steps in which its weights stand still
    first_order_until: Annotated[int, Field(ge=0)] = 0  # outer steps before second derivatives are taken
    norm_momentum: Share = (
        0.1  # of norm = "per_step" or "population"; 0: by the moments that init_from brings, as they are
    )
    recompute: Annotated[int, Field(ge=0)] | None = None  # inner steps per segment that is computed again; 0: sqrt
    batching: Literal["loop", "vmap"] = "loop"
    chunk_size: Positive | None = None
    compile: bool = False  # for tiny networks; see meta_gradients/compiled.py

    @model_validator(mode="after")
    def _compiled_together(self) -> ThroughAdaptation:
        if self.compile and self.batching != "vmap":
            raise ValueError("`compile` takes the tasks as one computation: batching = 'vmap'")
        return self

    @model_validator(mode="after")
    def _recomputed_one_by_one(self) -> ThroughAdaptation:
        if self.recompute is not None and (
            self.batching == "vmap" or self.step_weights is not None or self.multi_step_until
        ):
            raise ValueError(
                "`recompute` takes tasks one by one and keeps only the last step: batching = 'loop', no step_weights "
                "and no multi_step_until"
            )
        return self

    @model_validator(mode="after")
    def _one_annealing(self) -> ThroughAdaptation:
        if self.multi_step_until and self.step_weights is not None:
            raise ValueError("step_weights stand still, multi_step_until anneals them: give one of the two")
        if self.first_order_until and self.order == 1:
            raise ValueError("first_order_until is for order = 2; order = 1 never takes second derivatives")
        return self


class InTurn(Section):
    """Each image of a class is the support set in its turn; see meta_gradients/in_turn.py."""

    type: Literal["in_turn"]
    norm_momentum: Share = 0.1  # of norm = "population"; 0 as above
    batching: Literal["loop", "vmap"] = "loop"
    chunk_size: Positive | None = None


class Imaml(Section):
    """The implicit gradient at the minimum of a proximal inner problem; see meta_gradients/imaml.py."""

    type: Literal["imaml"]
    strength: PositiveFloat  # the same as in learner.inner
    cg_steps: Positive = 5
    damping: Annotated[float, Field(ge=0)] = 0.0
    batching: Literal["loop", "vmap"] = "loop"
    chunk_size: Positive | None = None


class Reptile(Section):
    """Moves towards where inner mini-batch steps end; see meta_gradients/reptile.py."""

    type: Literal["reptile"]
    batch: Positive  # examples per inner step
    steps: Positive | None = None  # inner steps in training; None: those of the learner
    direction: Literal["all", "last"] = "all"  # along all inner steps, or the last alone: FOMAML
    tail_shots: Positive | None = None  # of "last": examples per class that only the last step takes
    batching: Literal["loop", "vmap"] = "loop"
    chunk_size: Positive | None = None

    @model_validator(mode="after")
    def _tail_of_the_last_step(self) -> Reptile:
        if self.tail_shots is not None and self.direction != "last":
            raise ValueError("tail_shots are the examples of the last step: set direction = 'last'")
        return self


class Joint(Section):
    """No adaptation while training: the baseline of fine-tuning; see meta_gradients/joint.py."""

    type: Literal["joint"]
    classes: Positive | None = None  # of images: how many there are to train on; one classifier learns them all
    batching: Literal["loop", "vmap"] = "loop"
    chunk_size: Positive | None = None
