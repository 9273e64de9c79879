"""From an artifact to the same artifact with ONNX graphs of adapt and predict, each small: they hold no weights."""

from __future__ import annotations

from pathlib import Path

from kshot_models.artifact import load_artifact, save_artifact
from kshot_models.costs import measure_costs
from kshot_models.load import LoadedLearner, from_artifact
from kshot_models.manifest import LearnerSpec
from kshot_models.onnx_files import ADAPT, FIXED_WAY, FLOPS, LAYOUT, LAYOUT_KEY, PREDICT
from kshot_training.errors import OnnxNotSupported
from kshot_training.onnx_graphs.lowering import lower
from kshot_training.onnx_graphs.tracing import trace_adapt, trace_predict

__all__ = ["MAX_STEPS", "RULES", "check_supported", "export_onnx", "make_graphs"]

RULES = ("sgd", "lslr", "meta_sgd")
MAX_STEPS = 50  # steps are unrolled: each is some hundred nodes


def check_supported(spec: LearnerSpec) -> None:
    """Refuse learners that have no ONNX graph.

    Raises:
        OnnxNotSupported: another learner than gradient and prototype, another rule than RULES, or too many steps.
    """
    if spec.type not in {"gradient", "prototype"}:
        raise OnnxNotSupported(
            f"expected a gradient or prototype learner, got {spec.type!r}, which has no ONNX graph; serve it with torch"
        )
    if others := sorted({link.type for link in spec.inner} - set(RULES)):
        raise OnnxNotSupported(
            f"expected inner optimizers of {', '.join(RULES)}, got {', '.join(others)}, which has no ONNX graph; "
            "serve it with torch"
        )
    if spec.steps > MAX_STEPS:
        raise OnnxNotSupported(
            f"expected at most {MAX_STEPS} inner steps, got {spec.steps}: an ONNX graph holds each step unrolled; "
            "serve it with torch"
        )


def make_graphs(loaded: LoadedLearner) -> dict[str, bytes]:
    """The graphs of a learner by file name, as described in kshot_models/onnx_files.py.

    Raises:
        OnnxNotSupported: the learner, or an operation of it, has none.
    """
    check_supported(loaded.manifest.learner)
    costs = measure_costs(loaded, "cpu")
    graphs = {}
    for file, trace, flops in ((ADAPT, trace_adapt, costs.adapt), (PREDICT, trace_predict, costs.predict)):
        about = {LAYOUT_KEY: LAYOUT, FLOPS: f"{flops:.0f}", FIXED_WAY: str(costs.fixed_way or "")}
        model = lower(trace(loaded, costs.fixed_way), name=Path(file).stem, about=about)
        graphs[file] = model.SerializeToString(deterministic=True)
    return graphs


def export_onnx(folder: Path, repository: Path) -> Path:
    """Write the artifact of `folder`, with its graphs, to `repository`/NAME/VERSION.

    The other files are copied byte for byte. The manifest names the graphs, so the copy has a digest of its own.

    Returns:
        The folder of the copy.

    Raises:
        ArtifactError: the artifact is not whole.
        OnnxNotSupported: its learner has no ONNX graph.
    """
    artifact = load_artifact(folder)
    graphs = make_graphs(from_artifact(artifact))
    files = {name: (folder / name).read_bytes() for name in artifact.manifest.files}
    target = repository / artifact.manifest.name / artifact.manifest.version
    save_artifact(target, artifact.manifest, artifact.arrays, {**files, **graphs})
    return target
