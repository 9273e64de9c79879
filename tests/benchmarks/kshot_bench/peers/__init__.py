"""Other ways to do the same work, as their own users would write it. Each is one file and one row in `table.py`."""
