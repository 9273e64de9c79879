"""Learners of every kind, small enough for double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.registry import build_learner
from kshot_models.tree import meta_map
from kshot_models.types import Examples, Learner, MetaParams

INPUT = InputSpec(height=12, width=12, channels=1, mean=(0.5,), std=(0.5,))
NETWORKS = {
    "max_pool": {"type": "conv4", "channels": (4, 5)},
    "stride": {"type": "conv4", "channels": (4, 5), "downsample": "stride", "readout": "mean"},
    "mlp": {"type": "mlp", "hidden": (8, 6), "activation": "tanh"},
    "resnet12": {"type": "resnet12", "channels": (2, 3, 4)},  # as many stages as 12 pixels allow
}


def _gradient(head: str, inner: list[dict[str, object]], **more: object) -> dict[str, object]:
    return {"type": "gradient", "head": {"type": head}, "inner": inner, "steps": 2, **more}


# One row makes a learner pass the whole battery: every new learner, inner optimizer and head has one here.
LEARNERS: dict[str, dict[str, object]] = {
    "prototype": {"type": "prototype", "head": {"type": "prototype"}},
    "prototype-scaled": {"type": "prototype", "head": {"type": "prototype", "learned_scale": True}},
    "ridge": {"type": "ridge", "head": {"type": "ridge", "regularizer": 0.5, "scale": 2.0}},
    "matching": {"type": "matching", "head": {"type": "matching"}},
    "matching-fce": {"type": "matching", "head": {"type": "matching", "full_context": True, "reads": 2, "orders": 2}},
    "snail": {
        "type": "snail",
        "head": {
            "type": "snail",
            "max_way": 6,
            "max_length": 8,
            "filters": 4,
            "attention": [[4, 3], [5, 4]],
            "orders": 3,
        },
    },
    "shared-sgd": _gradient("shared", [{"type": "sgd", "rate": 0.3}]),
    "proto-sgd": _gradient("prototype", [{"type": "sgd", "rate": 0.05}]),
    "proto-lslr": _gradient("prototype", [{"type": "lslr", "rate": 0.01, "steps": 2}]),
    "shared-meta-sgd": _gradient("shared", [{"type": "meta_sgd", "rate": 0.2}]),
    "shared-adam": _gradient("shared", [{"type": "adam", "rate": 0.01}]),
    "shared-adam-carried": _gradient("shared", [{"type": "adam", "rate": 0.01, "beta1": 0.0, "carry_moments": True}]),
    "shared-chain": _gradient("shared", [{"type": "meta_sgd", "rate": 0.5}, {"type": "sgd", "rate": -0.4}]),
    "shared-proximal": _gradient("shared", [{"type": "proximal", "strength": 0.5}, {"type": "sgd", "rate": 0.3}]),
    # Untrained, an LSTM may go up as well as down; the one that is drawn for these widths goes down.
    "shared-lstm": _gradient("shared", [{"type": "lstm", "hidden": (5, 5), "scale": 0.1}]),
    "shared-meta-learner-lstm": _gradient(
        "shared",
        [{"type": "meta_learner_lstm", "hidden": 5, "forget_bias": (7.0, 8.0), "input_bias": (-1.5, -1.0)}],
    ),
    "shared-meta-learner-lstm-rows": _gradient(
        "shared",
        [
            {
                "type": "meta_learner_lstm",
                "hidden": 5,
                "forget_bias": (7.0, 8.0),
                "input_bias": (-1.5, -1.0),
                "gates": "row",
            }
        ],
    ),
    "shared-linear-rule": _gradient("shared", [{"type": "linear_rule", "rate": 0.3}]),
    "shared-policy": _gradient("shared", [{"type": "policy", "history": 3, "hidden": 5, "rate": 0.3}]),
    "shared-newton-cg": _gradient("shared", [{"type": "newton_cg", "strength": 0.5, "cg_steps": 3}]),
    "anil": _gradient("shared", [{"type": "sgd", "rate": 0.05}], adapt=["head.*"]),
    "boil": _gradient(
        "prototype", [{"type": "sgd", "rate": 0.1}], adapt=["body.conv*", "body.*.conv*", "body.linear*"]
    ),
    "mamlpp": _gradient("shared", [{"type": "lslr", "rate": 0.1, "steps": 2}], per_step_gains=True),
}
NORMS = ("support", "group", "none")


def make_learner(
    name: str, network: str = "max_pool", norm: str = "support", dtype: torch.dtype = torch.float64
) -> tuple[Learner, MetaParams]:
    """A row of LEARNERS with random gains, rates and moments, so that nothing hides behind a 0 or a 1."""
    net: dict[str, object] = {**NETWORKS[network], "norm_groups": 1}
    spec = LearnerSpec.model_validate({**LEARNERS[name], "network": net, "norm": norm})
    learner = build_learner(spec, INPUT)
    generator = torch.Generator().manual_seed(7)
    meta = meta_map(lambda t: t.to(dtype), learner.init(generator))

    def shake(t: torch.Tensor) -> torch.Tensor:
        return t * (1 + 0.2 * torch.rand(t.shape, generator=generator, dtype=dtype)) + 0.005 * torch.rand(
            t.shape, generator=generator, dtype=dtype
        )

    return learner, meta_map(shake, meta)


MakeExamples = Callable[..., Examples]


@pytest.fixture
def make_examples() -> MakeExamples:
    """(way, shot, seed) -> examples of class-dependent images, class-major."""

    def make(way: int = 3, shot: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(way, 1, 1, 12, 12, generator=torch.Generator().manual_seed(99), dtype=dtype)
        noise = torch.randn(way, shot, 1, 12, 12, generator=generator, dtype=dtype)
        targets = torch.arange(way).repeat_interleave(shot)
        return Examples((centres + 0.7 * noise).flatten(0, 1), targets, torch.ones(way * shot, dtype=dtype))

    return make
