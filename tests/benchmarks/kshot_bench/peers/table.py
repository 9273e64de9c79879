"""The peers by name. They are extras: a missing one is an error that says what to install, never a row left out."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence

from kshot_bench.errors import PeerMissing
from kshot_bench.peers.base import Peer
from kshot_bench.work import Work
from kshot_models.types import Params

__all__ = ["ADAPTING", "FROZEN", "build_peer", "require"]


def _autograd(work: Work, params: Params) -> Peer:
    from kshot_bench.peers.autograd_loop import AutogradLoop  # noqa: PLC0415 - see build_peer

    return AutogradLoop(work, params)


def _higher(work: Work, params: Params) -> Peer:
    from kshot_bench.peers.higher_loop import HigherLoop  # noqa: PLC0415 - see build_peer

    return HigherLoop(work, params)


def _torchopt(work: Work, params: Params) -> Peer:
    from kshot_bench.peers.torchopt_loop import TorchoptLoop  # noqa: PLC0415 - see build_peer

    return TorchoptLoop(work, params)


def _logistic(work: Work, params: Params) -> Peer:
    from kshot_bench.peers.logistic_head import LogisticHead  # noqa: PLC0415 - see build_peer

    return LogisticHead(work, params)


_PEERS: Mapping[str, tuple[str, Callable[[Work, Params], Peer]]] = {  # name -> (module it needs, how to build it)
    "higher": ("higher", _higher),
    "torchopt": ("torchopt", _torchopt),
    "autograd": ("torch", _autograd),
    "sklearn": ("sklearn", _logistic),
}

ADAPTING = ("higher", "torchopt", "autograd")  # do the inner loop of the work item
FROZEN = ("sklearn",)  # leave the encoder as it is


def require(names: Sequence[str]) -> None:
    """Make sure that peers can be built, before anything is measured.

    Raises:
        PeerMissing: naming all that are not installed and the extra that brings them.
    """
    missing = [name for name in names if importlib.util.find_spec(_PEERS[name][0]) is None]
    if missing:
        raise PeerMissing(
            f"kshot bench compares with {', '.join(names)}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'kshot[bench]'"
        )


def build_peer(name: str, work: Work, params: Params) -> Peer:
    """The peer of a name, starting from `params` on their device."""
    with warnings.catch_warnings():
        # `higher` and `torchopt` import what torch deprecates; they are here as they are.
        warnings.simplefilter("ignore")
        return _PEERS[name][1](work, params)
