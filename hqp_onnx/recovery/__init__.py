"""Recovery: a changed model learns from the original, without labels.

    minimise over the weights   E [ D(teacher(x), student(x)) + beta mean_f |s_f - t_f|^2 / var(t_f) ]

with D the divergence of outputs and s_f, t_f intermediate tensors that both models have. ``passes.recover`` does it.
"""

from hqp_onnx.recovery.settings import Recovery

__all__ = ["Recovery"]
