"""The memory that one meta-gradient needs at its peak, above what the process had before it.

On a CPU that is resident memory, as the kernel counts it (VmHWM - VmRSS of /proc/self/status): of tensors, scratch of
the libraries and all else. On a GPU it is what torch's allocator gave out.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from kshot_bench.errors import BenchError
from kshot_bench.peers.table import ADAPTING, build_peer
from kshot_bench.tasks import draw_task, episode_of, learner_of, learner_spec, stacked
from kshot_bench.work import Work
from kshot_models.manifest import Component
from kshot_models.tree import meta_map
from kshot_models.types import Episode
from kshot_training.meta_gradients import MetaGradient, imaml, through_adaptation

__all__ = ["SUBJECTS", "peak_memory"]

_STRENGTH = 2.0  # of iMAML's proximal term: the paper's on Omniglot
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _unrolled(work: Work, device: str) -> Callable[[Episode], object]:
    return _ours(work, device, through_adaptation(batching="loop" if device == "cpu" else "vmap"), proximal=False)


def _recomputed(work: Work, device: str) -> Callable[[Episode], object]:
    return _ours(work, device, through_adaptation(recompute=0), proximal=False)


def _implicit(work: Work, device: str) -> Callable[[Episode], object]:
    return _ours(work, device, imaml(strength=_STRENGTH), proximal=True)


SUBJECTS = {
    "kshot": _unrolled,
    "kshot recomputed": _recomputed,
    "kshot iMAML": _implicit,
}  # and the peers, by their names


def peak_memory(subject: str, work: Work, device: str) -> float:
    """Bytes; to be asked of a process that has done nothing else.

    Raises:
        BenchError: this system does not tell.
    """
    run, episode = _subject(subject, work, device), episode_of(work, draw_task(work, 0), device=device)
    # A small task of another network first, which loads what is loaded once: libraries, and all kernels of this task.
    small = work.model_copy(
        update={"way": 3, "shot": 1, "steps": 1, "queries": 3, "channels": tuple(32 for _ in work.channels)}
    )
    _subject(subject, small, device)(episode_of(small, draw_task(small, 0), device=device))
    gc.collect()
    if device != "cpu":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run(episode)
        return float(torch.cuda.max_memory_allocated(device) - held)
    with suppress(OSError, AttributeError):  # other C libraries have no free lists to empty
        ctypes.CDLL(None).malloc_trim(0)
    before = _reset_peak()
    run(episode)
    return _kernel_bytes("VmHWM") - before


def _subject(name: str, work: Work, device: str) -> Callable[[Episode], object]:
    if name in SUBJECTS:
        return SUBJECTS[name](work, device)
    assert name in ADAPTING, name
    _, meta = learner_of(work, learner_spec(work))
    peer = build_peer(name, work, {key: value.to(device) for key, value in meta.init.items()})
    return lambda episode: peer.meta_gradient([episode])


def _ours(work: Work, device: str, meta_gradient: MetaGradient, *, proximal: bool) -> Callable[[Episode], object]:
    spec = learner_spec(work, norm="transductive")
    if proximal:
        pull = Component.model_validate({"type": "proximal", "strength": _STRENGTH})
        spec = spec.model_copy(update={"inner": (pull, *spec.inner)})
    learner, meta = learner_of(work, spec)
    meta = meta_map(lambda value: value.to(device), meta)
    return lambda episode: meta_gradient(
        learner, meta, stacked([episode]), way=work.way, generator=torch.Generator().manual_seed(0)
    )


def _reset_peak() -> float:
    """Make the peak what is resident now; that many bytes."""
    try:
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    except OSError as error:
        raise BenchError(f"peak memory is read from /proc, which this system does not offer: {error}") from error
    return _kernel_bytes("VmRSS")


def _kernel_bytes(name: str) -> float:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(value) * 1024
