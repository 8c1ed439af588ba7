"""Work in other processes: on this machine, or on those of a Dask or Ray cluster."""

from hqp_onnx.workers.pool import Workers, active, alone, using
from hqp_onnx.workers.spread import Work, spread

__all__ = ["Work", "Workers", "active", "alone", "spread", "using"]
