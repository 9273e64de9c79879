"""The ONNX graphs of an artifact: where they stand and what goes in and comes out. No torch here.

    onnx/adapt.onnx      pixels (n, height, width, channels) uint8, targets (n,) int64, weights (n,) float32,
                         classes (way,) int64: 0, 1, ..., way - 1; and meta-parameters
                         -> task parameters
    onnx/predict.onnx    pixels (q, height, width, channels) uint8; task parameters and meta-parameters
                         -> logits (q, way)

Meta-parameters are inputs under their names in meta_params.safetensors (`init/body.conv1.weight`), so a graph holds no
weights; task parameters are those of the learner (`weights.body.conv1.weight`, `present`). n, q and way are open.
Metadata of each graph: `layout` (of this description), `flops` per example, `fixed_way` (empty: any).
"""

from __future__ import annotations

__all__ = [
    "ADAPT",
    "CLASSES",
    "FIXED_WAY",
    "FLOPS",
    "LAYOUT",
    "LAYOUT_KEY",
    "LOGITS",
    "PIXELS",
    "PREDICT",
    "TARGETS",
    "WEIGHTS",
]

ADAPT = "onnx/adapt.onnx"
PREDICT = "onnx/predict.onnx"

PIXELS = "pixels"
TARGETS = "targets"
WEIGHTS = "weights"
CLASSES = "classes"
LOGITS = "logits"

LAYOUT = "1"
LAYOUT_KEY = "layout"
FLOPS = "flops"
FIXED_WAY = "fixed_way"
