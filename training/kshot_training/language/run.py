"""The training of a dynamical language model in a folder: recipe in, static weights and updater out.

    static/           the model's weights, trained as usual: a phase (phase.py)
    updater/          the updater, trained by reading other documents with these weights: a phase
    recipe.json

Stoppable after any step of either; a resumed run makes the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_models.inner.per_tensor import per_tensor
from kshot_models.inner.transformation import InnerOptimizer
from kshot_models.registry import build_inner_optimizer
from kshot_models.types import MetaParams, Params
from kshot_training import build
from kshot_training.data.text import Alphabet, load_documents, split_documents
from kshot_training.errors import CheckpointError
from kshot_training.language.bits import bits_of_documents, read_static, read_updated
from kshot_training.language.lanes import Lanes
from kshot_training.language.model import CharacterLSTM
from kshot_training.language.recipe import LanguageRecipe
from kshot_training.language.streams import DocumentStreams, Reader, gradient_rms, rms_scale
from kshot_training.phase import Phase
from kshot_training.truncated import Truncated
from kshot_training.unroll import Unroll

__all__ = ["Texts", "TrainedLanguage", "load_language", "recipe_texts", "train_language"]

_UNIT = "bits per character"


class Texts(NamedTuple):
    """Documents as numbers, by use; no two uses share a document."""

    symbols: int
    parts: Mapping[str, Sequence[Tensor]]  # static, updates, validation, test


class TrainedLanguage(NamedTuple):
    """What a run came to."""

    finished: bool  # False: stopped on request, a checkpoint is written
    step: int  # outer steps of the phase that it is in
    phase: str
    reader: Reader  # with static weights and the units of displacements
    rms: Params  # of the gradients, by weight
    rule: InnerOptimizer
    phi: Params  # what the rule learned, chosen on validation documents


def recipe_texts(recipe: LanguageRecipe, root: Path | None = None) -> Texts:
    """Read and divide the documents of a recipe.

    Raises:
        DataError: they are missing, or too few.
    """
    documents = load_documents(recipe.text.source, root=root, minimum=recipe.text.minimum)
    parts = split_documents(documents, recipe.text.shares.model_dump())
    alphabet = Alphabet.of(parts["static"], recipe.text.symbols)
    encoded = {use: [torch.from_numpy(alphabet.encode(d.text)) for d in part] for use, part in parts.items()}
    return Texts(alphabet.symbols, encoded)


def train_language(
    recipe: LanguageRecipe,
    folder: Path,
    texts: Texts,
    *,
    reporter: Callable[[int, int], Any],
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> TrainedLanguage:
    """Run both phases to their ends, or until `stop()` is true after a step.

    Args:
        recipe: everything.
        folder: of the run.
        texts: its documents.
        reporter: (steps done, steps in all) of a phase -> a context with a Reporter.
        stop: asked after every step.
        resume: go on from what the folder holds.

    Raises:
        TrainingError: see errors.py.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    static = _static_phase(recipe, folder, texts)
    if not _run(static, reporter, stop, resume=resume) or stop():
        return _outcome(recipe, *_read_with(recipe, texts, static.best.init), static, None)
    reader, rms = _read_with(recipe, texts, static.best.init)
    updater = _updater_phase(recipe, folder, texts, reader)
    _run(updater, reporter, stop, resume=resume)
    return _outcome(recipe, reader, rms, static, updater)


def load_language(recipe: LanguageRecipe, folder: Path, texts: Texts) -> TrainedLanguage:
    """What a run in `folder` came to.

    Raises:
        CheckpointError: there is none of this recipe, or it is broken.
    """
    static = _static_phase(recipe, folder, texts)
    if not static.restore():
        raise CheckpointError(f"expected a run of {recipe.name} in {folder}; `kshot train` makes one")
    reader, rms = _read_with(recipe, texts, static.best.init)
    updater = _updater_phase(recipe, folder, texts, reader)
    return _outcome(recipe, reader, rms, static, updater if updater.restore() else None)


