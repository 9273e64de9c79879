"""A graph of an artifact in ONNX Runtime: read, checked against onnx_files.py, ready to run. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from kshot_models.artifact import Artifact, read_file
from kshot_models.errors import FormatUnsupported, GraphInvalid
from kshot_models.manifest import Manifest
from kshot_models.onnx_files import FLOPS, LAYOUT, LAYOUT_KEY, LOGITS, PREDICT
from kshot_models.onnx_session import open_session

__all__ = ["Arrays", "Graph"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph that is ready to run, and what it says of itself."""

    session: Any  # onnxruntime.InferenceSession; may be run from several threads at once
    inputs: frozenset[str]
    outputs: tuple[str, ...]
    about: Mapping[str, str]
    flops: float  # per example

    @classmethod
    def read(cls, artifact: Artifact[Manifest], name: str, device: str) -> Graph:
        """Make a graph of an artifact ready on a device.

        Raises:
            FileMissing: the artifact has no such graph.
            DigestMismatch: the file has changed.
            FormatUnsupported: it was written for another version of onnx_files.py.
            ExternalData: it stores tensors outside of its file.
            RuntimeMissing: onnxruntime, or its build for the device, is not installed.
            GraphInvalid: it is no graph, or takes or gives something else than it has to.
        """
        where = artifact.folder / name
        session = open_session(read_file(artifact, name), str(where), device)
        about = dict(session.get_modelmeta().custom_metadata_map)
        if about.get(LAYOUT_KEY) != LAYOUT:
            raise FormatUnsupported(
                f"{where} is of layout {about.get(LAYOUT_KEY)!r}, this version reads {LAYOUT!r}; export it anew"
            )
        graph = cls(
            session,
            frozenset(each.name for each in session.get_inputs()),
            tuple(each.name for each in session.get_outputs()),
            about,
            float(about.get(FLOPS, "nan")),
        )
        if name == PREDICT and graph.outputs != (LOGITS,):
            raise GraphInvalid(f"{where}: expected the output {LOGITS}, got {', '.join(graph.outputs)}")
        if not graph.flops > 0:
            raise GraphInvalid(f"{where}: expected its cost per example under {FLOPS!r}, got {about.get(FLOPS)!r}")
        return graph

    def run(self, *given: Arrays) -> list[NDArray[Any]]:
        """The outputs, from arrays by name; what the graph does not use is left out."""
        feed = {name: values for arrays in given for name, values in arrays.items() if name in self.inputs}
        results: list[NDArray[Any]] = self.session.run(None, feed)
        return results
