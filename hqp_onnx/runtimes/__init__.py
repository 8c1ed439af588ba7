"""Run a model: onnxruntime, OpenVINO, what each target takes, and what this machine is."""