def _run(phase: Phase, reporter: Callable[[int, int], Any], stop: Callable[[], bool], *, resume: bool) -> bool:
    resumed = resume and phase.restore()
    with reporter(phase.state.step, phase.outer.steps) as report:
        if resumed:
            report.line(f"{phase.title}: resumed after outer step {phase.state.step}")
        return phase.go(report, stop)


def _static_phase(recipe: LanguageRecipe, folder: Path, texts: Texts) -> Phase:
    section, model = recipe.static, CharacterLSTM(texts.symbols, recipe.model.hidden)

    def score(meta: MetaParams) -> float:
        reader = Reader(model, meta.init, None, recipe.reading.segment)
        return _mean_bits(read_static, reader, texts, section.characters)

    lanes = Lanes(model, texts.parts["static"], lanes=section.lanes, length=section.length, seed=recipe.seed)
    fresh = MetaParams(model.init(torch.Generator().manual_seed(recipe.seed)), {}, {})
    return Phase(
        title=f"{recipe.name}, static weights",
        folder=folder / "static",
        digest=recipe.static_digest,
        outer=section.outer,
        state=build.build_state(fresh, section.outer),
        source=lanes,
        score=score,
        unit=_UNIT,
        every=section.validate_every,
        checkpoint_every=10 * recipe.checkpoint_every,
    )


def _updater_phase(recipe: LanguageRecipe, folder: Path, texts: Texts, reader: Reader) -> Phase:
    rule, section = _rule(recipe), recipe.unroll
    fresh = MetaParams({}, rule.init(reader.static, torch.Generator().manual_seed(recipe.seed)), {})
    longest = max(horizon.steps for horizon in section.horizons) + 1
    family = DocumentStreams(reader, texts.parts["updates"], longest, recipe.seed)
    unroll = Unroll(rule, section.steps, section.loss_weights, section.measure, section.recompute)

    def score(meta: MetaParams) -> float:
        return _mean_bits(
            lambda stream: read_updated(rule, meta.inner, stream), reader, texts, recipe.validation.characters
        )

    return Phase(
        title=f"{recipe.name}, updater",
        folder=folder / "updater",
        digest=recipe.digest,
        outer=recipe.outer,
        state=build.build_state(fresh, recipe.outer),
        source=Truncated(unroll, family, tasks=section.tasks, horizon=section.horizon),
        score=score,
        unit=_UNIT,
        every=recipe.validation.every,
        checkpoint_every=recipe.checkpoint_every,
    )


def _outcome(
    recipe: LanguageRecipe, reader: Reader, rms: Params, static: Phase, updater: Phase | None
) -> TrainedLanguage:
    phase = updater or static
    finished = updater is not None and updater.state.step >= updater.outer.steps
    phi = {} if updater is None else updater.best.inner
    return TrainedLanguage(finished, phase.state.step, phase.title, reader, rms, _rule(recipe), phi)


def _rule(recipe: LanguageRecipe) -> InnerOptimizer:
    rule = build_inner_optimizer(recipe.optimizer)
    return per_tensor(rule) if recipe.reading.per == "tensor" else rule


def _read_with(recipe: LanguageRecipe, texts: Texts, static: Params) -> tuple[Reader, Params]:
    """The reader with these weights, and the RMS that gives its units: a function of weights and seed."""
    section = recipe.reading
    plain = Reader(CharacterLSTM(texts.symbols, recipe.model.hidden), static, None, section.segment)
    rms = gradient_rms(
        plain,
        texts.parts["static"],
        stretches=section.rms_stretches,
        segments=section.rms_segments,
        seed=recipe.seed,
    )
    return Reader(plain.model, static, rms_scale(rms, section.epsilon), section.segment), rms


def _mean_bits(read: Callable[[Any], Tensor], reader: Reader, texts: Texts, characters: int) -> float:
    documents = texts.parts["validation"]
    return float(bits_of_documents(read, reader, documents, characters=characters, together=len(documents)).mean())
