"""From evidence over time to red flags: one small policy a run and flag (docs/flags.md)."""

from triage.flags.persistence import Clear, FlagThreshold, Persistence, Raise, ThresholdError
from triage.flags.policies import policies_for
from triage.flags.prior import at_prior
from triage.flags.settings import Evidence, FlagsSettings, PriorShift, SerialSettings

__all__ = [
    "Clear",
    "Evidence",
    "FlagThreshold",
    "FlagsSettings",
    "Persistence",
    "PriorShift",
    "Raise",
    "SerialSettings",
    "ThresholdError",
    "at_prior",
    "policies_for",
]
