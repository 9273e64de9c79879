"""Learning to optimize: a policy that reads the last steps of an optimization and writes the next one.

    z_k = grad_{t-k} / s            s = root mean square of the gradients in the window, by coordinate
    h   = tanh(W [z_0 .. z_{H-1}, changes of the loss, log s] + b)
    theta_{t+1} = theta_t + rate * s * exp(v . h) * (a . z + w . h)

In the words of Li and Malik (2016, arXiv:1606.01885), the state is the window of the last H steps, the action the step
vector, the cost the loss; this is the mean of the policy, which is what is used once it is trained. All coordinates
share one network and nothing ties them together (their coordinate groups, 2017, arXiv:1703.00441, with all coordinates
in one), so it fits any number of parameters.

Unlike in the papers the gradients are in units of their own size and the step is in units of the gradient's, so that a
policy does not depend on the scale of a problem unless it learns to (by log s), and its steps end where gradients do.
It starts at v = w = 0 and a_k = -momentum^k, which is gradient descent, with momentum over the window if so wished.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kshot_models.inner.coordinates import coordinates, count_coordinates, log_and_sign, shaped_like
from kshot_models.inner.transformation import GradientTransformation, InnerOptimizer, Objective
from kshot_models.types import Params

__all__ = ["PolicyState", "policy"]

_TINY = 1e-30  # under the root: a coordinate whose gradients were all 0 rests, and has a derivative


class PolicyState(NamedTuple):
    """The window, newest first; 0 where there was no step yet."""

    gradients: Tensor  # (history, coordinates)
    losses: Tensor  # (history,)
    steps: Tensor  # () float, steps taken


def policy(
    *, history: int = 25, hidden: int = 20, rate: float = 0.01, momentum: float = 0.0, p: float = 10.0
) -> InnerOptimizer:
    """The coordinatewise policy over the last steps.

    Args:
        history: H, how many steps it looks at, the current one included; 25 in the papers.
        hidden: units of its one hidden layer.
        rate: multiplies its steps; the fresh policy is gradient descent at this rate.
        momentum: of that descent; gradients older than the window are forgotten.
        p: where the logarithm of a gradient's size ends, see `log_and_sign`.

    Raises:
        ValueError: a history below 2, no unit, a rate or p that is not above 0, or a momentum out of [0, 1).
    """
    if history < 2 or hidden < 1 or rate <= 0 or p <= 0 or not 0 <= momentum < 1:
        raise ValueError(
            "expected a history of at least 2, at least 1 unit, rate and p above 0, momentum in [0, 1); "
            f"got {history}, {hidden}, {rate}, {p}, {momentum}"
        )

    def init(params: Params, generator: torch.Generator) -> Params:
        del params  # the policy is the same whatever it optimizes
        bound = (2 * history) ** -0.5

        def draw(*shape: int) -> Tensor:
            return torch.empty(shape).uniform_(-bound, bound, generator=generator)

        return {
            "hidden.gradients": draw(hidden, history),
            "hidden.changes": draw(hidden, history - 1),
            "hidden.scale": draw(hidden),
            "hidden.bias": draw(hidden),
            "output.gradients": torch.tensor([-(momentum**k) for k in range(history)]),
            "output.gain": torch.zeros(hidden),
            "output.step": torch.zeros(hidden),
        }

    def bind(phi: Params) -> GradientTransformation:
        def start(params: Params) -> PolicyState:
            some = next(iter(params.values()))
            window = some.new_zeros(history, count_coordinates(params))
            return PolicyState(window, some.new_zeros(history), some.new_zeros(()))

        def update(
            grads: Params, state: PolicyState, params: Params, loss: Tensor, *, objective: Objective | None = None
        ) -> tuple[Params, PolicyState]:
            del params, objective
            after = _remember(state, coordinates(grads), loss)
            scale = (after.gradients.square().sum(0) / after.steps.clamp(max=history) + _TINY).sqrt()
            signal = after.gradients / scale  # (history, coordinates)
            common = phi["hidden.changes"] @ _changes(after.losses) + phi["hidden.bias"]
            size = log_and_sign(scale, p)[0]
            seen = phi["hidden.gradients"] @ signal + phi["hidden.scale"][:, None] * size + common[:, None]
            units = seen.tanh()  # (hidden, coordinates)
            step = phi["output.gradients"] @ signal + phi["output.step"] @ units
            return shaped_like(rate * scale * (phi["output.gain"] @ units).exp() * step, grads), after

        return GradientTransformation(start, update)

    return InnerOptimizer(init, bind)


def _remember(state: PolicyState, gradient: Tensor, loss: Tensor) -> PolicyState:
    """The window one step on. Before the first step the loss counts as never having changed."""
    past = torch.where(state.steps == 0, loss, state.losses[:-1])
    gradients = torch.cat([gradient[None], state.gradients[:-1]])
    return PolicyState(gradients, torch.cat([loss.reshape(1), past]), state.steps + 1)


def _changes(losses: Tensor) -> Tensor:
    """What the loss is now against each of the losses before, in -1 to 1: (history - 1,)."""
    now, before = losses[0], losses[1:]
    return (now - before) / (now.abs() + before.abs() + _TINY)
