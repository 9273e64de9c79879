"""The ONNX graphs of an artifact: where they stand and what goes in and comes out. No torch here.

    encoder.onnx         the user's own, where the network is an encoder; see encoder.py
    onnx/adapt.onnx      pixels (n, height, width, channels) uint8, targets (n,) int64, weights (n,) float32,
                         classes (way,) int64: 0, 1, ..., way - 1; and meta-parameters
                         -> task parameters
    onnx/predict.onnx    pixels (q, height, width, channels) uint8; task parameters and meta-parameters
                         -> logits (q, way)

Of an artifact with an encoder, both take `features` (n, features) float32, which it gives, in place of pixels.
Meta-parameters are inputs under their names in meta_params.safetensors (`init/body.conv1.weight`), so a graph holds no
weights; task parameters are those of the learner (`weights.body.conv1.weight`, `present`). n, q and way are open.
Metadata of each of these graphs: `layout` (of this description), `flops` per example, `fixed_way` (empty: any).
"""

from __future__ import annotations

__all__ = [
    "ADAPT",
    "CLASSES",
    "ENCODER",
    "FEATURES",
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

ENCODER = "encoder.onnx"
ADAPT = "onnx/adapt.onnx"
PREDICT = "onnx/predict.onnx"

PIXELS = "pixels"
FEATURES = "features"
TARGETS = "targets"
WEIGHTS = "weights"
CLASSES = "classes"
LOGITS = "logits"

LAYOUT = "1"
LAYOUT_KEY = "layout"
FLOPS = "flops"
FIXED_WAY = "fixed_way"
