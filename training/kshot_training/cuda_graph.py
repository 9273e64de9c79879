"""Capture of a program as a CUDA graph: hundreds of small kernels, launched by one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["captured"]


def captured(program: Callable[[], None], device: torch.device, *, restore: Callable[[], None]) -> Callable[[], None]:
    """A call that plays `program` again; where there is no GPU, the program itself.

    Args:
        program: reads and writes tensors on the device that outlive it, and never waits for the device.
        device: where it runs.
        restore: undoes what one run of `program` did: it runs once before it is captured, as that compiles kernels,
            makes an optimizer's state and the handles of libraries, none of which a graph may hold.
    """
    if device.type != "cuda":
        return program
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's own
    current = torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        program()
    current.wait_stream(side)
    restore()
    graph = torch.cuda.CUDAGraph()
    # Other threads, those of libraries too, may use the device meanwhile.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        program()
    play: Callable[[], None] = graph.replay
    return play
