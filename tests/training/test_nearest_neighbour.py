"""Nearest neighbour: the answers of a plain search, whatever the order of the support set and its padding."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot_models.load import load, resolve
from kshot_models.types import Examples
from kshot_training.commands import evaluate
from kshot_training.errors import EpisodeError
from kshot_training.nearest_neighbour import NearestNeighbour, nearest_neighbour_on
from kshot_training.results import read_rows


def examples(seed: int, targets: list[int], weights: list[float] | None = None) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(targets), 1, 28, 28, generator=generator)
    return Examples(inputs, torch.tensor(targets), torch.tensor(weights or [1.0] * len(targets)))


SUPPORT = examples(0, [0, 1, 1, 2, 0])
QUERIES = examples(1, [0] * 6).inputs


def test_pixels_are_searched() -> None:
    learner = NearestNeighbour()
    meta = learner.init(torch.Generator())
    logits = learner.predict(meta, learner.adapt(meta, SUPPORT, way=3), QUERIES).numpy()
    for query, row in zip(QUERIES.flatten(1).double().numpy(), logits, strict=True):
        best = [-np.inf] * 3
        for image, target in zip(SUPPORT.inputs.flatten(1).double().numpy(), SUPPORT.targets.tolist(), strict=True):
            cosine = query @ image / np.linalg.norm(query) / np.linalg.norm(image)
            best[target] = max(best[target], cosine)
        np.testing.assert_allclose(row, best, atol=1e-6)


@pytest.mark.parametrize("on", ["pixels", "features"])
def test_neither_order_nor_padding_nor_other_queries_matter(on: str) -> None:
    loaded = load("omniglot-prototype")
    learner = NearestNeighbour() if on == "pixels" else nearest_neighbour_on(loaded.learner, "support")
    meta = loaded.meta_params

    def answers(support: Examples, queries: torch.Tensor, way: int) -> torch.Tensor:
        with torch.no_grad():
            return learner.predict(meta, learner.adapt(meta, support, way=way), queries)

    plain = answers(SUPPORT, QUERIES, 3)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(answers(Examples(*(t[order] for t in SUPPORT)), QUERIES, 3), plain)
    torch.testing.assert_close(answers(SUPPORT, QUERIES[2:3], 3), plain[2:3])
    padded = Examples(*(torch.cat([t, t[:1] * 0]) for t in SUPPORT))
    wide = answers(padded, QUERIES, 5)
    torch.testing.assert_close(wide[:, :3], plain)
    assert (wide[:, 3:] < -1e30).all()


def test_the_baseline_is_evaluated_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: object) -> int:
        parser = argparse.ArgumentParser()
        evaluate.configure(parser)
        return evaluate.run(parser.parse_args([str(argument) for argument in arguments]))

    data = ("--data", "glyphs:classes=5,drawings=4", "--queries", 2, "--episodes", 4, "--threads", 1)
    record = ("--record", tmp_path / "rows.json", "--json", "--cache", tmp_path)
    seen = {}
    for on in ("pixels", "features"):
        assert call("omniglot-prototype", *data, *record, "--nearest", on) == 0
        seen[on] = json.loads(capsys.readouterr().out)
    pixels, features = read_rows(tmp_path / "rows.json")
    assert (pixels.algorithm, pixels.norm) == ("nearest neighbour, pixels", "none")
    assert (features.algorithm, features.norm) == ("nearest neighbour, features of omniglot-prototype", "support")
    assert pixels.accuracy == seen["pixels"]["accuracy"]
    assert features.command.endswith("--nearest features")
    assert call("omniglot-prototype", *data, "--nearest", "pixels", "--url", "http://127.0.0.1:1") == 2
    assert "leave out --url" in capsys.readouterr().err


@pytest.mark.omniglot
def test_data_are_split_as_for_training_and_another_split_is_told_of(
    tmp_path: Path, omniglot_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(resolve("omniglot-prototype"), tmp_path / "some")
    path = tmp_path / "some" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"]["data"] = "omniglot mixed"
    path.write_text(json.dumps(manifest))
    parser = argparse.ArgumentParser()
    evaluate.configure(parser)
    data = f"--data omniglot --data-root {omniglot_root} --nearest pixels --queries 1 --episodes 2 --threads 1"
    asked = f"{tmp_path / 'some'} {data} --record {tmp_path / 'rows.json'} --json --cache {tmp_path}"
    for more in ("", " --scheme vinyals"):
        assert evaluate.run(parser.parse_args((asked + more).split())) == 0
    mixed, apart = read_rows(tmp_path / "rows.json")
    assert (mixed.data, apart.data) == ("omniglot mixed test", "omniglot test")
    assert "--scheme vinyals" in apart.command
    told = capsys.readouterr()
    assert [json.loads(line)["scheme"] for line in told.out.splitlines()] == ["mixed", "vinyals"]
    assert told.err.count("split by mixed: classes of test by vinyals may be among those") == 1


def test_features_need_one_network() -> None:
    with pytest.raises(EpisodeError, match="one network"):
        nearest_neighbour_on(NearestNeighbour(), "support")
