"""All that a kshot artifact needs in order to run. Modules are imported by name, so that what needs no torch has none.

from kshot_models.load import load
from kshot_models.artifact import load_artifact
"""
