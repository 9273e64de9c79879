"""Sub-commands of `kshot` that this package registers."""
