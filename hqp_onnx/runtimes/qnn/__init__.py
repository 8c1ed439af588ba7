"""Qualcomm HTP: contexts that onnxruntime's QNN provider compiles and emulates here, without the chip."""
