"""Data sets in memory, and the episodes that are drawn from them.

source.py ──> omniglot.py | mini_imagenet.py | folder.py | glyphs.py ──> ImageClasses ──> EpisodeSampler ──┐
                                                                                       SinusoidSampler ──> Episode
"""

from kshot_training.data.augment import Warp
from kshot_training.data.dataset import ImageClasses
from kshot_training.data.episodes import EpisodeIndices, EpisodeSampler, Slots
from kshot_training.data.errors import DataError
from kshot_training.data.numbered import NumberedClasses
from kshot_training.data.sampler import Sampler
from kshot_training.data.sinusoids import SinusoidSampler, sinusoid_frequency
from kshot_training.data.source import SOURCES, load_classes, named, scheme_of

__all__ = [
    "SOURCES",
    "DataError",
    "EpisodeIndices",
    "EpisodeSampler",
    "ImageClasses",
    "NumberedClasses",
    "Sampler",
    "SinusoidSampler",
    "Slots",
    "Warp",
    "load_classes",
    "named",
    "scheme_of",
    "sinusoid_frequency",
]
