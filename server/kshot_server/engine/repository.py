"""Which models there are: folders of artifacts, DIR/<name>/<version>/, looked at again whenever they may have changed.

    find("omniglot")      the newest version that is whole
    find("omniglot@3")    that version
    at(digest)            exactly those bytes, also after newer versions came

A new version is picked up without a restart; sessions of the old one stay on it, as they name it by digest. An artifact
that is broken, or that must not be served, is logged once, listed in `refused`, and hides nothing else. Reading needs
numpy only; `load` brings in torch.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kshot_models.artifact import Artifact, list_artifacts, load_artifact, version_order
from kshot_models.errors import ModelError, NotALearner
from kshot_models.manifest import CLASSIFIERS, ENCODER_NETWORK, Manifest
from kshot_models.onnx_files import ADAPT, PREDICT

if TYPE_CHECKING:  # these need torch, which a process that only reads manifests does without
    import torch

    from kshot_models.load import LoadedLearner

__all__ = ["ModelEntry", "ModelNotFound", "ModelRepository", "Refused"]

_log = logging.getLogger(__name__)

Signature: TypeAlias = tuple[tuple[str, int, int], ...]


class ModelNotFound(LookupError):  # noqa: N818 - reads as the state it names, like the tree of kshot_models
    """No artifact of that name, version or digest can be served."""


@dataclass(frozen=True)
class ModelEntry:
    """An artifact that is whole and may be served."""

    manifest: Manifest
    digest: str
    folder: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.manifest.version


@dataclass(frozen=True)
class Refused:
    """An artifact that is not served.

    `code` says why: `broken`, `transductive_refused`, `no_classifier`, `no_graphs` or `no_onnxruntime`.
    """

    folder: Path
    code: str
    reason: str


class ModelRepository:
    """The artifacts below some folders. Of two with one name and version, that of the earlier folder counts.

    Args:
        folders: model repositories; one that does not exist yet is looked for again at each scan.
        allow_transductive: serve models whose answers depend on the other queries of a request.
        need_graphs: serve only models that have ONNX graphs, as the runtime is ONNX Runtime.
        rescan_seconds: how old a scan may be before `find` and `list` look at the folders again.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        allow_transductive: bool = False,
        need_graphs: bool = False,
        rescan_seconds: float = 1.0,
    ) -> None:
        self._folders = tuple(Path(f) for f in folders)
        self._allow_transductive = allow_transductive
        self._need_graphs = need_graphs
        self._rescan_seconds = rescan_seconds
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[Signature, ModelEntry | Refused]] = {}
        self._known: dict[str, ModelEntry] = {}  # by digest; an artifact that has gone from disk stays known
        self._names: dict[str, dict[str, ModelEntry]] = {}  # name -> version -> entry, oldest version first
        self._scanned_at = float("-inf")

    def find(self, reference: str) -> ModelEntry:
        """The model of a reference: `name` (its newest version) or `name@version`.

        Raises:
            ModelNotFound: there is none, also not after looking again.
        """
        name, at, version = reference.partition("@")
        for look_again in (False, True):
            versions = self._current(force=look_again).get(name, {})
            entry = versions.get(version) if at else next(reversed(versions.values()), None)
            if entry is not None:
                return entry
        raise ModelNotFound(reference)

    def at(self, digest: str) -> ModelEntry:
        """The model of a digest.

        Raises:
            ModelNotFound: no artifact with these bytes was ever seen, also not after looking again.
        """
        if digest not in self._known:
            self._current(force=True)
        if digest not in self._known:
            raise ModelNotFound(digest)
        return self._known[digest]

    def list(self) -> tuple[ModelEntry, ...]:
        """The newest version of every model, by name."""
        return tuple(next(reversed(versions.values())) for _, versions in sorted(self._current().items()))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a model, oldest first; empty for an unknown name."""
        return tuple(self._current().get(name, {}))

    @property
    def refused(self) -> tuple[Refused, ...]:
        """What the last scan found and does not serve."""
        self._current()
        return tuple(found for _, found in self._read.values() if isinstance(found, Refused))

    def load(self, digest: str, *, device: str | torch.device = "cpu") -> LoadedLearner:
        """Build the learner of a digest on a device.

        Raises:
            ModelNotFound: the artifact is unknown, or its folder now holds other bytes.
            ModelError: the artifact is whole, but its learner cannot be built.
        """
        from kshot_models.load import load  # noqa: PLC0415 - brings in torch, which reading manifests does without

        loaded = load(self.at(digest).folder, device=device)
        if loaded.digest != digest:
            raise ModelNotFound(digest)
        return loaded

    def artifact(self, digest: str) -> Artifact[Manifest]:
        """The verified files of a digest.

        Raises:
            ModelNotFound: the artifact is unknown, or its folder now holds other bytes.
            ArtifactError: its files are broken.
        """
        artifact = load_artifact(self.at(digest).folder)
        if artifact.digest != digest:
            raise ModelNotFound(digest)
        return artifact

    def _current(self, *, force: bool = False) -> dict[str, dict[str, ModelEntry]]:
        with self._lock:
            if force or time.monotonic() - self._scanned_at >= self._rescan_seconds:
                self._scan()
                self._scanned_at = time.monotonic()
            return self._names

    def _scan(self) -> None:
        read: dict[Path, tuple[Signature, ModelEntry | Refused]] = {}
        names: dict[str, dict[str, ModelEntry]] = {}
        for root in self._folders:
            for folder in list_artifacts(root):
                signature = _signature(folder)
                known = self._read.get(folder)
                read[folder] = known if known is not None and known[0] == signature else (signature, self._look(folder))
                entry = read[folder][1]
                if isinstance(entry, ModelEntry):
                    names.setdefault(entry.name, {}).setdefault(entry.version, entry)
        # Each folder gave its versions in order; only together do they tell which is the newest.
        self._names = {name: dict(sorted(versions.items(), key=_by_version)) for name, versions in names.items()}
        self._known |= {entry.digest: entry for versions in names.values() for entry in versions.values()}
        self._read = read

    def _look(self, folder: Path) -> ModelEntry | Refused:
        refused = None
        try:
            artifact = load_artifact(folder)
        except NotALearner as error:
            refused = Refused(folder, "no_classifier", str(error))
        except ModelError as error:
            refused = Refused(folder, "broken", str(error))
        else:
            manifest = artifact.manifest
            if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
                says = f"{manifest.name}/{manifest.version}"
                refused = Refused(folder, "broken", f"the manifest says {says}; the folder must have that name")
            elif manifest.learner.norm == "transductive" and not self._allow_transductive:
                reason = (
                    "its answers depend on the other queries of a request; allow that, or export it with another norm"
                )
                refused = Refused(folder, "transductive_refused", reason)
            elif manifest.learner.type not in CLASSIFIERS:
                reason = f"a learner of type {manifest.learner.type!r} gives no classes to answer with"
                refused = Refused(folder, "no_classifier", reason)
            elif self._need_graphs and not {ADAPT, PREDICT} <= manifest.files.keys():
                reason = "it has no ONNX graphs; `kshot export FOLDER --onnx` writes a copy that has them"
                refused = Refused(folder, "no_graphs", reason)
            elif manifest.learner.network.type == ENCODER_NETWORK and importlib.util.find_spec("onnxruntime") is None:
                reason = "its encoder.onnx needs onnxruntime, which is not installed; pip install 'kshot[onnx]'"
                refused = Refused(folder, "no_onnxruntime", reason)
        if refused is not None:
            # What is no classifier is in order, only not for a server: an optimizer among the shipped models, say.
            level = logging.INFO if refused.code == "no_classifier" else logging.WARNING
            _log.log(level, "model %s is not served: %s", folder, refused.reason)
            return refused
        _log.info("model %s@%s found in %s", manifest.name, manifest.version, folder)
        return ModelEntry(manifest, artifact.digest, folder)


def _by_version(item: tuple[str, ModelEntry]) -> list[tuple[bool, int, str]]:
    return version_order(item[0])


def _signature(folder: Path) -> Signature:
    """What changes when the files of an artifact do."""
    return tuple(sorted(_file_signatures(folder)))


def _file_signatures(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # replaced while being listed: the next scan sees the new one
        yield str(path), status.st_mtime_ns, status.st_size
