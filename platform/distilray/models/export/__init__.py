"""Models in other formats: the ONNX graph, its int8 form, bf16 weights, and the way to a hub."""
