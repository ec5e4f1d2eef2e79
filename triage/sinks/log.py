"""Flags and run summaries as log lines."""

from __future__ import annotations

import logging

from triage.core import Flag, Record, RunFinished, RunStarted, Severity, Verdict

log = logging.getLogger(__name__)


class LogSink:
    """Flags raised at WARNING (INFO where they only inform), what else happens to a run at INFO, failed frames at INFO; one line each."""

    def accept(self, record: Record) -> None:
        """Logs the record, unless it is one frame's judgement."""
        match record:
            case RunStarted(run=run):
                expected = run.header.frames_expected
                log.info("%s: begins, %s, %s frames, from %s", run.id, run.kind or "unknown", expected or "?", run.header.source)
            case Verdict(error=str() as error):
                log.info("%s: frame %d was not judged: %s", record.run_id, record.frame, error)
            case Flag():
                urgent = record.state == "raised" and record.severity is not Severity.INFO
                log.log(
                    logging.WARNING if urgent else logging.INFO, "%s: %s %s: %s", record.run_id, record.flag, record.state, record.reason
                )
            case RunFinished():
                log.info("%s", _summary(record))
            case _:
                pass

    def close(self) -> None:
        """Nothing to close."""


def _summary(end: RunFinished) -> str:
    books = end.progress
    parts = [f"{books.judged} of {books.received} frames judged in {end.wall_s:.1f} s"]
    lost = ((books.dropped, "dropped"), (books.failed, "failed"), (books.missing, "never came"))
    parts += [f"{count} {what}" for count, what in lost if count]
    parts.append("flags: " + (", ".join(f"{flag} {n}" for flag, n in sorted(end.flags.items())) or "none"))
    if not end.complete:
        parts.append(f"not complete ({end.reason or 'reason unknown'})")
    return f"{end.run_id}: {'; '.join(parts)}"
