"""The slow lane: indexing beside the early lane, best effort, in processes of its own (docs/slow-lane.md)."""

from triage.slow_lane.jobs import Job, Known, Outcome, unfit
from triage.slow_lane.lane import Plan, SlowLane

__all__ = ["Job", "Known", "Outcome", "Plan", "SlowLane", "unfit"]
