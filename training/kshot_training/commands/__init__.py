"""The sub-commands of `kshot` that this package registers: train, evaluate, data."""
