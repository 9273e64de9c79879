"""Kernels for a CPU, in single precision, on arrays: compiled by Numba (jit.py). No torch here."""
