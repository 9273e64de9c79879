"""ONNX graphs of adapt and predict, inner gradients included, that need no torch to run.

tracing.py     learner -> two FX graphs of aten operations, sizes of support set, query list and way left open
builder.py     ONNX nodes, each made once
lowering.py    FX graph -> ONNX graph, by the rows of the three tables:
operations.py  arithmetic, reductions, layers
shaping.py     what changes shapes
backward.py    what autograd leaves behind in an inner step, said in forward operations
writing.py     artifact -> artifact with onnx/adapt.onnx and onnx/predict.onnx
"""
