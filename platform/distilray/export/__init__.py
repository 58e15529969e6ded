"""Export of a model: ONNX graphs, formats with fewer bits, and their comparison with the model."""
