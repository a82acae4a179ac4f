"""Reading an ONNX graph of a bundle."""
