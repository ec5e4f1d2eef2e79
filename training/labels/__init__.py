"""The label store, what fills it and what training makes of it. The store, CSV and indexing results need no torch."""
