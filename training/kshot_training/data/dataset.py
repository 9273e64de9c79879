"""Classes of images, all in memory.

                 starts[0]     starts[1]            starts[2]
    images       | 0 0 0 0 0 0 | 1 1 1 1 1 1 1 1 1 | 2 2 2 2 ...      uint8, one class after the other
                   counts[0]     counts[1]           counts[2]

With `rotations`, every class counts four times: as it is, and turned by 90, 180 and 270 degrees counter-clockwise,
each a class of its own (Vinyals et al., 2016, arXiv:1606.04080). With `mirrored`, it counts twice as often: the mirror
images, left for right, are another class, and turn as it does. Images are turned when they are drawn; memory holds
them once.

    turn    0  1  2  3   as it is, by 90, 180, 270        4  5  6  7   mirrored, then so      (both)
            0            as it is                         1            mirrored               (mirrored alone)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot_models.load import normalise
from kshot_models.manifest import InputSpec
from kshot_training.data.errors import ClassUnknown, OptionInvalid

__all__ = ["ImageClasses"]

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClasses:
    """A data set: images by class.

    Args:
        images: uint8 (num_images, H, W, C), contiguous by class, on any device.
        starts: (num_names,) where each class begins in `images`.
        counts: (num_names,) how many images it has.
        names: of the classes, without their turns.
        spec: the input that the pixels were made for.
        rotations: whether each class counts four times.
        mirrored: whether its mirror image is another class.

    Raises:
        OptionInvalid: rotations of images that are not square.
    """

    images: Tensor
    starts: Ints
    counts: Ints
    names: tuple[str, ...]
    spec: InputSpec
    rotations: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.rotations and self.spec.height != self.spec.width:
            raise OptionInvalid(
                f"rotations need square images, got {self.spec.height} x {self.spec.width}: "
                "give the input equal sides, or leave rotations out"
            )

    @classmethod
    def of(cls, groups: Mapping[str, NDArray[np.uint8]], spec: InputSpec, *, rotations: bool = False) -> ImageClasses:
        """Put classes together.

        Args:
            groups: name -> uint8 (count, H, W, C), in the order of the classes.
            spec: the input that the pixels were made for.
            rotations: whether each class counts four times.
        """
        counts = np.array([len(group) for group in groups.values()], np.int64)
        empty = np.empty((0, spec.height, spec.width, spec.channels), np.uint8)
        pixels = np.concatenate([empty, *groups.values()])
        starts = np.cumsum(counts) - counts
        return cls(torch.from_numpy(pixels), starts, counts, tuple(groups), spec, rotations)

    @property
    def turns(self) -> int:
        """How often each name counts: 4 with rotations, else 1; twice as often if mirrored."""
        return (4 if self.rotations else 1) * (2 if self.mirrored else 1)

    @property
    def num_classes(self) -> int:
        """How many classes there are, turns counted."""
        return len(self.names) * self.turns

    @property
    def num_images(self) -> int:
        """How many images are in memory; turned ones are not."""
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def class_name(self, index: int) -> str:
        """The name of a class: number i is turn i % turns of name i // turns; `NAME@90`, `NAME@mirrored` and so on."""
        name, turn = self.names[index // self.turns], index % self.turns
        mirrored, quarters = divmod(turn, 4 if self.rotations else 1)
        return f"{name}{'@mirrored' * mirrored}{f'@{90 * quarters}' if quarters else ''}"

    def subset(self, names: Sequence[str]) -> ImageClasses:
        """The classes of these names, in this order.

        Raises:
            ClassUnknown: a name that is not there.
        """
        position = {name: i for i, name in enumerate(self.names)}
        if missing := [name for name in names if name not in position]:
            known = ", ".join(self.names[:3])
            raise ClassUnknown(
                f"expected names among the {len(self.names)} classes ({known}, ...), got {', '.join(missing[:5])}"
            )
        rows = np.array([position[name] for name in names], np.int64)
        counts = self.counts[rows]
        starts = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum())) - np.repeat(starts, counts)
        index = torch.from_numpy(np.repeat(self.starts[rows], counts) + within).to(self.device)
        return dataclasses.replace(self, images=self.images[index], starts=starts, counts=counts, names=tuple(names))

    def to(self, device: str | torch.device) -> ImageClasses:
        """The same data set with its images on `device`."""
        return dataclasses.replace(self, images=self.images.to(device))

    def pixels(self, images: Tensor, turns: Tensor) -> Tensor:
        """Look images up.

        Args:
            images: (*n) rows of `self.images`, int64, on its device.
            turns: (*n) how each is turned, int64 below `self.turns`; see the top of this file.

        Returns:
            uint8 (*n, H, W, C).
        """
        if self.turns == 1:
            return self.images[images]
        height, width, channels = self.spec.height, self.spec.width, self.spec.channels
        # One gather over single pixels: picking the images of each turn by a mask would wait for the device every time.
        source = torch.arange(height * width, device=self.device).reshape(height, width)
        faces = [source, source.flip(1)] if self.mirrored else [source]
        quarters = range(4 if self.rotations else 1)
        origins = torch.stack([torch.rot90(face, k).flatten() for face in faces for k in quarters])
        pixel = images[..., None] * (height * width) + origins[turns]
        return self.images.reshape(-1, channels)[pixel].reshape(*images.shape, height, width, channels)

    def inputs(self, images: Tensor, turns: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """As `pixels`, normalised for the network: (*n, C, H, W)."""
        return normalise(self.pixels(images, turns), self.spec, dtype=dtype)
