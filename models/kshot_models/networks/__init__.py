"""Embedding networks; a new one is a file here and a row in registry.py."""

from kshot_models.networks.conv4 import conv4
from kshot_models.networks.encoder import encoder
from kshot_models.networks.mlp import mlp
from kshot_models.networks.network import Apply, Network
from kshot_models.networks.resnet12 import resnet12

__all__ = ["Apply", "Network", "conv4", "encoder", "mlp", "resnet12"]
