"""Learners by kernels alone: they adapt and predict on arrays, in a process without torch.

    gradient     steps of `sgd`, `lslr` or `meta_sgd` on Conv4, from a head that is `shared`, `linear` or `prototype`
    prototype    the nearest class mean in Conv4's features

with norms by the support set's moments; of a prototype learner by those of the population too. What they compute is
what the learners of the same names compute with torch, up to rounding (learners/gradient.py, learners/closed_form.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kshot_models.manifest import InputSpec, LearnerSpec
from kshot_models.native import classifier, descent, team
from kshot_models.native.blocks import Keep, Sizes, forward, moments_in, out_in, plan_of, run_back, run_forward
from kshot_models.native.classifier import Classifier, classify
from kshot_models.native.denormals import flush_denormals
from kshot_models.native.descent import Classes, Descent, Start
from kshot_models.native.jit import Array, Array1, Array2, Memory, entry, memory_for
from kshot_models.pixels import at_levels, pixel_levels

__all__ = ["NativeLearner", "NativeTask", "Task", "load_kernels"]

_HEADS = {"shared", "linear", "prototype"}
_NORMS = {"gradient": {"support"}, "prototype": {"support", "population"}}
_RULES = {"sgd", "lslr", "meta_sgd"}
_KINDS = "conv{}.weight", "norm{}.gain", "norm{}.bias"

Pixels = NDArray[np.uint8]
Task: TypeAlias = tuple[Pixels, NDArray[np.int64], int]
"""Pixels (n, height, width, channels), targets (n,) below the way, and the way: of which some may have no image."""


def load_kernels() -> None:
    """Compile what learners need, or load what is kept of it, so that no adaptation has to wait."""
    of_descents = descent._gather, descent._take_steps, descent.head_step, descent.update, team.take_steps  # noqa: SLF001
    for kernel in (*of_descents, run_forward, run_back, classifier._classify, flush_denormals):  # noqa: SLF001
        entry(kernel)


class NativeTask(NamedTuple):
    """What an adaptation comes to."""

    classifier: Classifier
    present: Array1  # (way,) 1 for the classes of the support set
    own: list[Array]  # all numbers that are of this task alone

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(each.nbytes for each in self.own)

    def is_finite(self) -> bool:
        """Whether no number is infinite or none."""
        with np.errstate(over="ignore", invalid="ignore"):
            # A sum that is finite has no other terms, and is sooner there.
            return all(isfinite(each.sum()) or bool(np.isfinite(each).all()) for each in self.own)


class _Begun(NamedTuple):
    """A task whose steps are to be taken."""

    descent: Descent
    weights: Array1  # memory for where they lead
    present: Array1


class _Shape(NamedTuple):
    """Of Conv4: the options of its manifest."""

    outside: tuple[int, ...]
    stride: int
    pool: bool
    epsilon: float
    mean: bool  # the head has the mean over positions in place of all positions

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> _Shape:
        stride = options.get("downsample", "max_pool") == "stride"
        outside = tuple(options.get("channels", (64, 64, 64, 64)))
        mean = options.get("readout", "flatten") == "mean"
        return cls(outside, 2 if stride else 1, not stride, float(options.get("norm_epsilon", 1e-5)), mean)

    def sizes(self, images: Array, keep: Keep) -> Sizes:
        """Of blocks of this shape on images (1, n, height, width, channels)."""
        return Sizes(images.shape[1:], self.outside, self.stride, self.pool, keep)

    def features(self, out: Array) -> Array2:
        """(n, features) of the last block's output (1, n, height, width, channels)."""
        [last] = out
        found: Array2 = last.mean((1, 2)) if self.mean else last.transpose(0, 3, 1, 2).reshape(len(last), -1)
        return found


