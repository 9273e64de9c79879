"""ONNX graphs of adapt and predict, inner gradients included, that need no torch to run.

tracing.py          learner -> two FX graphs of aten operations, sizes of support set, query list and way left open
decompositions.py   what autograd leaves behind, said in forward operations
builder.py          ONNX nodes, each made once
lowering.py         FX graph -> ONNX graph, by the rows of operations.py, shaping.py and backward.py
writing.py          artifact -> artifact with onnx/adapt.onnx and onnx/predict.onnx
"""
