"""Contexts: what reads a support set as a whole; a new one is a file here and a row in registry.py."""

from kshot_models.context.context import Answer, Context, Read
from kshot_models.context.matching import matching
from kshot_models.context.snail import snail

__all__ = ["Answer", "Context", "Read", "matching", "snail"]
