"""The sub-commands of `kshot` that this package registers, each a file of its name."""