@dataclass(frozen=True, eq=False)
class NativeLearner:
    """One model, ready to adapt. Thread-safe."""

    spec: LearnerSpec
    levels: Array2  # (channels, 256): what each value of a pixel becomes
    shape: _Shape
    blocks: list[Array]  # filters (outside, 3, 3, inside), gain, bias, filters, ...
    head: Mapping[str, Array]
    start: Start | None  # of the inner steps; None where there are none
    population: list[Array]  # mean, variance, mean, ... of norm = "population"; else empty

    @classmethod
    def of(cls, spec: LearnerSpec, input_spec: InputSpec, arrays: Mapping[str, Array]) -> NativeLearner | None:
        """The learner of an artifact; None where kernels do not compute it.

        Args:
            spec: from the manifest.
            input_spec: likewise.
            arrays: its tensors, by their names in the file (`init/body.conv1.weight`).
        """
        if not _is_covered(spec):
            return None
        shape = _Shape.of(spec.network.options)
        count = len(shape.outside)
        blocks = [_laid_out(arrays[f"init/body.{name}"]) for name in _names(count)]
        head = {name.removeprefix("init/head."): each for name, each in arrays.items() if name.startswith("init/head.")}
        population: list[Array] = []
        if spec.norm == "population":
            moments = [f"stats/norm{i}.{what}" for i in range(1, count + 1) for what in ("mean", "variance")]
            population = [np.ascontiguousarray(arrays[name][0]) for name in moments]
        start = Start.of(blocks, *_rates(spec, arrays, count)) if spec.type == "gradient" else None
        return cls(spec, pixel_levels(input_spec), shape, blocks, head, start, population)

    def adapt(self, pixels: Pixels, targets: NDArray[np.int64], *, way: int) -> NativeTask:
        """Learn one task; see Task."""
        [found] = self.adapt_each([(pixels, targets, way)])
        return found

    def adapt_each(self, tasks: Iterable[Task], memory: Memory = memory_for) -> list[NativeTask]:
        """Learn tasks: all are begun, then all steps taken, then all finished; see Descent.

        Args:
            tasks: what to learn.
            memory: where weights that a task keeps shall lie.
        """
        if self.start is None:
            return [self._nearest(*task) for task in tasks]
        begun = [self._begun(self.start, *task, memory) for task in tasks]
        for one in begun:
            one.descent.run()
        return [self._finished(one) for one in begun]

    def predict(self, tasks: Sequence[NativeTask], pixels: Pixels, counts: Sequence[int]) -> list[Array2]:
        """Logits (count, way) of each task, in one call: the first has the first counts[0] images, and so on."""
        found = classify([task.classifier for task in tasks], at_levels(pixels, self.levels), counts)
        least = np.finfo(np.float32).min
        return [
            logits if task.present.all() else np.where(task.present > 0, logits, least)
            for task, logits in zip(tasks, found, strict=True)
        ]

    def flops(self, input_spec: InputSpec) -> tuple[float, float]:
        """What adapting to one example costs, and answering one: the convolutions, beside which the rest is little."""
        image = (1, 1, input_spec.height, input_spec.width, input_spec.channels)
        raw = plan_of(Sizes(image[1:], self.shape.outside, self.shape.stride, self.shape.pool, Keep.NOTHING)).raw
        inside = (input_spec.channels, *self.shape.outside)
        each = [2.0 * 9 * prod(shape) * below for shape, below in zip(raw, inside, strict=False)]
        once = sum(each)
        if self.start is None:
            return once, once
        starts = 2 if self.spec.head.type == "prototype" else 1  # the moments at the end, and what the head starts from
        return self.spec.steps * (3 * once - each[0]) + starts * once, once

    def _nearest(self, pixels: Pixels, targets: NDArray[np.int64], way: int) -> NativeTask:
        """A task that takes no steps."""
        images, share, present = self._examples(pixels, targets, way)
        features, moments = self._embedded(images, share)
        head = self._prototypes(features, targets, present)
        own = [*head, *([] if self.population else moments)]
        return NativeTask(self._classifier(self.blocks, moments, head), present, own)

    def _begun(self, start: Start, pixels: Pixels, targets: NDArray[np.int64], way: int, memory: Memory) -> _Begun:
        images, share, present = self._examples(pixels, targets, way)
        head = self._head_start(images, share, targets, present)
        weights = memory(sum(each.size for each in (*start.blocks, *head)))
        descent = Descent(
            images,
            share,
            start,
            head,
            Classes(np.ascontiguousarray(targets), share[0], present),
            self.shape.sizes(images, Keep.ALL),
            self.shape.epsilon,
            mean=self.shape.mean,
            moments=True,
            into=weights,
        )
        return _Begun(descent, weights, present)

    def _finished(self, begun: _Begun) -> NativeTask:
        (*blocks, weight, bias), moments = begun.descent.result()
        classifier = self._classifier(blocks, moments, (weight, bias))
        return NativeTask(classifier, begun.present, [begun.weights, *moments])

    def _examples(self, pixels: Pixels, targets: NDArray[np.int64], way: int) -> tuple[Array, Array2, Array1]:
        """Images (1, n, height, width, channels), shares (1, n) in moments and loss, and which classes there are."""
        present = np.zeros(way, np.float32)
        present[targets] = 1
        share = np.full((1, len(targets)), 1 / len(targets), np.float32)
        return at_levels(pixels, self.levels)[None], share, present

    def _embedded(self, images: Array, share: Array2) -> tuple[Array2, list[Array]]:
        """Features (n, features), and the moments by which the norms made them."""
        sizes, epsilon = self.shape.sizes(images, Keep.NOTHING), self.shape.epsilon
        if not self.population:
            values, _ = forward(images, share, self.blocks, sizes, epsilon)
            moments = moments_in(values, sizes)
        else:
            moments, params = self.population, list(self.blocks)
            for i in range(0, len(params), 3):  # normalization by given moments is a factor and a shift
                mean, variance = moments[2 * i // 3 : 2 * i // 3 + 2]
                factor = params[i + 1] / np.sqrt(variance + np.float32(epsilon))
                params[i + 1], params[i + 2] = factor, params[i + 2] - mean * factor
            values, _ = forward(images, share, params, sizes, epsilon, scale_only=True)
        return self.shape.features(out_in(values, sizes, len(self.shape.outside) - 1)), list(moments)

    def _head_start(
        self, images: Array, share: Array2, targets: NDArray[np.int64], present: Array1
    ) -> tuple[Array2, Array1]:
        way = len(present)
        if self.spec.head.type == "prototype":
            return self._prototypes(self._embedded(images, share)[0], targets, present)
        weight, bias = self.head["weight"], self.head["bias"]
        if self.spec.head.type == "shared":  # one row for all classes
            return np.broadcast_to(weight, (way, *weight.shape)), np.broadcast_to(bias, (way,))
        return weight, bias

    def _prototypes(self, features: Array2, targets: NDArray[np.int64], present: Array1) -> tuple[Array2, Array1]:
        """See heads/prototype.py."""
        member = (targets[:, None] == np.arange(len(present))).astype(np.float32)  # (n, way)
        centres = (member.T @ features) / np.maximum(member.sum(0), 1)[:, None]
        mean = (present @ centres) / max(float(present.sum()), 1.0)
        apart = centres - mean
        scale = np.exp(self.head["log_scale"]) if "log_scale" in self.head else np.float32(1.0)
        return scale * 2 * apart, -scale * (apart * (centres + mean)).sum(1)

    def _classifier(self, blocks: Sequence[Array], moments: Sequence[Array], head: tuple[Array2, Array1]) -> Classifier:
        params: list[Array] = []
        for i in range(len(self.shape.outside)):
            params += [*blocks[3 * i : 3 * i + 3], *moments[2 * i : 2 * i + 2]]
        shape = self.shape
        return Classifier(params, *head, stride=shape.stride, pool=shape.pool, epsilon=shape.epsilon, mean=shape.mean)


def _is_covered(spec: LearnerSpec) -> bool:
    norms = _NORMS.get(spec.type)
    if norms is None or spec.norm not in norms or spec.network.type != "conv4" or spec.per_step_gains:
        return False
    if spec.type == "prototype":
        return spec.head.type == "prototype"
    rules = [link.type for link in spec.inner]
    body = any(_adapts(spec, f"body.{name}") for name in _names(len(_Shape.of(spec.network.options).outside)))
    return len(rules) == 1 and rules[0] in _RULES and spec.head.type in _HEADS and body


def _names(count: int) -> list[str]:
    return [kind.format(i) for i in range(1, count + 1) for kind in _KINDS]


def _adapts(spec: LearnerSpec, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in spec.adapt)


def _rates(
    spec: LearnerSpec, arrays: Mapping[str, Array], count: int
) -> tuple[list[Array1 | None], list[Array | None]]:
    """Rates by step and by weight of all parameters, the blocks' and the head's; None for those that stay."""
    [rule], steps = spec.inner, spec.steps
    options = rule.options
    names = [*(f"body.{name}" for name in _names(count)), "head.weight", "head.bias"]
    by_step: list[Array1 | None] = []
    by_weight: list[Array | None] = []
    for name in names:
        rates: Array1 | None = None
        factor: Array | None = None
        if not _adapts(spec, name):
            pass
        elif rule.type == "sgd":
            rates = np.full(steps, options["rate"], np.float32)
        elif rule.type == "lslr":
            rates = arrays[f"inner/{name}"][np.minimum(np.arange(steps), options["steps"] - 1)]
        else:
            rates, factor = np.ones(steps, np.float32), _laid_out(arrays[f"inner/{name}"])
        by_step.append(rates)
        by_weight.append(factor)
    return by_step, by_weight


def _laid_out(values: Array) -> Array:
    """Filters (outside, inside, 3, 3) as (outside, 3, 3, inside); others as they are."""
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1) if values.ndim == 4 else values, np.float32)
