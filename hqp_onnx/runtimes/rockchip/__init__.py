"""Rockchip's NPUs: .rknn files, by rknn-toolkit2 in an environment of its own, and its simulator."""
