"""How a batch is computed on a device; a new one is a file here and a row in `table.py`."""
