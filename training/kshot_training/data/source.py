"""From the name of a data set to its classes. A new data set is one new file and one row here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from kshot_models.manifest import InputSpec
from kshot_training.data.dataset import ImageClasses
from kshot_training.data.errors import SourceUnknown
from kshot_training.data.folder import load_folder
from kshot_training.data.glyphs import load_glyphs
from kshot_training.data.mini_imagenet import load_mini_imagenet
from kshot_training.data.omniglot import load_omniglot
from kshot_training.data.request import SourceRequest

__all__ = ["SOURCES", "load_classes", "named", "scheme_of"]

SOURCES: Mapping[str, Callable[[SourceRequest], ImageClasses]] = MappingProxyType(
    {
        "folder": load_folder,
        "glyphs": load_glyphs,
        "mini-imagenet": load_mini_imagenet,
        "omniglot": load_omniglot,
    }
)
"""Every data set of images, by the name that recipes and commands use."""


_USUAL_SCHEMES: Mapping[str, str] = MappingProxyType({"omniglot": "vinyals"})  # of those that have several


def named(source: str, scheme: str | None) -> str:
    """A data set as manifests and results call it: with how it is split, where that is not the usual way."""
    usual = _USUAL_SCHEMES.get(source.partition(":")[0])
    return source if scheme in {None, usual} else f"{source} {scheme}"


def scheme_of(data: str) -> str | None:
    """How a data set is split, from what `named` made; None for its only way."""
    source, _, scheme = data.partition(" ")
    return scheme or _USUAL_SCHEMES.get(source.partition(":")[0])


def load_classes(
    source: str,
    *,
    spec: InputSpec,
    split: str | None = None,
    scheme: str | None = None,
    rotations: bool = False,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    options: Mapping[str, object] = MappingProxyType({}),
) -> ImageClasses:
    """Load a data set into memory.

    Args:
        source: `NAME` or `NAME:ARGUMENT`: "omniglot", "omniglot:DIR", "folder:PATH", "glyphs", "glyphs:classes=50".
        spec: the input to make the pixels for.
        split: which classes; None: all (of glyphs: those to train on).
        scheme: how the data set is split, where there are several ways: omniglot by "vinyals" (as usual),
            "mixed" or "lake".
        rotations: whether each class counts four times, turned by 0, 90, 180 and 270 degrees.
        root: the folder that a relative path in `source` starts from. Where `source` has no path, the data are in
            `root/NAME` or in `root` itself.
        cache: a folder for decoded pixels; None: none are kept.
        options: what else the data set takes.

    Raises:
        SourceUnknown: no data set of that name.
        DataError: its subclass says what is wrong with the data.
    """
    name, _, argument = source.partition(":")
    loader = SOURCES.get(name)
    if loader is None:
        raise SourceUnknown(f"expected a data set ({', '.join(SOURCES)}), as NAME or NAME:ARGUMENT, got {source!r}")
    request = SourceRequest(
        name=name,
        argument=argument,
        split=split,
        scheme=scheme,
        spec=spec,
        root=None if root is None else Path(root),
        cache=None if cache is None else Path(cache),
        options=options,
    )
    classes = loader(request)
    return dataclasses.replace(classes, rotations=True) if rotations else classes
