"""Data sets, episodes, meta-gradients, the outer loop and evaluation: how kshot artifacts are made."""
