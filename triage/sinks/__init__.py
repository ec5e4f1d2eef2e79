"""Where records go: JSON lines, HDF5, a list of good frames, the log (docs/results.md)."""
