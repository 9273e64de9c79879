"""What one example costs a model, and for which ways its head answers: found out by trying, so for any learner.

The scheduler fills batches by this cost. Only ratios matter, so floating-point operations of the matrix products and
convolutions are measure enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kshot_models.errors import WayUnsupported
from kshot_models.learners import FrozenLearner
from kshot_models.load import LoadedLearner, normalise
from kshot_models.serving import serving
from kshot_models.types import Examples

__all__ = ["Costs", "measure_costs"]

_PROBES = 2  # examples of two classes: the smallest support set


class Costs(NamedTuple):
    """FLOP per example, and the only way that the head answers for (None: any)."""

    adapt: float
    predict: float
    fixed_way: int | None


def measure_costs(loaded: LoadedLearner, device: str) -> Costs:
    """Adapt and predict once on noise and count.

    Raises:
        WayUnsupported: the head answers neither for 2 classes nor for the manifest's `max_way`.
    """
    spec, limits = loaded.manifest.input, loaded.manifest.limits
    # Noise, as blank images lead to denormal numbers, which take a CPU many times longer.
    shape = (_PROBES, spec.height, spec.width, spec.channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = normalise(pixels.to(device), spec)
    support = Examples(inputs, torch.arange(_PROBES, device=device), torch.ones(_PROBES, device=device))
    learner, meta = loaded.learner, loaded.meta_params
    fixed_way = None
    with serving():
        try:
            learner.adapt(meta, support, way=_PROBES)
        except WayUnsupported:
            fixed_way = limits.max_way
        with _Counting() as adapting:
            task = learner.adapt(meta, support, way=fixed_way or _PROBES)
        with _Counting() as predicting:
            learner.predict(meta, task, inputs)
    if isinstance(learner, FrozenLearner):  # whose encoder torch does not see
        adapting.flops, predicting.flops = (each.flops + learner.flops * _PROBES for each in (adapting, predicting))
    least = spec.height * spec.width * spec.channels  # reading the image
    return Costs(max(adapting.flops / _PROBES, least), max(predicting.flops / _PROBES, least), fixed_way)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call] # its __init_subclass__ is untyped
    """torch's FlopCounterMode without its report: that one brings in torch's compiler, two seconds of imports."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.flops: float = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to say otherwise imports the compiler, only to tell it so

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the registry's keys
        sparse = [value for value in args if isinstance(value, torch.Tensor) and value.layout is torch.sparse_csr]
        if sparse:  # of a formula for dense ones, most are 0
            self.flops += sum(2 * matrix.values().numel() * out.shape[-1] for matrix in sparse)
        elif formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
