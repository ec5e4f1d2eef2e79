"""The network, its export to ONNX, and the released model."""
