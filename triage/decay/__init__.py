"""Radiation damage, from spot intensities against the run's own start (docs/decay.md)."""

from triage.decay.shells import SHELL_EDGES_PER_A, shell_intensities
from triage.decay.tracker import DecaySettings, DecayTracker

__all__ = ["SHELL_EDGES_PER_A", "DecaySettings", "DecayTracker", "shell_intensities"]
