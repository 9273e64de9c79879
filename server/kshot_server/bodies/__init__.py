"""Request bodies: a file for each content type; table.py lists them."""
