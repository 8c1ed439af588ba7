"""Arm Ethos-U: .tflite files compiled by Vela, which says what they would take, without the chip."""
