"""What can be wrong with data, one class per way.

TrainingError
└── DataError
    ├── SourceUnknown        no data set of that name
    ├── SourceNotFound       nothing where the data should be
    ├── OptionInvalid        the data set has no such option, or not that value
    ├── SplitUnknown         the data set has no such split
    ├── ClassUnknown         a split or a subset names a class that is not there
    ├── CountMismatch        other numbers of characters or drawings than the data set has
    ├── ListInvalid          a list of images is of another form, or names what is not there
    ├── ArchiveInvalid       a zip is broken or of another layout
    ├── DownloadFailed       the network did not give the file
    ├── ImageUnreadable      a file is no image that can be decoded
    └── EpisodeImpossible    the classes cannot give episodes of that way and shot
"""

from __future__ import annotations

from kshot_training.errors import TrainingError

__all__ = [
    "ArchiveInvalid",
    "ClassUnknown",
    "CountMismatch",
    "DataError",
    "DownloadFailed",
    "EpisodeImpossible",
    "ImageUnreadable",
    "ListInvalid",
    "OptionInvalid",
    "SourceNotFound",
    "SourceUnknown",
    "SplitUnknown",
]


class DataError(TrainingError):
    """Anything that kshot_training.data refuses."""


class SourceUnknown(DataError):  # noqa: N818 - reads as the state it names, like the rest of the tree
    """There is no data set of that name."""


class SourceNotFound(DataError):  # noqa: N818 - as above
    """There is nothing at the place where the data should be."""


class OptionInvalid(DataError):  # noqa: N818 - as above
    """The data set has no such option, or the option does not take that value."""


class SplitUnknown(DataError):  # noqa: N818 - as above
    """The data set has no such split."""


class ClassUnknown(DataError):  # noqa: N818 - as above
    """A split or a subset names a class that the data set does not have."""


class CountMismatch(DataError):  # noqa: N818 - as above
    """The files are not as many as the data set has: a part of it is missing, or it is something else."""


class ListInvalid(DataError):  # noqa: N818 - as above
    """A list of images has another form, or names images or classes that cannot be."""


class ArchiveInvalid(DataError):  # noqa: N818 - as above
    """A zip cannot be read, or is laid out in another way."""


class DownloadFailed(DataError):  # noqa: N818 - as above
    """The network did not give the file."""


class ImageUnreadable(DataError):  # noqa: N818 - as above
    """A file cannot be decoded as an image."""


class EpisodeImpossible(DataError):  # noqa: N818 - as above
    """The classes cannot give episodes of that way, shot and number of queries."""
