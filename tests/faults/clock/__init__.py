"""A folder for PYTHONPATH: its `sitecustomize` moves the clock of one process."""
