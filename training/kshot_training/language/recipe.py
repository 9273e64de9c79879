"""Recipes of dynamical language models: a TOML file with a [text] instead of a learner or a problem.

LanguageRecipe
├── name, description, seed
├── [text]            documents, and how they are divided between the uses that they have
├── [model]           the LSTM
├── [static]          how its static weights are trained
├── [reading]         segments between which weights may change, and the units of that
├── [[optimizer]]     the links of the updater: as `inner` of a learner
├── [unroll]          as of a learned optimizer: segments that are read, and how many are differentiated at once
├── [outer]           how the updater is trained
├── [validation]      on which the best updater is chosen
├── [dynamic]         what is tried of dynamic evaluation
└── [measure]         characters of each test document
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kshot_models.manifest import Component
from kshot_training.optimizer_recipe import UnrollSection
from kshot_training.recipe import OuterSection
from kshot_training.sections import Positive, PositiveFloat, Section

__all__ = [
    "DynamicSection",
    "LanguageMeasureSection",
    "LanguageRecipe",
    "LanguageValidationSection",
    "ModelSection",
    "ReadingSection",
    "SharesSection",
    "StaticSection",
    "TextSection",
]


class SharesSection(Section):
    """How the documents are divided; shares are divided by their sum. The updater learns on documents that the static
    weights have not seen, since it will be used on such."""

    static: PositiveFloat = 0.55
    updates: PositiveFloat = 0.2
    validation: PositiveFloat = 0.1
    test: PositiveFloat = 0.15


class TextSection(Section):
    """Where documents come from; see data/text.py."""

    source: str  # text:PATH
    minimum: Positive  # characters that a document has at least
    shares: SharesSection = SharesSection()
    symbols: Annotated[int, Field(ge=2)] = 97  # the most frequent characters, and one for all others


class ModelSection(Section):
    """The language model; see model.py."""

    hidden: Positive


class StaticSection(Section):
    """How the static weights are trained; see lanes.py."""

    lanes: Positive = 64
    length: Positive = 64  # characters, of truncated backpropagation
    validate_every: Positive = 250
    characters: Positive = 4096  # of each validation document
    outer: OuterSection


class ReadingSection(Section):
    """Segments and units; see streams.py."""

    segment: Positive = 32  # characters
    epsilon: PositiveFloat = 0.1  # of the RMS scale, as a share of the mean
    rms_stretches: Positive = 16  # that the RMS is measured on
    rms_segments: Positive = 32
    per: Literal["all", "tensor"] = "tensor"  # one updater, or one for each tensor of the model


class LanguageValidationSection(Section):
    """Validation documents; the fewest bits per character decide."""

    every: Positive = 25
    characters: Positive = 4096  # of each document


class DynamicSection(Section):
    """The grid of dynamic evaluation, tuned on the validation documents: first the rate without decay, then both."""

    sgd_rates: tuple[PositiveFloat, ...]
    rms_rates: tuple[PositiveFloat, ...]
    decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...]
    characters: Positive = 4096  # of each validation document


class LanguageMeasureSection(Section):
    """What is measured on the test documents."""

    characters: Positive = 20480  # of each document
    together: Positive = 6  # documents side by side, which bounds memory


class LanguageRecipe(Section):
    """Everything about a dynamical language model."""

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    text: TextSection
    model: ModelSection
    static: StaticSection
    reading: ReadingSection = ReadingSection()
    optimizer: Annotated[tuple[Component, ...], Field(min_length=1)]
    unroll: UnrollSection
    outer: OuterSection
    validation: LanguageValidationSection = LanguageValidationSection()
    dynamic: DynamicSection
    measure: LanguageMeasureSection = LanguageMeasureSection()
    checkpoint_every: Positive = 50  # outer steps; of the static weights ten times as many

    @model_validator(mode="after")
    def _documents_are_long_enough(self) -> LanguageRecipe:
        longest = max(
            self.static.characters,
            self.validation.characters,
            self.dynamic.characters,
            self.measure.characters,
            max(h.steps for h in self.unroll.horizons) * self.reading.segment + self.reading.segment,
            self.reading.rms_segments * self.reading.segment,
        )
        if longest >= self.text.minimum:
            raise ValueError(
                f"text.minimum is {self.text.minimum}, but {longest} characters of each document are to be read: "
                "raise the one or lower what is read of validation and test documents, horizons or reading.rms_segments"
            )
        return self

    @property
    def static_digest(self) -> str:
        """SHA-256 over the settings that decide the static weights."""
        return self._digest({"seed", "text", "model", "static"})

    @property
    def digest(self) -> str:
        """SHA-256 over the settings that decide the trained numbers; see Recipe.digest."""
        return self._digest(set(type(self).model_fields) - {"description", "dynamic", "measure", "checkpoint_every"})

    def _digest(self, decisive: set[str]) -> str:
        values = self.model_dump(mode="json", include=decisive, exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
