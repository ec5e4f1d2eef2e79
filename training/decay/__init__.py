"""Runs with and without radiation damage, drawn without pixels, and what the decay tracker makes of them (docs/decay.md)."""
