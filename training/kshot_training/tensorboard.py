"""TensorBoard event files beside the checkpoints; `tensorboard --logdir OUT` shows them."""

from __future__ import annotations

import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from kshot_training.outer_loop import StepMetrics

__all__ = ["TensorBoard"]

_EVERY = 10  # outer steps: a curve needs no more, and of a step that takes a millisecond writing it is a good part


class TensorBoard:
    """Writes training and validation scalars by outer step."""

    def __init__(self, folder: Path, *, step: int) -> None:
        # purge_step hides what a killed run wrote after the checkpoint that this one resumes from.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def step(self, metrics: StepMetrics) -> None:
        """Write one outer step, of every ten."""
        if metrics.step % _EVERY:
            return
        values = metrics._asdict()
        step, diagnostics = values.pop("step"), values.pop("diagnostics")
        for name, value in {**values, **diagnostics}.items():
            if not math.isnan(value):
                self._writer.add_scalar(f"train/{name}", value, step)

    def validation(self, step: int, accuracies: dict[str, float]) -> None:
        """Write validation accuracies by setting."""
        for name, value in accuracies.items():
            self._writer.add_scalar(f"validation/{name}", value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
