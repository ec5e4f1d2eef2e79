"""Indexing of a frame's spots without DIALS: every lattice, with or without a known cell (docs/indexing.md)."""

from triage.indexing.indexer import EmbeddedIndexer

__all__ = ["EmbeddedIndexer"]
