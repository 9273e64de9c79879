"""The closed tables from a manifest's names to what they build. A new component is a new file and one row here.

Never a dotted path, a pickle or an import by name: artifacts come from outside. The options of a component are the
keyword arguments of its builder, checked against the builder's annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from kshot_models.context.context import Context
from kshot_models.context.matching import matching
from kshot_models.context.snail import snail
from kshot_models.encoder import Encoder
from kshot_models.errors import SpecInvalid
from kshot_models.heads.head import Head
from kshot_models.heads.linear import linear
from kshot_models.heads.prototype import prototype
from kshot_models.heads.ridge import ridge
from kshot_models.heads.shared import shared
from kshot_models.inner.adam import adam
from kshot_models.inner.chain import chain
from kshot_models.inner.linear_rule import linear_rule
from kshot_models.inner.lslr import lslr
from kshot_models.inner.lstm import lstm
from kshot_models.inner.meta_learner_lstm import meta_learner_lstm
from kshot_models.inner.meta_sgd import meta_sgd
from kshot_models.inner.newton_cg import newton_cg
from kshot_models.inner.policy import policy
from kshot_models.inner.proximal import proximal
from kshot_models.inner.sgd import sgd
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.learners.closed_form import ClosedFormLearner
from kshot_models.learners.context import ContextLearner
from kshot_models.learners.frozen import FrozenLearner
from kshot_models.learners.gradient import GradientLearner
from kshot_models.losses import mean_squared_error, weighted_cross_entropy
from kshot_models.manifest import CLASSIFIERS, ENCODER_NETWORK, Component, InputSpec, LearnerSpec
from kshot_models.networks.conv4 import conv4
from kshot_models.networks.encoder import encoder as encoder_features
from kshot_models.networks.mlp import mlp
from kshot_models.networks.network import Network
from kshot_models.networks.resnet12 import resnet12
from kshot_models.types import Learner

T = TypeVar("T")

__all__ = [
    "CONTEXTS",
    "HEADS",
    "INNER_OPTIMIZERS",
    "LEARNERS",
    "NETWORKS",
    "build_component",
    "build_inner_optimizer",
    "build_learner",
]

NETWORKS: Mapping[str, Callable[..., Network]] = {
    "conv4": conv4,
    ENCODER_NETWORK: encoder_features,
    "mlp": mlp,
    "resnet12": resnet12,
}
HEADS: Mapping[str, Callable[..., Head]] = {
    "linear": linear,
    "prototype": prototype,
    "ridge": ridge,
    "shared": shared,
}
CONTEXTS: Mapping[str, Callable[..., Context]] = {
    "matching": matching,
    "snail": snail,
}
INNER_OPTIMIZERS: Mapping[str, Callable[..., InnerOptimizer]] = {
    "adam": adam,
    "linear_rule": linear_rule,
    "lslr": lslr,
    "lstm": lstm,
    "meta_learner_lstm": meta_learner_lstm,
    "meta_sgd": meta_sgd,
    "newton_cg": newton_cg,
    "policy": policy,
    "proximal": proximal,
    "sgd": sgd,
}


def _gradient(spec: LearnerSpec, network: Network) -> Learner:
    return _gradient_learner(spec, network)


def _gradient_regression(spec: LearnerSpec, network: Network) -> Learner:
    return _gradient_learner(spec, network, regression=True)


def _gradient_learner(spec: LearnerSpec, network: Network, *, regression: bool = False) -> GradientLearner:
    head = build_component("head", HEADS, spec.head, network.features)
    inner = build_inner_optimizer(spec.inner)
    loss = mean_squared_error if regression else weighted_cross_entropy
    return GradientLearner(
        network, head, inner, spec.steps, spec.norm, spec.adapt, loss=loss, per_step_gains=spec.per_step_gains
    )


def _closed_form(spec: LearnerSpec, network: Network) -> Learner:
    _check_named_after_head(spec)
    return ClosedFormLearner(network, build_component("head", HEADS, spec.head, network.features), spec.norm)


def _in_context(spec: LearnerSpec, network: Network) -> Learner:
    _check_named_after_head(spec)
    return ContextLearner(network, build_component("head", CONTEXTS, spec.head, network.features), spec.norm)


def _check_named_after_head(spec: LearnerSpec) -> None:
    """Learners without inner steps are what their head makes of them, and have its name."""
    if spec.inner or spec.steps:
        raise SpecInvalid(f"a {spec.type} learner takes no inner steps; leave out `inner` and `steps`")
    if spec.head.type != spec.type:
        raise SpecInvalid(f"a {spec.type} learner needs the head {spec.type!r}, got {spec.head.type!r}")


LEARNERS: Mapping[str, Callable[[LearnerSpec, Network], Learner]] = {
    "gradient": _gradient,
    "gradient_regression": _gradient_regression,
    "matching": _in_context,
    "prototype": _closed_form,
    "ridge": _closed_form,
    "snail": _in_context,
}


_ADAPTING_BODIES = frozenset({"gradient", "gradient_regression"})


def build_learner(spec: LearnerSpec, input_spec: InputSpec, encoder: Encoder | None = None) -> Learner:
    """Build what `spec` describes, for inputs of `input_spec`.

    Args:
        spec: from a manifest or a recipe.
        input_spec: likewise.
        encoder: what makes the features, where the network is of type "encoder".

    Raises:
        SpecInvalid: an unknown name or option, or one of a wrong type; the message lists what there is. Or a network
            of type "encoder" without one, or with a learner that would adapt it.
    """
    learner = _row("learner", LEARNERS, spec.type)
    if (spec.norm == "per_step" or spec.per_step_gains) and not spec.steps:
        raise SpecInvalid("norm = 'per_step' and per_step_gains belong to inner steps, of which there are none")
    if spec.norm == "population" and spec.type in _ADAPTING_BODIES:
        raise SpecInvalid(
            "norm = 'population' is for learners whose body is the same for all tasks (prototype, ridge, matching, "
            f"snail); a {spec.type} learner takes 'support' or 'per_step'"
        )
    network = build_component("network", NETWORKS, spec.network, input_spec, spec.norm)
    if spec.network.type != ENCODER_NETWORK:
        return learner(spec, network)
    _check_frozen(spec)
    if encoder is None:
        raise SpecInvalid("a network of type 'encoder' is made of an artifact's encoder.onnx; load that artifact")
    return FrozenLearner(encoder, learner(spec, network), encoder.options.flops)


def _check_frozen(spec: LearnerSpec) -> None:
    """An encoder is frozen: what has inner steps may change the head alone."""
    if spec.steps and not all(pattern.startswith("head.") for pattern in spec.adapt):
        raise SpecInvalid(
            "the inner steps of a learner on an encoder change the head alone: "
            f"expected adapt = ['head.*'], got {list(spec.adapt)}"
        )
    if spec.type not in CLASSIFIERS:
        raise SpecInvalid(f"expected a learner of {', '.join(sorted(CLASSIFIERS))} on an encoder, got {spec.type!r}")


def build_inner_optimizer(links: Sequence[Component]) -> InnerOptimizer:
    """Build the chain of `links`, as a gradient learner takes its steps with it.

    Raises:
        SpecInvalid: there is no link, an unknown name or option, or links that do not go together.
    """
    if not links:
        raise SpecInvalid(
            "a gradient learner needs at least one inner optimizer, e.g. inner = [{type = 'sgd', rate = 0.1}]"
        )
    built = [build_component("inner optimizer", INNER_OPTIMIZERS, link) for link in links]
    try:
        return chain(*built)
    except ValueError as error:
        raise SpecInvalid(f"inner = {', '.join(link.type for link in links)}: {error}") from error


def _row(kind: str, table: Mapping[str, T], name: str) -> T:
    if name not in table:
        raise SpecInvalid(f"unknown {kind} {name!r}; there are: {', '.join(sorted(table))}")
    return table[name]


def build_component(kind: str, table: Mapping[str, Callable[..., T]], component: Component, *arguments: Any) -> T:
    """Build what `component` names in `table`, its options checked against the annotations of the builder.

    Raises:
        SpecInvalid: an unknown name or option, or one of a wrong type or value; the message names the `kind`.
    """
    builder = _row(kind, table, component.type)
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(builder)
    try:
        return checked(*arguments, **component.options)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False)
        )
        raise SpecInvalid(f"{kind} {component.type!r}: {problems}") from error
    except ValueError as error:
        raise SpecInvalid(f"{kind} {component.type!r}: {error}") from error
