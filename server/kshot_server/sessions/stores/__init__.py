"""Session stores: the Protocol in base.py, one file for each kind, and the table of their URLs in table.py."""
