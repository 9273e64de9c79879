"""The gradient learner: adapts by inner steps on the support loss. MAML and all that learn its start or its steps.

    adapt    start (network and head) -> steps x [forward, gradient, inner optimizer] -> moments at the last weights
    predict  forward with those moments

Where no step changes the network, it embeds the support set once, and the steps are those of the head alone (ANIL).

Task parameters are flat: `weights.NAME` (fast weights: what the inner loop changes), `moments.NAME`, `present`.
Weights that the inner loop does not change stay in the meta-parameters; where each step has its own gains, those of the
step that was taken last are among the task parameters, so that `predict` need not know which that was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import repeat

import torch
from torch import Tensor

from kshot_models.batched import native
from kshot_models.classes import mask_absent, masked, present_classes
from kshot_models.heads.head import Head, linear_logits
from kshot_models.inner.transformation import InnerOptimizer, State
from kshot_models.losses import Loss, weighted_cross_entropy
from kshot_models.manifest import NormMode
from kshot_models.networks.identity import identity
from kshot_models.networks.network import Network
from kshot_models.per_step import fresh_moments, gains_at, is_norm, moments_at, query_row, with_rows
from kshot_models.serving import (
    differentiated_once,
    inner_gradient,
    nobody_differentiates,
    transformable,
)
from kshot_models.tree import prefixed, tree_add, tree_map, under
from kshot_models.types import Examples, MetaParams, Params, Predictor, TaskParams

__all__ = ["GradientLearner"]


@dataclass(frozen=True)
class GradientLearner:
    """Adapts by `steps` steps of an inner optimizer.

    `adapt_patterns` are shell patterns over the names of all weights: `body.*` of the network, `head.weight` and
    `head.bias`. With `first_order` the inner gradients count as constants (FOMAML); training sets it, a manifest does
    not. For a regression `loss` is mean_squared_error, and classes are not masked. With `per_step_gains` each inner
    step has its own gains and biases of the norms, which are meta-learned and do not adapt (MAML++; see per_step.py).
    """

    network: Network
    head: Head
    inner: InnerOptimizer
    steps: int
    norm: NormMode
    adapt_patterns: tuple[str, ...] = ("*",)
    first_order: bool = False
    loss: Loss = weighted_cross_entropy
    per_step_gains: bool = False

    def init(self, generator: torch.Generator) -> MetaParams:
        """See Learner."""
        layers = self.network.init(generator)
        body = prefixed("body.", with_rows(layers, self.steps) if self.per_step_gains else layers)
        head = prefixed("head.", self.head.init(generator))
        template = {name: p for name, p in body.items() if self.adapts(name)}
        template |= {name: p for name, p in prefixed("head.", self.head.template()).items() if self.adapts(name)}
        stats = fresh_moments(layers, self.steps) if self.norm == "per_step" else {}
        return MetaParams({**body, **head}, self.inner.init(template, generator), stats)

    def adapt(self, meta: MetaParams, support: Examples, *, way: int) -> TaskParams:
        """See Learner."""
        if self._embeds_once(meta):
            [only] = deque(self._on_features(meta, support, way), maxlen=1)
            return only
        if (task := self._at_once(meta, support, way)) is not None:
            return task
        # A deque of one: where no graph holds them, the weights of earlier steps are freed as it goes.
        [(last, _)] = deque(self.descend(meta, support, repeat(support, self.steps), way=way), maxlen=1)
        return self.task_params(meta, last, support, way=way)

    def trajectory(self, meta: MetaParams, support: Examples, *, way: int) -> Iterator[TaskParams]:
        """See Learner."""
        if self._embeds_once(meta):
            yield from self._on_features(meta, support, way)
            return
        path = self.descend(meta, support, repeat(support, self.steps), way=way)
        for taken, (fast, _) in enumerate(path):
            yield self.task_params(meta, fast, support, way=way, taken=taken)

    def predict(self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """See Learner."""
        return self.answer(meta, task, inputs, weights)[0]

    def prepare(self, meta: MetaParams, task: TaskParams) -> Predictor | None:
        """See serving.Prepares."""
        if self.network.prepare is None or self.norm not in {"support", "per_step"}:
            return None
        fast = under("weights.", task)
        logits = self.network.prepare(self._body(meta, fast), under("head.", fast), under("moments.", task))
        return masked(logits, task["present"]) if self.loss is weighted_cross_entropy else logits

    def answer(
        self, meta: MetaParams, task: TaskParams, inputs: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Params]:
        """What `predict` answers, and the moments by which the norms did it (none for norms that keep none)."""
        moments = under("moments.", task) if self.norm in {"support", "per_step"} else None
        fast = under("weights.", task)
        features, used = self.network.apply(self._body(meta, fast), inputs, weights=weights, moments=moments)
        return self._logits(features, fast, task["present"]), used

    def descend(
        self, meta: MetaParams, support: Examples, batches: Iterable[Examples], *, way: int
    ) -> Iterator[tuple[Params, State]]:
        """Take one inner step on each of `batches`; `adapt` gives it the whole support set each time.

        Args:
            meta: the meta-parameters.
            support: the whole support set: it says which classes there are and where the head starts.
            batches: the examples of each step.
            way: number of classes.

        Yields:
            the fast weights and the inner optimizer's state, before the first step and after each.
        """
        fast, fixed = self.start(meta, support, way)
        present = present_classes(support, way)
        changing = {name: p for name, p in fast.items() if self.adapts(name)}
        state = self.inner.bind(meta.inner).init(changing)
        yield fast, state
        for taken, batch in enumerate(batches):
            changing, state = self.inner_step(meta.inner, changing, state, fixed, batch, present, taken=taken)
            yield {**fast, **changing}, state

    def inner_step(
        self,
        phi: Params,
        changing: Params,
        state: State,
        fixed: Params,
        batch: Examples,
        present: Tensor,
        *,
        taken: int,
    ) -> tuple[Params, State]:
        """One inner step.

        Args:
            phi: what the inner optimizer learned.
            changing: the weights that adapt.
            state: the inner optimizer's.
            fixed: the weights that do not adapt, as `start` gives them.
            batch: the examples of the step.
            present: (way,) 1 for the classes of the support set.
            taken: steps before this one.

        Returns:
            the weights and the state after it.
        """
        stays = gains_at(fixed, taken) if self.per_step_gains else fixed
        at = tree_map(Tensor.detach, changing) if self.first_order else changing
        around = tree_map(Tensor.detach, stays) if self.first_order else stays
        objective = partial(self.support_loss, fixed=around, examples=batch, present=present)
        found = (
            self._pulled_back(at, around, batch, present)
            if nobody_differentiates(first_order=self.first_order)
            else None
        )
        grads, loss = found or inner_gradient(objective, at, constant=self.first_order)
        if self.first_order:
            grads, loss = tree_map(Tensor.detach, grads), loss.detach()
        updates, state = self.inner.bind(phi).update(grads, state, changing, loss, objective=transformable(objective))
        return tree_add(changing, updates), state

    def task_params(
        self,
        meta: MetaParams,
        fast: Params,
        support: Examples,
        *,
        way: int,
        taken: int | None = None,
        moments: Params | None = None,
        present: Tensor | None = None,
    ) -> TaskParams:
        """The task parameters that fast weights amount to after `taken` inner steps (None: all).

        With the moments of `support` under them, which are counted unless given, or with the running ones of the last
        step; see norm.py. `present` tells the classes of `support`, where they have been looked up.
        """
        row = query_row(self.steps if taken is None else taken)
        if self.per_step_gains:
            fast = fast | {name: p for name, p in gains_at(meta.init, row).items() if is_norm(name)}
        task = prefixed("weights.", fast)
        task["present"] = present_classes(support, way) if present is None else present
        if self.norm == "support":
            if moments is None:
                body = self._body(meta, fast)
                _, moments = self.network.apply(body, support.inputs, weights=support.weights, moments=None)
            task |= prefixed("moments.", moments)
        elif self.norm == "per_step":
            task |= prefixed("moments.", moments_at(meta.stats, row))
        return task

    def start(self, meta: MetaParams, support: Examples, way: int) -> tuple[Params, Params]:
        """Fast weights before the first step (a head that does not adapt is among them), and the weights that stay."""
        body = under("body.", meta.init)

        def embed() -> Tensor:
            first = gains_at(body, 0) if self.per_step_gains else body
            return self.network.apply(first, support.inputs, weights=support.weights, moments=None)[0]

        head = prefixed("head.", self.head.start(under("head.", meta.init), embed, support, way))
        named = prefixed("body.", body)
        fast = {name: p for name, p in named.items() if self.adapts(name)} | head
        return fast, {name: p for name, p in {**named, **head}.items() if not self.adapts(name)}

    def support_loss(self, changing: Params, fixed: Params, examples: Examples, present: Tensor) -> Tensor:
        """What an inner step descends on.

        Args:
            changing: the weights that adapt.
            fixed: those that do not, as `start` gives them.
            examples: the examples of the step.
            present: (way,) 1 for the classes of the support set.

        Returns:
            the mean loss, a scalar.
        """
        weights = {**fixed, **changing}
        features, _ = self.network.apply(
            under("body.", weights), examples.inputs, weights=examples.weights, moments=None
        )
        return self.loss(self._logits(features, weights, present), examples)

    def _embeds_once(self, meta: MetaParams) -> bool:
        """Whether no inner step changes what the network makes of the support set."""
        changes = (name for name in meta.init if name.startswith("body.") and self.adapts(name))
        return not self.per_step_gains and next(changes, None) is None

    def _on_features(self, meta: MetaParams, support: Examples, way: int) -> Iterator[TaskParams]:
        """`trajectory` where the body stays: one forward pass, and the steps of a head on what it gave (ANIL)."""
        body = under("body.", meta.init)
        features, moments = self.network.apply(body, support.inputs, weights=support.weights, moments=None)
        alike = replace(self, network=identity(self.network.features))
        of_head = meta._replace(init=prefixed("head.", under("head.", meta.init)))
        seen = support._replace(inputs=features)  # where the head starts has a gradient, and of first order no step has
        batch = support._replace(inputs=features.detach()) if self.first_order else seen
        for taken, (fast, _) in enumerate(alike.descend(of_head, seen, repeat(batch, self.steps), way=way)):
            yield self.task_params(meta, fast, support, way=way, taken=taken, moments=moments)

    def _at_once(self, meta: MetaParams, support: Examples, way: int) -> TaskParams | None:
        """`adapt` with all steps in one go; None where they have to be taken one by one."""
        rates = self.inner.rates
        plain = self.loss is weighted_cross_entropy and not self.per_step_gains
        once = differentiated_once()
        # Learned rates have gradients in training, be it of first order.
        constant = nobody_differentiates(first_order=self.first_order) and not meta.inner
        if self.network.descend is None or rates is None or not (plain and (once or constant)):
            return None
        fast, fixed = self.start(meta, support, way)
        present = present_classes(support, way)
        began = {**fixed, **fast}
        weights = began if once else tree_map(Tensor.detach, began)
        found = self.network.descend(
            under("body.", weights),
            under("head.", weights),
            support,
            present,
            lambda name: rates(meta.inner, name, self.steps) if self.adapts(name) else None,
            moments=once and self.norm == "support",
            first_order=self.first_order,
        )
        if found is None:
            return None
        changed, moments = found
        if not once:  # the gradient with respect to where it began is the identity
            changed = {name: began[name] + (end - weights[name]) for name, end in changed.items()}
        return self.task_params(meta, fast | changed, support, way=way, moments=moments or None, present=present)

    def _pulled_back(
        self, changing: Params, fixed: Params, examples: Examples, present: Tensor
    ) -> tuple[Params, Tensor] | None:
        """The gradient of `support_loss` and its value, without autograd; None where only that has it."""
        if self.network.pullback is None or self.loss is not weighted_cross_entropy:
            return None
        weights = {**fixed, **changing}
        done = self.network.pullback(under("body.", weights), examples.inputs, weights=examples.weights)
        if done is None:
            return None
        features, pull = done
        share = examples.weights / examples.weights.sum().clamp_min(1)
        loss, of_features, of_weight, of_bias = native.linear_cross_entropy(
            features, weights["head.weight"], weights["head.bias"], examples.targets, share, present
        )
        found = {"head.weight": of_weight, "head.bias": of_bias}
        if not changing.keys() <= found.keys():
            found |= prefixed("body.", pull(of_features))
        return {name: found[name] for name in changing}, loss

    def adapts(self, name: str) -> bool:
        """Whether the inner loop changes the weight of this name."""
        if self.per_step_gains and is_norm(name):
            return False
        return _matches(name, self.adapt_patterns)

    @property
    def per_step(self) -> bool:
        """Whether something belongs to a certain inner step: then only a meta-gradient that takes all of them fits."""
        return self.per_step_gains or self.norm == "per_step"

    def _logits(self, features: Tensor, weights: Params, present: Tensor) -> Tensor:
        logits = linear_logits(features, under("head.", weights))
        return mask_absent(logits, present) if self.loss is weighted_cross_entropy else logits

    def _body(self, meta: MetaParams, fast: Params) -> Params:
        return {**under("body.", meta.init), **under("body.", fast)}


@lru_cache(maxsize=1024)
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
