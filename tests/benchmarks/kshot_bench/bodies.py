"""Request bodies whose support set is another one each time: a known support set would be answered from the cache.

safetensors   raw pixels; a counter is written over the first eight of them
png           JSON with base64 PNG files, the support images drawn from a pool
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from kshot_bench.tasks import draw_tasks
from kshot_bench.work import Work

__all__ = ["BODIES", "Body", "BodyKind", "query_body"]

BodyKind: TypeAlias = Literal["safetensors", "png"]
_POOL = 32


class Body(NamedTuple):
    """What is sent."""

    content: bytes
    content_type: str


def _safetensors(work: Work, seed: int, *, queries: bool) -> Iterator[Body]:
    (task,) = draw_tasks(work, 1, first=seed)
    tensors: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {"targets": task.targets, "support": task.support}
    if queries:
        tensors["queries"] = task.queries
    content = bytearray(save(tensors, {"labels": json.dumps(_labels(work))}))
    at = content.index(task.support.tobytes())
    for number in itertools.count():
        content[at : at + 8] = (number * 2654435761 + seed).to_bytes(8, "little")
        yield Body(bytes(content), "application/x-safetensors")


def _png(work: Work, seed: int, *, queries: bool) -> Iterator[Body]:
    tasks, labels = draw_tasks(work, _POOL, first=seed), _labels(work)
    pool = [[_encoded(image) for image in task.support] for task in tasks]
    asked = json.dumps([{"image": _encoded(image)} for image in tasks[0].queries])
    random = np.random.default_rng(seed)
    for _ in itertools.count():
        choice = random.integers(_POOL, size=work.support)
        support = [
            f'{{"label": "{labels[tasks[0].targets[place]]}", "image": "{pool[drawn][place]}"}}'
            for place, drawn in enumerate(choice)
        ]
        end = f', "queries": {asked}}}' if queries else "}"
        yield Body(f'{{"support": [{", ".join(support)}]{end}'.encode(), "application/json")


BODIES: Mapping[BodyKind, Callable[..., Iterator[Body]]] = {"safetensors": _safetensors, "png": _png}


def query_body(work: Work) -> Body:
    """One query image as raw pixels."""
    (task,) = draw_tasks(work, 1)
    return Body(save({"queries": task.queries[:1]}), "application/x-safetensors")


def _labels(work: Work) -> list[str]:
    return [f"class {number:03d}" for number in range(work.way)]


def _encoded(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
