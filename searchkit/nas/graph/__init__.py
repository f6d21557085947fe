"""Networks as ONNX graphs: operators one by one, modules of torch among them, and what makes boxes."""
