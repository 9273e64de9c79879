"""A server on ONNX Runtime beside one on torch: the same sessions, the same answers, and no torch in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from kshot import Client
from kshot.glyphs import draw_glyph
from kshot_models.batched import native  # noqa: F401 - with all kernels behind it
from kshot_models.native.jit import compile_all

TOLERANCE = 1e-4  # in a probability


def libraries(server: Any) -> str:
    """What the processes of a server have mapped into their memory."""
    main = psutil.Process(server.process.pid)
    maps = []
    for process in [main, *main.children(recursive=True)]:
        with contextlib.suppress(OSError):  # it has just ended
            maps.append(Path(f"/proc/{process.pid}/maps").read_text())
    return "".join(maps)


@pytest.mark.parametrize("by", ["kernels", "graphs"])
def test_replicas_of_both_runtimes_share_their_sessions(
    by: str, serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_all()
    support = {f"glyph {i}": [draw_glyph(i, hand) for hand in range(2)] for i in range(5)}
    queries = [draw_glyph(i, hand) for hand in (7, 8) for i in range(5)]
    shared = ("--store", f"sqlite:{tmp_path / 'sessions.db'}")
    with serve("--runtime", "torch", *shared) as heavy:
        if by == "graphs":  # as where nothing has been compiled
            monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "nothing"))
        with (
            serve("--runtime", "onnxruntime", *shared) as light,
            Client(light.url) as one,
            Client(heavy.url) as other,
        ):
            taught = one.adapt("omniglot", support)
            known = other.session(taught.id)
            assert other.adapt("omniglot", support).id == taught.id
            found, expected = (
                np.array([[each.probabilities[label] for label in support] for each in session.classify(queries)])
                for session in (taught, known)
            )
            mapped = libraries(light), libraries(heavy)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert ["libtorch" in each for each in mapped] == [False, True]
    assert ["onnxruntime" in each for each in mapped] == [by == "graphs", False]
