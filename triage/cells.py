"""The unit cells of a run, clustered as they come."""
