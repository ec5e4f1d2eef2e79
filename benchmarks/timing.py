"""Medians of repeated runs, and what else the machine was doing."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

BUSY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one call, in ms; medians."""

    wall_ms: float
    cpu_ms: float
    """Of this thread: what other processes take is left out, what they cost in caches is not."""


def timed(call: Callable[[], object], repeats: int) -> Timing:
    """Calls twice to warm up, then `repeats` times."""
    for _ in range(2):
        call()
    wall, cpu = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.thread_time()
        call()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.thread_time() - started[1])
    return Timing(wall_ms=1e3 * statistics.median(wall), cpu_ms=1e3 * statistics.median(cpu))


def beyond(call: Callable[[], object], part: Callable[[], object], repeats: int) -> float:
    """CPU ms that `call` takes beyond its `part`: the median of differences taken one right after the other."""
    return statistics.median(timed(call, 1).cpu_ms - timed(part, 1).cpu_ms for _ in range(repeats))


def repeats_from(arguments: Sequence[str] | None, description: str | None) -> int:
    """The one option that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=20, help="timed repeats of each part")
    given = parser.parse_args(arguments)
    return max(1, int(given.repeats))


def machine() -> str:
    """Processor and load: a number without them says nothing."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    note = "; LOADED: trust CPU times and ratios only" if load > BUSY else ""
    return f"{_processor()}, one core, Python {platform.python_version()}, load average {load:.1f}{note}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Prints a table and the machine it was measured on."""
    table = Table(title=title, title_justify="left")
    for k, name in enumerate(columns):
        table.add_column(name, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=max(130, Console().width))
    console.print(table)
    for note in (*notes, machine()):
        console.print(note, highlight=False)
