"""Small random changes of images, for training only: each image turned, scaled, sheared, shifted and bent on its own.

It makes up for data sets with few images in a class. Test episodes are never augmented.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kshot_training.data.errors import OptionInvalid

__all__ = ["Augmentation", "Warp"]

_KNOTS = 4  # along each side, of the grid that bends an image: enough to move a stroke against its neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp:
    """A random affine map of each image about its middle, and a smooth deformation (Simard et al., 2003).

    What comes in from outside has the colour of the edge.

    Args:
        rotation_degrees: turned by up to so much, either way.
        scale: made larger or smaller by up to this share, along each side on its own.
        shear: sheared by up to this tangent, either way.
        translation: shifted by up to this share of each side.
        deformation: each knot of a 4 x 4 grid shifted by up to this share of each side, and all between them smoothly.
        interpolation: `bicubic` keeps thin strokes as sharp as they were, `bilinear` takes less time.

    Raises:
        OptionInvalid: a negative bound, or a scale of 1 or more.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.1
    shear: float = 0.1
    translation: float = 0.1
    deformation: float = 0.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        bounds = (self.rotation_degrees, self.scale, self.shear, self.translation, self.deformation)
        if min(bounds) < 0 or self.scale >= 1:
            raise OptionInvalid(f"expected bounds of at least 0 and a scale below 1, got {self}")

    @property
    def draws(self) -> int:
        """How many uniform numbers one image takes."""
        return 6 + (2 * _KNOTS**2 if self.deformation else 0)

    def __call__(self, inputs: Tensor, uniforms: NDArray[np.float64]) -> Tensor:
        """Change each image.

        Args:
            inputs: (n, C, H, W) float.
            uniforms: (n, draws) in [0, 1); one half everywhere changes nothing.

        Returns:
            (n, C, H, W), the same for the same uniforms up to rounding.
        """
        height, width = inputs.shape[-2:]
        signed = 2.0 * uniforms - 1.0
        maps = torch.from_numpy(self._maps(signed[:, :6], aspect=height / width))
        grid = functional.affine_grid(maps.to(inputs), list(inputs.shape), align_corners=False)
        if self.deformation:
            knots = torch.from_numpy(2.0 * self.deformation * signed[:, 6:]).to(inputs).reshape(-1, 2, _KNOTS, _KNOTS)
            shifts = functional.interpolate(knots, (height, width), mode="bicubic", align_corners=True)
            grid = grid + shifts.movedim(1, -1)
        found = functional.grid_sample(
            inputs, grid, mode=self.interpolation, padding_mode="border", align_corners=False
        )
        if self.interpolation == "bilinear":
            return found
        within = inputs.flatten(1)  # a cubic runs beyond the values that it joins
        lowest, highest = (bound[:, None, None, None] for bound in (within.amin(1), within.amax(1)))
        return found.clamp(lowest, highest)

    def _maps(self, signed: NDArray[np.float64], *, aspect: float) -> NDArray[np.float64]:
        """(n, 2, 3) from places in the result to places in the image; both sides run from -1 to 1."""
        turn, scale_x, scale_y, shear, shift_x, shift_y = signed.T
        angle = math.radians(self.rotation_degrees) * turn
        cosine, sine = np.cos(angle), np.sin(angle)
        slant = self.shear * shear
        across, down = 1.0 / (1.0 + self.scale * scale_x), 1.0 / (1.0 + self.scale * scale_y)
        # Turning and shearing act on lengths, so the sides' own units are undone around them.
        rows = [
            [across * cosine, aspect * across * (slant * cosine - sine), 2.0 * self.translation * shift_x],
            [down * sine / aspect, down * (slant * sine + cosine), 2.0 * self.translation * shift_y],
        ]
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


Augmentation = Warp
"""What episode samplers take. A union once there is a second way."""
