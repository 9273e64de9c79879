"""Tests of this folder need a CUDA GPU, and are skipped without one: `python -m pytest tests/gpu`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is at hand")
