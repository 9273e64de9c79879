"""The sub-commands of `kshot` that need the client only; one module each, see kshot/_cli.py."""
