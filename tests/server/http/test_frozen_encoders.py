"""What `kshot export --encoder` wrote is taught and asked over HTTP like any other model."""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from kshot_server.engine.repository import ModelRepository
from kshot_server.local import open_application
from kshot_server.settings import Settings
from kshot_training.commands import export

BRIGHTNESS = {"dark": 30, "middle": 120, "bright": 220}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_encoder: Callable[..., bytes]) -> Path:
    """A repository of the command's output, one model for each head."""
    root = tmp_path_factory.mktemp("served")
    (root / "tiny.onnx").write_bytes(make_encoder(channels=3))
    parser = argparse.ArgumentParser()
    export.configure(parser)
    for head in ("prototype", "ridge", "matching", "anil"):
        options = ["--head", head, "--name", head, "--length", "raw", "--out", str(root / "models")]
        assert export.run(parser.parse_args(["--encoder", str(root / "tiny.onnx"), *options])) == 0
    return root / "models"


def picture(brightness: int, seed: int) -> str:
    noise = np.random.default_rng(seed).integers(-15, 15, (20, 16, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(brightness + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("name", ["prototype", "ridge", "matching", "anil"])
def test_it_is_taught_and_asked(models: Path, name: str) -> None:
    support = [
        {"label": label, "image": picture(value, seed)}
        for label, value in BRIGHTNESS.items()
        for seed in range(3)
    ]  # fmt: skip
    queries = [{"image": picture(value, 10)} for value in BRIGHTNESS.values()]
    transport = open_application(Settings(), ModelRepository([models]))
    with httpx.Client(transport=transport, base_url="http://local", timeout=60) as client:
        made = client.post(f"/v1/models/{name}/sessions", json={"support": support})
        again = client.post(f"/v1/models/{name}/sessions", json={"support": support[::-1]})
        assert (made.status_code, again.status_code) == (201, 200)
        assert made.json()["id"] == again.json()["id"]
        asked = client.post(f"/v1/sessions/{made.json()['id']}/classify", json={"queries": queries})
        assert asked.status_code == 200
        assert [each["label"] for each in asked.json()["predictions"]] == list(BRIGHTNESS)
        told = client.get(f"/v1/models/{name}").json()
        assert told["input"]["height"] == 12
