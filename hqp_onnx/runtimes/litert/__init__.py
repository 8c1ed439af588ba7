"""LiteRT (once TensorFlow Lite): models written as .tflite, and run."""
