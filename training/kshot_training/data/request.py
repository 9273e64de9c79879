"""What a loader of a data set is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kshot_models.manifest import InputSpec
from kshot_training.data.errors import OptionInvalid, SourceNotFound

__all__ = ["SourceRequest"]


class SourceRequest(NamedTuple):
    """One call of `load_classes`, taken apart."""

    name: str  # of the data set
    argument: str  # what stood after "NAME:"
    split: str | None  # None: all classes
    scheme: str | None  # which way of splitting; None: the data set's usual one
    spec: InputSpec
    root: Path | None
    cache: Path | None
    options: Mapping[str, object]

    def place(self) -> Path:
        """The path that the source names, relative to `root`. When it names none: `root/NAME`, or else `root`.

        Raises:
            SourceNotFound: neither was given, or there is nothing.
        """
        if not self.argument and self.root is None:
            raise SourceNotFound(f"expected {self.name}:PATH, or {self.name} and a data root, got neither")
        root = self.root or Path()
        path = root / Path(self.argument).expanduser()
        if not self.argument and (root / self.name).is_dir():
            path = root / self.name
        if not path.exists():
            raise SourceNotFound(f"expected the {self.name} data at {path}, where there is nothing")
        return path

    def take_no_options(self) -> None:
        """For data sets without options.

        Raises:
            OptionInvalid: there are some.
        """
        if self.options:
            raise OptionInvalid(f"{self.name} takes no options, got {', '.join(sorted(self.options))}")

    def take_no_scheme(self) -> None:
        """For data sets with one way of splitting.

        Raises:
            OptionInvalid: a scheme was asked for.
        """
        if self.scheme is not None:
            raise OptionInvalid(f"{self.name} has one way of splitting, got scheme {self.scheme!r}: leave it out")
