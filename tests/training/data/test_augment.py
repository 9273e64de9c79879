"""The affine augmentation against maps whose result is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kshot_training.data import Warp
from kshot_training.data.errors import OptionInvalid

HALF = 0.5  # no change
TOP = 1.0  # the whole bound


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.sin(0.4 * x + 0.1 * y)[None, None].double()


def draws(**changes: float) -> np.ndarray:
    names = ["rotation", "scale_x", "scale_y", "shear", "translation_x", "translation_y"]
    return np.array([[changes.get(name, HALF) for name in names]])


def test_the_middle_of_all_draws_changes_nothing() -> None:
    images = smooth(12, 17)
    torch.testing.assert_close(Warp()(images, draws()), images)


def test_a_quarter_turn() -> None:
    images = smooth(16, 16)
    turned = Warp(rotation_degrees=90)(images, draws(rotation=TOP))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)))
    assert Warp().draws == 6


def test_a_quarter_turn_keeps_lengths_in_wide_images() -> None:
    images = smooth(16, 32)
    turned = Warp(rotation_degrees=90)(images, draws(rotation=TOP))
    torch.testing.assert_close(turned[..., 8:24], torch.rot90(images[..., 8:24], 1, (2, 3)))


def test_a_shift_by_whole_pixels() -> None:
    images = smooth(10, 10)
    shifted = Warp(translation=0.2)(images, draws(translation_x=TOP))
    torch.testing.assert_close(shifted[..., :8], images[..., 2:])
    torch.testing.assert_close(shifted[..., 8:], images[..., 9:].expand(-1, -1, -1, 2))  # the edge's colour


def test_larger_is_larger() -> None:
    images = torch.zeros(1, 1, 21, 21)
    images[..., 7:14, 7:14] = 1
    larger = Warp(scale=0.4)(images, draws(scale_x=TOP, scale_y=TOP))
    assert float(larger.sum()) == pytest.approx(49 * 1.4**2, rel=0.1)
    wider = Warp(scale=0.4)(images, draws(scale_x=TOP))
    assert float(wider.sum()) == pytest.approx(49 * 1.4, rel=0.1)


def test_shear_moves_rows_against_each_other() -> None:
    images = torch.zeros(1, 1, 21, 21)
    images[..., 10] = 1
    columns = Warp(shear=0.5)(images, draws(shear=TOP))[0, 0].argmax(dim=1)
    steps = columns[:-1] - columns[1:]
    assert int(steps.sum().abs()) == 10
    assert steps.unique().tolist() in ([-1, 0], [0, 1])


def test_every_image_changes_on_its_own() -> None:
    images = smooth(12, 12).expand(2, -1, -1, -1)
    changed = Warp()(images, np.concatenate([draws(), draws(rotation=TOP)]))
    torch.testing.assert_close(changed[0], images[0])
    assert not torch.allclose(changed[1], images[1], atol=1e-3)


def bent(knots: np.ndarray) -> np.ndarray:
    """The draws of one image that is changed by knots (2, 4, 4) alone, each in -1 to 1."""
    return np.concatenate([draws(), 0.5 + 0.5 * knots.reshape(1, -1)], axis=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_knots_that_agree_shift_the_image(interpolation: str) -> None:
    images = smooth(10, 10)
    warp = Warp(deformation=0.2, interpolation=interpolation)
    assert warp.draws == 6 + 2 * 4 * 4
    torch.testing.assert_close(warp(images, bent(np.zeros((2, 4, 4)))), images)
    across = np.stack([np.ones((4, 4)), np.zeros((4, 4))])
    torch.testing.assert_close(warp(images, bent(across))[..., :7], images[..., 2:9])


def test_one_knot_moves_what_is_near_it() -> None:
    images = smooth(31, 31)
    knots = np.zeros((2, 4, 4))
    knots[1, 0, 0] = 1  # downwards, at the upper left corner
    moved = (Warp(deformation=0.1)(images, bent(knots)) - images).abs()[0, 0]
    assert moved[:8, :8].max() > 0.1
    assert moved[:, 22:].max() < 1e-12  # beyond the reach of a cubic, and so on the other side
    assert moved[22:].max() < 1e-12
    # By the cubic convolution of Keys (1981) with a = -0.75, which is 0 at all knots but its own.
    assert moved[10, 10] < 1e-12
    assert moved[20, 0] < 1e-12


def test_a_cubic_stays_within_the_image_and_is_sharper() -> None:
    images = torch.zeros(1, 1, 12, 12)
    images[..., 6] = 1
    half = draws(translation_x=0.75)  # half a pixel
    soft, sharp = (Warp(translation=1 / 12, interpolation=kind)(images, half) for kind in ("bilinear", "bicubic"))
    assert float(soft.max()) == pytest.approx(0.5, abs=1e-5)
    assert float(sharp.max()) > 0.55
    assert float(sharp.min()) >= 0.0


@pytest.mark.parametrize("bounds", [{"scale": 1.0}, {"shear": -0.1}, {"deformation": -0.1}])
def test_bounds_that_make_no_sense(bounds: dict[str, float]) -> None:
    with pytest.raises(OptionInvalid, match="bounds of at least 0"):
        Warp(**bounds)
