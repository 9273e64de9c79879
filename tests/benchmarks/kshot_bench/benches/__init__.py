"""The sub-benches; each is one file, one row in `_RUNS` (../runs.py) and its flags in ../command.py."""
