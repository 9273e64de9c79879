"""The sub-benches; each is one file and one row in `table.py`."""
