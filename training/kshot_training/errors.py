"""What can go wrong in training, one class per way.

    TrainingError
    ├── RecipeError             the recipe, or an override of it, does not say something valid
    ├── CheckpointError         a checkpoint is missing, broken, or belongs to another recipe
    ├── WarmStartError          `init_from` names meta-parameters that do not fit the learner
    ├── NonFiniteError          loss, gradient or meta-parameter became NaN or infinite
    ├── RankLostError           a process of a data-parallel job is gone, or there are too many
    ├── EpisodeError            an evaluation asked for episodes that the data cannot give
    ├── EncoderSettingsError    what was said of an encoder does not fit it
    ├── OnnxNotSupported        a learner or an operation of it has no ONNX graph
    └── DataError               see kshot_training/data/errors.py

Errors of artifacts live in `kshot_models.errors`.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "EncoderSettingsError",
    "EpisodeError",
    "NonFiniteError",
    "RankLostError",
    "RecipeError",
    "TrainingError",
    "WarmStartError",
]


class TrainingError(Exception):
    """Any error that kshot_training raises on purpose; the command prints its message without a traceback."""


class RecipeError(TrainingError):
    """A recipe or an override of it is not valid."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read, or is of another recipe."""


class WarmStartError(TrainingError):
    """The artifact named by `init_from` does not fit the learner of the recipe."""


class RankLostError(TrainingError):
    """A data-parallel job cannot go on: one of its processes is gone, or there are more processes than tasks."""


class EpisodeError(TrainingError):
    """The episodes asked for do not fit the learner or the data."""


class EncoderSettingsError(TrainingError):
    """An artifact of an encoder was asked for in a way that does not fit it, or that no manifest can say."""


class OnnxNotSupported(TrainingError):  # noqa: N818 - reads as the state it names, like the tree of kshot_models
    """The learner, or an operation of it, cannot be written as an ONNX graph."""


class NonFiniteError(TrainingError):
    """Training met a NaN or an infinity.

    Args:
        step: The outer step, counted from 0, at which it appeared.
        cause: What was not finite: the loss, or the names of the gradients or meta-parameters.
    """

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(
            f"outer step {step}: {cause}. The last checkpoint is from before. "
            "Lower outer.learning_rate or the inner learning rate, or clip with outer.clip_norm"
        )
        self.step = step
        self.cause = cause
