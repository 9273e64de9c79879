"""The routes below /v1, a file for each group; table.py lists them."""
