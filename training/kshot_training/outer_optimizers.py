"""Outer optimizers: torch.optim by a closed table, and their state as a flat tree that safetensors can store.

An outer optimizer sees the meta-parameters as named leaves, `init/NAME` and `inner/NAME` (artifact names). `stats` are
counted, not trained. A recipe can give name prefixes their own multiple of the learning rate (`outer.scales`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kshot_models.types import MetaParams, Params

__all__ = ["OPTIMIZERS", "OuterOptimizer", "build_outer_optimizer", "leaves"]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def leaves(meta: MetaParams) -> Params:
    """The trained tensors of `meta` by artifact name: `init/...`, then `inner/...`."""
    return {f"{part}/{name}": tensor for part in ("init", "inner") for name, tensor in getattr(meta, part).items()}


@dataclasses.dataclass(frozen=True)
class OuterOptimizer:
    """An optimizer over the leaves of one `MetaParams`, which it changes in place."""

    leaves: Params
    optimizer: torch.optim.Optimizer
    learning_rate: float

    @property
    def runs_ahead(self) -> bool:
        """Whether steps need nothing of the host: all but SGD whose momentum or decay would see the rate twice."""
        group = self.optimizer.param_groups[0]
        plain = not isinstance(self.optimizer, torch.optim.SGD)
        return plain or not (group["momentum"] or any(g["weight_decay"] for g in self.optimizer.param_groups))

    def step(self, grads: Params, *, factor: float | Tensor) -> None:
        """Take one step with `factor` times the learning rate. `grads` has the names of the leaves.

        A factor that is a tensor is never read by the host: on a GPU the step can then be captured.
        """
        on_device = isinstance(factor, Tensor) and factor.is_cuda
        for group in self.optimizer.param_groups:
            rate = self.learning_rate * group["scale"] * factor
            if on_device and isinstance(self.optimizer, torch.optim.SGD):
                grads = grads | {name: grads[name] * rate for name in group["names"]}
                group["lr"] = 1.0  # which would be read, so the gradients have it
            elif on_device and isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = float(rate)
        for name, leaf in self.leaves.items():
            leaf.grad = _like(grads[name], leaf)
        self.optimizer.step()
        for leaf in self.leaves.values():
            leaf.grad = None

    def state(self) -> tuple[Params, dict[str, Any]]:
        """The optimizer's state: tensors by `LEAF/KEY`, and the values that are no tensors by the same names."""
        tensors: Params = {}
        values: dict[str, Any] = {}
        for name, leaf in self.leaves.items():
            for key, value in self.optimizer.state.get(leaf, {}).items():
                (tensors if isinstance(value, Tensor) else values)[f"{name}/{key}"] = value
        return tensors, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state` returned, bit for bit."""
        for full, value in [*tensors.items(), *values.items()]:
            name, _, key = full.rpartition("/")
            leaf = self.leaves[name]
            # Steps are counted on the CPU, wherever the leaf is, except by optimizers that can be captured.
            if isinstance(value, Tensor) and (key != "step" or self.optimizer.defaults.get("capturable")):
                value = _like(value.to(leaf.device), leaf)  # noqa: PLW2901 - the same value, where it belongs
            self.optimizer.state[leaf][key] = value


def _like(value: Tensor, leaf: Tensor) -> Tensor:
    # What is shaped like a leaf lies in memory like it, before a resume and after: kernels may round differently for
    # another layout, and are slow on a mixture.
    if value.shape != leaf.shape or value.stride() == leaf.stride():
        return value
    return torch.empty_like(leaf).copy_(value)


def build_outer_optimizer(
    meta: MetaParams,
    kind: str,
    *,
    learning_rate: float,
    scales: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> OuterOptimizer:
    """Build the optimizer `kind` over the leaves of `meta`.

    Args:
        meta: Meta-parameters; the optimizer changes these very tensors.
        kind: A key of `OPTIMIZERS`.
        learning_rate: Before the schedule and the scales.
        scales: Multiples of the learning rate by name prefix (`{"inner/": 0.1}`); the longest prefix that fits wins.
        weight_decay: Of the fast weights' start only: learned inner rates are not pulled towards zero.
        options: Further arguments of the torch class, as checked by the recipe.
    """
    named = leaves(meta)
    on_device = next(iter(named.values())).is_cuda
    groups: dict[Any, dict[str, Any]] = {}
    for name, leaf in named.items():
        fitting = [prefix for prefix in scales or {} if name.startswith(prefix)]
        scale = (scales or {})[max(fitting, key=len)] if fitting else 1.0
        decay = weight_decay if name.startswith("init/") else 0.0
        # A group a leaf, each handled alone: with some twenty small tensors on a CPU, foreach would do that too. On a
        # GPU all that can be are handled together.
        fresh = {"params": [], "names": [], "scale": scale, "lr": learning_rate * scale, "weight_decay": decay}
        group = groups.setdefault((scale, decay) if on_device else name, fresh)
        group["params"].append(leaf)
        group["names"].append(name)
    given = dict(options or {})
    if on_device and kind != "sgd":
        given |= {"capturable": True} | ({"fused": True} if kind in {"adam", "adamw"} else {})
        for group in groups.values():
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
    optimizer = OPTIMIZERS[kind](list(groups.values()), lr=learning_rate, **given)
    return OuterOptimizer(named, optimizer, learning_rate)
