"""From a learner to two flat graphs of aten operations: adapt and predict, with some sizes left open.

The sizes of the support set, of the query list and the way are symbols; images and parameters have the sizes of the
artifact. What autograd does in the inner steps is traced with the rest, so a graph holds gradients as plain operations.

A learner on a frozen encoder is traced from the features on; the encoder stays a model of its own, which runs before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from kshot_models.encoder import EncoderOptions
from kshot_models.learners import FrozenLearner
from kshot_models.load import LoadedLearner, meta_from_arrays, meta_to_arrays, normalise
from kshot_models.onnx_files import CLASSES, FEATURES, LOGITS, PIXELS, TARGETS, WEIGHTS
from kshot_models.types import Examples, Learner, MetaParams, Params

__all__ = ["Traced", "shape_of", "trace_adapt", "trace_predict"]

# Sizes to trace with, all different, so that no two that only happen to be alike are taken for one.
_HINTS = {"examples": 11, "queries": 13, "way": 7}

OpenSizes = Mapping[str, Mapping[int, str]]  # input -> axis -> name of the size


class Traced(NamedTuple):
    """A graph, and the names of what goes in and comes out, in order."""

    module: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def shape_of(values: Any) -> list[int | str]:
    """The sizes of a traced tensor; an open one is its name."""
    names = {hint: name for name, hint in _HINTS.items()}
    return [names[size.node.hint] if isinstance(size, torch.SymInt) else size for size in values.shape]


def trace_adapt(loaded: LoadedLearner, fixed_way: int | None) -> Traced:
    """Trace adapt: pixels or features, targets, weights, classes and meta-parameters -> task parameters.

    Args:
        loaded: the learner.
        fixed_way: the only way that its head answers for; None leaves the way open.
    """
    examples, way = _HINTS["examples"], fixed_way or _HINTS["way"]
    given = _given(loaded)
    arguments = {
        given: _images(loaded, examples),
        TARGETS: torch.arange(examples) % way,
        WEIGHTS: torch.ones(examples),
        CLASSES: torch.arange(way),
        **_meta_arrays(loaded),
    }
    open_sizes = {name: {0: "examples"} for name in (given, TARGETS, WEIGHTS)}
    open_sizes |= {} if fixed_way else {CLASSES: {0: "way"}}
    outputs: list[str] = []

    def adapt(images: Tensor, targets: Tensor, weights: Tensor, classes: Tensor, *meta: Tensor) -> tuple[Tensor, ...]:
        task = _adapt(loaded, (images, targets, weights), classes.shape[0], meta)
        outputs[:] = sorted(task)
        return tuple(task[name] for name in outputs)

    module = _trace(adapt, arguments, open_sizes)
    return Traced(module, tuple(arguments), tuple(outputs))


def trace_predict(loaded: LoadedLearner, fixed_way: int | None) -> Traced:
    """Trace predict: pixels or features, task parameters and meta-parameters -> logits.

    Arguments are those of `trace_adapt`.
    """
    queries, way = _HINTS["queries"], fixed_way or _HINTS["way"]
    meta = _meta_arrays(loaded)
    with torch.no_grad():
        tasks = [
            _adapt(loaded, _support(loaded, ways), ways, tuple(meta.values()))
            for ways in (way, way + 1)[: 2 - bool(fixed_way)]
        ]
    task = tasks[0]
    open_sizes: dict[str, dict[int, str]] = {_given(loaded): {0: "queries"}}
    for name, values in task.items():
        axes = [i for i, size in enumerate(values.shape) if size != tasks[-1][name].shape[i]]
        open_sizes |= {name: dict.fromkeys(axes, "way")} if axes else {}

    def predict(images: Tensor, *values: Tensor) -> tuple[Tensor]:
        made = dict(zip(task, values[: len(task)], strict=True))
        meta = _meta(loaded, values[len(task) :])
        return (_traced_learner(loaded).predict(meta, made, _to_inputs(loaded, images)),)

    arguments = {_given(loaded): _images(loaded, queries), **task, **meta}
    module = _trace(predict, arguments, open_sizes)
    return Traced(module, tuple(arguments), (LOGITS,))


def _adapt(loaded: LoadedLearner, support: tuple[Tensor, Tensor, Tensor], way: int, meta: tuple[Tensor, ...]) -> Params:
    images, targets, weights = support
    examples = Examples(_to_inputs(loaded, images), targets, weights)
    return _traced_learner(loaded).adapt(_meta(loaded, meta), examples, way=way)


def _meta_arrays(loaded: LoadedLearner) -> Params:
    # Sorted: the same artifact gives the same graph, whatever order its file was read in.
    return dict(sorted(meta_to_arrays(loaded.meta_params).items()))


def _meta(loaded: LoadedLearner, values: tuple[Tensor, ...]) -> MetaParams:
    arrays = dict(zip(_meta_arrays(loaded), values, strict=True))
    return meta_from_arrays(arrays, like=loaded.meta_params, where="the graph")


def _traced_learner(loaded: LoadedLearner) -> Learner:
    return loaded.learner.features if isinstance(loaded.learner, FrozenLearner) else loaded.learner


def _given(loaded: LoadedLearner) -> str:
    """What the graphs take of images."""
    return FEATURES if isinstance(loaded.learner, FrozenLearner) else PIXELS


def _to_inputs(loaded: LoadedLearner, images: Tensor) -> Tensor:
    """From that to the inputs of the traced learner."""
    return images if isinstance(loaded.learner, FrozenLearner) else normalise(images, loaded.manifest.input)


def _images(loaded: LoadedLearner, count: int) -> Tensor:
    """Some of that."""
    spec = loaded.manifest.input
    if isinstance(loaded.learner, FrozenLearner):
        options = EncoderOptions.model_validate(loaded.manifest.learner.network.options)
        return torch.randn(count, options.features, generator=torch.Generator().manual_seed(0))
    shape = (count, spec.height, spec.width, spec.channels)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _support(loaded: LoadedLearner, way: int) -> tuple[Tensor, Tensor, Tensor]:
    return _images(loaded, way), torch.arange(way), torch.ones(way)


def _trace(function: Callable[..., Any], arguments: Mapping[str, Tensor], open_sizes: OpenSizes) -> GraphModule:
    # Private, but what torch.export itself is made of; make_fx's own symbolic mode opens every size, which takes
    # several times as long and has to be closed again.
    from torch._dynamo.source import ConstantSource  # noqa: PLC0415 - needed to export only
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 - as above
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - as above
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv  # noqa: PLC0415 - as above

    sizes = ShapeEnv()
    fake = FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True)
    symbols: dict[str, Any] = {}
    for name in sorted({size for axes in open_sizes.values() for size in axes.values()}):
        symbol = sizes.create_symbol(_HINTS[name], ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC)
        symbols[name] = sizes.create_symintnode(symbol, hint=_HINTS[name])
    given = []
    with fake, torch.no_grad():
        for name, values in arguments.items():
            axes = open_sizes.get(name, {})
            shape = [symbols[axes[i]] if i in axes else size for i, size in enumerate(values.shape)]
            given.append(torch.empty(shape, dtype=values.dtype))
    with torch.no_grad():
        module = make_fx(function, tracing_mode="symbolic")(*given)
    module.graph.eliminate_dead_code()
    return module
