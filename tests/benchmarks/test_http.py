"""The clients of `kshot bench serve`: bodies that the server reads, each with another support set."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from kshot_bench.bodies import BODIES, BodyKind, query_body
from kshot_bench.tasks import draw_tasks
from kshot_bench.work import Work
from kshot_server.bodies.tensors import parse_tensors


def test_safetensors_bodies_are_read_and_all_differ(tiny: Work) -> None:
    contents = [body.content for body in itertools.islice(BODIES["safetensors"](tiny, 3, queries=True), 4)]
    assert len(set(contents)) == 4
    (task,) = draw_tasks(tiny, 1, first=3)
    for content in contents:
        read = parse_tensors(content, max_pixels=1000)
        assert read.support is not None
        assert read.queries is not None
        assert (read.support[1:] == task.support[1:]).all()
        assert (read.queries == task.queries).all()
        assert list(read.labels) == [f"class {target:03d}" for target in task.targets]
    assert parse_tensors(query_body(tiny).content, max_pixels=1000).queries is not None


def test_png_bodies_differ(tiny: Work) -> None:
    bodies = [json.loads(body.content) for body in itertools.islice(BODIES["png"](tiny, 3, queries=True), 4)]
    supports = [json.dumps(body["support"]) for body in bodies]
    assert len(set(supports)) == 4
    assert all(len(body["support"]) == tiny.support and len(body["queries"]) == tiny.queries for body in bodies)
    (only,) = itertools.islice(BODIES["png"](tiny, 3, queries=False), 1)
    assert "queries" not in json.loads(only.content)


@pytest.mark.parametrize("kind", ["safetensors", "png"])
def test_two_seeds_send_different_bodies(kind: BodyKind, tiny: Work) -> None:
    def first(seed: int) -> Any:
        return next(BODIES[kind](tiny, seed, queries=False)).content

    assert first(1) == first(1) != first(2)
