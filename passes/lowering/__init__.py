"""Passes that write a model in simpler operators, for gradients and recovery: a ModelProto in, a ModelProto out.

Where there is nothing to change, they return the very object that they were given.
"""
