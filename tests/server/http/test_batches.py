"""Requests that ride in one batch of the engine, on a real server: a bad one, and one whose client has gone.

The model is slow enough for a crowd to gather while its first adaptations run, so that the others share batches.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kshot_server.sessions.identity import canonicalise, session_id
from kshot_server.sessions.stores.table import open_store

from .watching import metric, post_all, until

PATIENT = ("--timeout", "200", "--log-level", "warning")
LABELS = ("ant", "bee", "cat")
TEACH = "/v1/models/brittle/sessions"
CLASSIFY = "/v1/models/brittle/classify"
ALONE = 'kshot_engine_batch_size_bucket{le="1.0",operation="adapt"}'
ADAPTATIONS = 'kshot_engine_batch_size_sum{operation="adapt"}'
# As the answers tell it: those that failed have no batch to tell of.
TOLD_ALONE = 'kshot_batch_size_bucket{le="1.0",operation="adapt"}'


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max(32, 2 * lanes() + 1)) as opened:
        yield opened


def lanes() -> int:
    """As many batches as the engine computes side by side."""
    return len(os.sched_getaffinity(0))


def noise(seed: int, *, contrast: int) -> NDArray[np.uint8]:
    """Six images of 12 x 12 pixels around mid-grey."""
    return np.random.default_rng(seed).integers(128 - contrast, 128 + contrast, (6, 12, 12), dtype=np.uint8)


def body(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """A support set of two images of each label."""
    return {"support": [{"label": LABELS[i // 2], "image": png(image)} for i, image in enumerate(pixels)]}


def png(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_one_bad_item_of_32_costs_one_4xx(
    serve: Any, family: Any, application: Any, brittle: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """32 support sets for one model at once. One diverges, in a batch with others: it alone is refused."""
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    with serve("--models", str(brittle), "--store", store, *PATIENT) as server:
        (engine,) = family(server).engines

        def share_a_batch(round_: int) -> bool:
            """Whether the bad one had company, which is the engine's to choose."""
            bad = 15
            support = [noise(100 * round_ + i, contrast=128 if i == bad else 2) for i in range(32)]
            alone, told_alone = (metric(server.url, name) for name in (ALONE, TOLD_ALONE))
            adapted = metric(server.url, ADAPTATIONS)
            engine.suspend()  # until the server has them all, so that a crowd is there however slow the machine
            sent = post_all(pool, server.url, TEACH, [body(pixels) for pixels in support])
            engine.resume()
            answers = [future.result() for future in sent]
            assert [i for i, answer in enumerate(answers) if answer.status_code != 201] == [bad]
            assert (answers[bad].status_code, answers[bad].json()["code"]) == (422, "adaptation_diverged")
            ids = asyncio.run(ids_of(store, server.url, support))
            assert [answer.json().get("id") for answer in answers] == [*ids[:bad], None, *ids[bad + 1 :]]
            kept = httpx.get(f"{server.url}/v1/sessions", params={"limit": 1000}).json()["sessions"]
            assert {session["id"] for session in kept} >= set(ids) - {ids[bad]}
            assert ids[bad] not in {session["id"] for session in kept}
            assert httpx.get(f"{server.url}/v1/sessions/{ids[bad]}").status_code == 404
            assert httpx.get(f"{server.url}/v1/sessions/{ids[0]}").status_code == 200
            until(lambda: metric(server.url, ADAPTATIONS) == adapted + 32)
            return metric(server.url, ALONE) - alone == metric(server.url, TOLD_ALONE) - told_alone

        assert any(share_a_batch(round_) for round_ in range(10))
        # Those beside it learned what they learn alone.
        with application(folder=brittle) as alone:
            for seed in (0, 14, 16, 31):
                asked = body(noise(seed, contrast=2)) | {"queries": [{"image": png(noise(99, contrast=2)[0])}]}
                beside = httpx.post(server.url + CLASSIFY, json=asked, timeout=60).json()
                (got,), (wanted,) = (beside["predictions"], alone.post(CLASSIFY, json=asked).json()["predictions"])
                assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)


async def ids_of(store: str, url: str, supports: list[NDArray[np.uint8]]) -> list[str]:
    """The ids that support sets have, whether or not they became sessions: the file holds the key of all ids."""
    opened = open_store(store)
    try:
        key = await opened.session_key()
    finally:
        await opened.close()
    digest = httpx.get(f"{url}/v1/models/brittle").json()["digest"]
    labels = [LABELS[i // 2] for i in range(6)]
    return [session_id(key, "default", digest, canonicalise(labels, pixels[..., None])) for pixels in supports]


def test_the_work_of_a_client_that_has_gone_is_dropped(
    serve: Any, family: Any, brittle: Path, pool: ThreadPoolExecutor
) -> None:
    """It waits behind others when its client hangs up. They are computed, it never is."""
    before = 2 * lanes()
    with serve("--models", str(brittle), *PATIENT) as server:
        (engine,) = family(server).engines
        engine.suspend()
        sent = post_all(pool, server.url, TEACH, [body(noise(i, contrast=2)) for i in range(before)])
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + TEACH, json=body(noise(before, contrast=2)), timeout=1)
        until(lambda: metric(server.url, "kshot_in_flight ") == before)
        engine.resume()
        assert [future.result().status_code for future in sent] == [201] * before
        until(lambda: metric(server.url, 'kshot_engine_outcomes{outcome="cancelled"}') == 1)
        until(lambda: metric(server.url, 'kshot_engine_outcomes{outcome="adapted"}') == before)
        assert metric(server.url, ADAPTATIONS) == before
        assert metric(server.url, 'kshot_engine_requests{state="pending"}') == 0
        assert len(httpx.get(f"{server.url}/v1/sessions").json()["sessions"]) == before
