"""What ``dequantize`` knows of operators that take or give integers."""
