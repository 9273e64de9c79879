"""The ridge head against plain numpy, Woodbury's identity, and the limits of its regularizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kshot_models.heads.ridge import ridge, ridge_weights
from kshot_models.types import Examples

WAY, FEATURES = 3, 7


def embedded(shot: int, *, padding: int = 0) -> tuple[Tensor, Examples]:
    """Support embeddings (n, FEATURES), garbage where there is padding, and the examples that they belong to."""
    generator = torch.Generator().manual_seed(shot)
    n = WAY * shot
    features = torch.randn(n, FEATURES, generator=generator, dtype=torch.float64)
    features = torch.cat([features, torch.full((padding, FEATURES), 1e6).double()])
    targets = torch.cat([torch.arange(WAY).repeat_interleave(shot), torch.zeros(padding, dtype=torch.int64)])
    weights = torch.cat([torch.ones(n), torch.zeros(padding)]).double()
    return features, Examples(features, targets, weights)


def classifier(shot: int, *, regularizer: float, scale: float = 1.0, padding: int = 0, way: int = WAY) -> Tensor:
    """The head's rows (way, FEATURES)."""
    features, support = embedded(shot, padding=padding)
    head = ridge(FEATURES, regularizer=regularizer, scale=scale)
    exact = {"log_regularizer": math.log(regularizer), "log_scale": math.log(scale)}
    params = {name: torch.tensor(value, dtype=torch.float64) for name, value in exact.items()}
    for name, value in head.init(torch.Generator()).items():  # the same in the precision that artifacts store
        torch.testing.assert_close(value, params[name].float())
    return head.start(params, lambda: features, support, way)["weight"]


@pytest.mark.parametrize("shot", [1, 2, 3, 5])  # 3 to 15 examples of 7 features: either form of the solution
def test_equals_least_squares_in_numpy(shot: int) -> None:
    features, _ = embedded(shot)
    x, y = features.numpy(), np.eye(WAY).repeat(shot, 0)
    # |X W - Y|^2 + r |W|^2 is plain least squares with sqrt(r) I below X and zeros below Y.
    stacked = np.vstack([x, np.sqrt(0.3) * np.eye(FEATURES)])
    expected = np.linalg.lstsq(stacked, np.vstack([y, np.zeros((FEATURES, WAY))]), rcond=None)[0]
    found = classifier(shot, regularizer=0.3, scale=2.0)
    np.testing.assert_allclose(found.numpy(), 2.0 * expected.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shot", [1, 2])
def test_both_forms_are_one_solution(shot: int) -> None:
    features, support = embedded(shot)
    members = torch.nn.functional.one_hot(support.targets, WAY).double()
    regularizer = torch.tensor(0.7, dtype=torch.float64)
    few = ridge_weights(features, members, regularizer)
    # Rows of zeros change nothing, but with them there are more examples than features: the other form.
    more = FEATURES - len(features) + 1
    many = ridge_weights(
        torch.cat([features, features.new_zeros(more, FEATURES)]),
        torch.cat([members, members.new_zeros(more, WAY)]),
        regularizer,
    )
    torch.testing.assert_close(few, many, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padding", [1, 4, 20])
def test_padding_and_absent_classes_have_no_part(padding: int) -> None:
    plain = classifier(2, regularizer=0.3)
    padded = classifier(2, regularizer=0.3, padding=padding, way=WAY + 2)
    torch.testing.assert_close(padded[:WAY], plain, rtol=0, atol=1e-10)
    assert (padded[WAY:] == 0).all()


def test_without_regularization_the_support_set_is_fitted_exactly() -> None:
    features, support = embedded(2)
    fitted = features @ classifier(2, regularizer=1e-9).T
    expected = torch.nn.functional.one_hot(support.targets, WAY).double()
    torch.testing.assert_close(fitted, expected, rtol=0, atol=1e-5)


def test_with_much_regularization_it_is_the_sum_of_each_class() -> None:
    features, _ = embedded(2)
    sums = features.reshape(WAY, 2, FEATURES).sum(1)
    torch.testing.assert_close(1e9 * classifier(2, regularizer=1e9), sums, rtol=0, atol=1e-5)
