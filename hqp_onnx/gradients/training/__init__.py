"""The onnxruntime-training engine, in a process of its own."""
