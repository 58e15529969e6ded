"""Model export: ONNX graphs, smaller formats, and the quality gate that compares them with the model."""
