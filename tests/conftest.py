"""What every test shares: error logs fail tests, and tests whose needs are absent say so and are skipped."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from triage.dials_engine import DialsError, find_dials

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES_BESIDE = REPOSITORY.parent / "shared" / "fixtures"
CHROMIUM_NAMES = ("chromium", "chromium-browser")


class _Recorder(logging.Handler):
    """Keeps what was logged at ERROR or above, whatever pytest's own capture does."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def fail_on_error_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """An ERROR log line fails the test, unless it is marked `allow_errors_in_log`."""
    if request.node.get_closest_marker("allow_errors_in_log"):
        yield
        return
    recorder = _Recorder()
    root = logging.getLogger()
    root.addHandler(recorder)
    try:
        yield
    finally:
        root.removeHandler(recorder)
    lines = [f"{record.name}: {record.getMessage()}" for record in recorder.records]
    if lines:
        pytest.fail("logged at ERROR: " + "; ".join(lines))


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of real frames and recorded messages, or a skip that says how to provide it."""
    configured = os.environ.get("TRIAGE_FIXTURES")
    folder = Path(configured) if configured else FIXTURES_BESIDE
    if not (folder / "real").is_dir():
        pytest.skip(f"no fixtures in {folder}: set TRIAGE_FIXTURES to the folder of real frames and recorded messages")
    return folder


def _missing_needs() -> dict[str, str]:
    """Marker -> why its tests cannot run here."""
    missing = {}
    if importlib.util.find_spec("torch") is None:
        missing["torch"] = "torch is absent: pip install -e '.[train]'"
    if not any(shutil.which(name) for name in CHROMIUM_NAMES):
        missing["browser"] = "chromium is absent: apt-get install chromium"
    elif importlib.util.find_spec("playwright") is None:
        missing["browser"] = "playwright is absent: pip install -e '.[test]'"
    return missing


@pytest.fixture(scope="session")
def dials_python() -> str:
    """The interpreter that has DIALS, or a skip that says how to get one."""
    try:
        return find_dials()[0]
    except DialsError as error:
        pytest.skip(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips marked tests whose needs are absent, with the mend."""
    missing = _missing_needs()
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
