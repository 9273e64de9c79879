"""The same episodes through a running server and in this process: does serving change the answers?

EpisodeSampler ──indices──> uint8 pixels ──PNG or tensor, client.adapt / classify──> labels ─┐
               └──sample──> learner.adapt / predict ───────────────────────────────> labels ─┴─> share that agrees
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kshot import Client
from kshot_models.load import LoadedLearner
from kshot_training.data import EpisodeSampler
from kshot_training.data.episodes import Slots
from kshot_training.errors import EpisodeError

__all__ = ["Agreement", "BodyKind", "Comparison", "compare"]

BodyKind = Literal["png", "tensor"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """What one episode gave: probabilities of its queries on both sides, and their targets."""

    served: NDArray[np.float64]  # (queries, way)
    in_process: NDArray[np.float64]  # (queries, way)
    targets: NDArray[np.int64]  # (queries,)


@dataclass(frozen=True)
class Agreement:
    """Means over episodes; accuracies with half the width of their 95% interval."""

    episodes: int
    queries: int
    accuracy: float  # through the server
    ci95: float
    accuracy_in_process: float
    same_label: float  # share of all queries with the same best label on both sides
    largest_difference: float  # in any probability


def compare(
    loaded: LoadedLearner,
    sampler: EpisodeSampler,
    client: Client,
    *,
    model: str,
    episodes: int,
    body: BodyKind = "png",
    workers: int = 1,
) -> Agreement:
    """Answer the first `episodes` episodes both ways.

    Args:
        loaded: the artifact, as this process has it.
        sampler: of episodes of one way and shot.
        client: of a server that serves the same version.
        model: its name there.
        episodes: at least 2.
        body: how images are sent: PNG files, or one uint8 tensor.
        workers: episodes side by side.

    Raises:
        EpisodeError: too few episodes, or the server serves another artifact than `loaded`.
        KshotError: what the client could not do.
    """
    if episodes < 2:
        raise EpisodeError(f"expected at least 2 episodes, got {episodes}: one has no confidence interval")
    served = client.model(model)
    if served.digest != loaded.digest:
        raise EpisodeError(
            f"expected the server to serve {loaded.manifest.name} of digest {loaded.digest[:12]}, it serves "
            f"{served.digest[:12]}: start it with the same artifact"
        )
    wrap = _png if body == "png" else _tensor

    def one(number: int) -> Comparison:
        return _compare_one(loaded, sampler, client, model, number, wrap)

    with ThreadPoolExecutor(workers, thread_name_prefix="kshot-compare") as pool:
        return summarise(list(pool.map(one, range(episodes))))


def summarise(comparisons: list[Comparison]) -> Agreement:
    """Means, interval and agreement over episodes."""
    right = [float((c.served.argmax(1) == c.targets).mean()) for c in comparisons]
    here = [float((c.in_process.argmax(1) == c.targets).mean()) for c in comparisons]
    same = [int((c.served.argmax(1) == c.in_process.argmax(1)).sum()) for c in comparisons]
    queries = sum(len(c.targets) for c in comparisons)
    return Agreement(
        episodes=len(comparisons),
        queries=queries,
        accuracy=math.fsum(right) / len(right),
        ci95=1.96 * float(np.std(right, ddof=1)) / math.sqrt(len(right)),
        accuracy_in_process=math.fsum(here) / len(here),
        same_label=sum(same) / queries,
        largest_difference=max(float(np.abs(c.served - c.in_process).max()) for c in comparisons),
    )


def _compare_one(
    loaded: LoadedLearner,
    sampler: EpisodeSampler,
    client: Client,
    model: str,
    number: int,
    wrap: Callable[[Pixels], bytes | Pixels],
) -> Comparison:
    indices = sampler.episode_indices(number)
    way = sampler.way_at(number)
    labels = [f"class {target:02d}" for target in range(way)]
    support = [wrap(pixels) for pixels in _pixels(sampler, indices.support)]
    pairs = [(labels[t], image) for t, image in zip(indices.support.targets[0], support, strict=True)]
    session = client.adapt(model, pairs)
    answers = session.classify([wrap(pixels) for pixels in _pixels(sampler, indices.query)])
    served = np.array([[answer.probabilities[label] for label in labels] for answer in answers])
    return Comparison(served, _in_process(loaded, sampler, number, way), indices.query.targets[0])


def _in_process(loaded: LoadedLearner, sampler: EpisodeSampler, number: int, way: int) -> NDArray[np.float64]:
    batch = sampler.sample(number, 1)
    support = type(batch.support)(*(part[0] for part in batch.support))
    with torch.no_grad():
        task = loaded.learner.adapt(loaded.meta_params, support, way=way)
        logits = loaded.learner.predict(loaded.meta_params, task, batch.query.inputs[0])
    return np.asarray((logits / loaded.manifest.calibration.temperature).softmax(1).double())


def _pixels(sampler: EpisodeSampler, slots: Slots) -> list[Pixels]:
    """The images (height, width, channels) of a set of one episode, turned as in the episode."""
    device = sampler.classes.device
    images, turns = (torch.from_numpy(part[0].copy()).to(device) for part in (slots.images, slots.turns))
    return list(sampler.classes.pixels(images, turns).cpu().numpy())


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def _tensor(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels)
