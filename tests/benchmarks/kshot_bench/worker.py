"""A process that does jobs for a benchmark: `python -m kshot_bench.worker THREADS`. It ends when its input does."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from typing import TextIO

import torch

from kshot_bench.jobs import JOB, perform

__all__ = ["serve"]


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Do each line's job and answer one line: its value, or what went wrong."""
    for line in jobs:
        try:
            answer: dict[str, float | str] = {"value": perform(JOB.validate_json(line))}
        except Exception:  # noqa: BLE001 - whatever a peer raises, the parent has to hear of it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    warnings.simplefilter("ignore")  # of the peers' own making
    serve(sys.stdin, sys.stdout)
