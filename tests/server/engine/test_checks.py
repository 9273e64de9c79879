from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from kshot_server.engine.checks import check_request
from kshot_server.engine.repository import ModelRepository
from kshot_server.engine.requests import AdaptRequest, ClassifyRequest, Support


def images(n: int, dtype: type = np.uint8, size: int = 12) -> np.ndarray:
    return np.zeros((n, size, size, 1), dtype)


GOOD = Support(images(4), np.array([0, 1, 1, 0]), 2)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"inputs": images(4, np.float32)}, "invalid_tensor"),
        ({"inputs": images(4, size=11)}, "invalid_tensor"),
        ({"inputs": images(4)[..., 0]}, "invalid_tensor"),
        ({"inputs": "pixels"}, "invalid_tensor"),
        ({"inputs": images(0), "targets": np.zeros(0, np.int64)}, "empty_support"),
        ({"way": 1, "targets": np.zeros(4, np.int64)}, "single_class"),
        ({"way": 13}, "too_many_classes"),
        ({"inputs": images(41), "targets": np.arange(41) % 2}, "too_many_examples"),
        ({"targets": np.array([0, 1, 1])}, "invalid_targets"),
        ({"targets": np.array([0, 1, 1, 0], np.int32)}, "invalid_targets"),
        ({"targets": np.array([0, 1, 1, 2])}, "invalid_targets"),
        ({"targets": np.array([0, 1, 1, -1])}, "invalid_targets"),
        ({"targets": [0, 1, 1, 0]}, "invalid_targets"),
        ({"way": 3}, "class_without_examples"),
    ],
)
def test_a_wrong_support_set_is_named(models: ModelRepository, changes: dict, code: str) -> None:
    manifest = models.find("gradient").manifest
    support = dataclasses.replace(GOOD, **changes)
    for request in (
        AdaptRequest(manifest.digest, "s", support, math.inf),
        ClassifyRequest(manifest.digest, "s", images(1), support, math.inf),
    ):
        failed = check_request(request, manifest)
        assert failed is not None
        assert failed.code == code


@pytest.mark.parametrize(
    ("queries", "code"),
    [
        (images(0), "empty_queries"),
        (images(301), "too_many_queries"),
        (images(2, np.int16), "invalid_tensor"),
        (None, "invalid_tensor"),
    ],
)
def test_wrong_queries_are_named(models: ModelRepository, queries: np.ndarray, code: str) -> None:
    manifest = models.find("gradient").manifest
    failed = check_request(ClassifyRequest(manifest.digest, "s", queries, GOOD, math.inf), manifest)
    assert failed is not None
    assert failed.code == code


def test_what_is_right_passes(models: ModelRepository) -> None:
    manifest = models.find("gradient").manifest
    assert check_request(AdaptRequest(manifest.digest, "s", GOOD, math.inf), manifest) is None
    for support in (GOOD, None):
        assert check_request(ClassifyRequest(manifest.digest, "s", images(300), support, math.inf), manifest) is None
