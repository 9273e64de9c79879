"""Where images are decoded: small files by one thread, large ones side by side, few pixels at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from kshot_server.decoding import Decoder, Images

SMALL: Images = (b"x" * 500,) * 20
LARGE: Images = (b"x" * 100_000,)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(threads=2)
    yield made
    made.close()


def thread() -> str:
    return threading.current_thread().name


def test_small_files_are_decoded_one_after_the_other(decoder: Decoder) -> None:
    at_work = threading.Lock()

    def work() -> str:
        assert at_work.acquire(blocking=False)
        threading.Event().wait(0.01)
        at_work.release()
        return thread()

    async def many() -> list[str]:
        return await asyncio.gather(*(decoder.decode(work, SMALL, SMALL) for _ in range(5)))

    assert set(asyncio.run(many())) == {"decode-small_0"}


def test_large_files_are_decoded_side_by_side(decoder: Decoder) -> None:
    both = threading.Barrier(2, timeout=10)  # broken if one waits for the other

    def work() -> str:
        both.wait()
        return thread()

    async def two() -> list[str]:
        return await asyncio.gather(decoder.decode(work, LARGE), decoder.decode(work, SMALL, LARGE))

    assert len(set(asyncio.run(two()))) == 2


def test_few_pixels_are_not_handed_to_a_thread_and_many_are(decoder: Decoder) -> None:
    few, many = (np.zeros((count, 28, 28, 1), np.uint8) for count in (20, 200))
    assert asyncio.run(decoder.decode(thread, few, few)) == thread()
    assert asyncio.run(decoder.decode(thread, few, many)).startswith("decode")
    assert asyncio.run(decoder.decode(thread, few, SMALL)).startswith("decode")


def test_nothing_is_decoded_after_the_end() -> None:
    decoder = Decoder(threads=1)
    decoder.close()
    for images in (SMALL, LARGE):
        with pytest.raises(RuntimeError, match="shutdown"):
            asyncio.run(decoder.decode(thread, images))
