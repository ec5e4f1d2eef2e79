"""The live page in Debian's Chromium, fed with made-up records: what a person would see, and that nothing is asked from outside."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fake_indexers import CELL, one, two

from triage.core import (
    Agreement,
    Cell,
    CellShare,
    Decay,
    Flag,
    Indexed,
    Indexing,
    IndexingStatus,
    Judgement,
    Model,
    Progress,
    Run,
    RunFinished,
    RunHeader,
    RunKind,
    RunStarted,
    Severity,
    SpotSummary,
    Verdict,
)
from triage.dashboard.app import DashboardServer
from triage.dashboard.board import Board
from triage.geometry import Geometry

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install -e '.[test]'")

pytestmark = pytest.mark.browser

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BEGAN = datetime(2025, 3, 4, 10, 0, tzinfo=UTC)
CONFIG = {
    "flags": {
        "multi_lattice": {"raise_at": 0.8, "clear_at": 0.5},
        "non_diffraction": {"raise_at": 0.9, "clear_at": 0.6},
        "decay": {"raise_at": 0.95, "clear_at": 0.7},
        "ice": {"raise_at": 0.9, "clear_at": 0.5},
    }
}


def start_run(board: Board, run_id: str, *, frames_expected: int | None = 1800) -> None:
    geometry = Geometry(wavelength_A=0.9763, distance_mm=265.3, pixel_mm=(0.075, 0.075), beam_px=(2214.0, 2071.0), shape_px=(4362, 4148))
    header = RunHeader(source="tcp://127.0.0.1:31001", detector="EIGER2 X 16M", exposure_s=0.01, frames_expected=frames_expected)
    run = Run(id=run_id, header=header, kind=RunKind.ROTATION, geometry=geometry, geometry_source="header")
    board.accept(RunStarted(run=run, model=Model(name="look-twice", version="0.1.0", sha256="0" * 64), config=CONFIG))


def trouble(frame: int, first: int, last: int) -> float:
    """0 outside first..last, 1 inside, with soft edges."""
    return float((1 + np.tanh((frame - first) / 8)) * (1 - np.tanh((frame - last) / 8)) / 4)


def verdict(run_id: str, frame: int, random: np.random.Generator) -> Verdict:
    """A second lattice at 500-700, the crystal out of the beam at 900-1000, ice at 1150-1250, decay from 1200 on."""
    several, gone, icy = trouble(frame, 500, 700), trouble(frame, 900, 1000), trouble(frame, 1150, 1250)
    decayed = max(0.0, (frame - 300) / 1000)
    none = float(np.clip(0.02 + 0.96 * gone + random.normal(0, 0.015), 0, 1))
    multi = float(np.clip((0.06 + 0.86 * several + random.normal(0, 0.05)) * (1 - none), 0, 1 - none))
    lattices = (none, 1 - none - multi, multi * 0.9, multi * 0.1)
    limit = (1.6 + 0.9 * decayed) * float(np.exp(random.normal(0, 0.03)))
    count = int(random.poisson(280 * (1 + 0.6 * several) * (1 - 0.97 * gone) * np.exp(-0.7 * decayed) + 3))
    judgement = Judgement(
        lattices=lattices,
        non_diffraction_kind=(0.7, 0.1, 0.1, 0.1),
        ice_rings=float(np.clip(0.04 + 0.93 * icy + random.normal(0, 0.03), 0, 1)),
        resolution_A=None if gone > 0.5 else limit,
    )
    spots = SpotSummary(
        count=count + int(60 * icy),
        count_no_ice=count,
        resolution_A=None if gone > 0.5 else limit * float(np.exp(random.normal(0.08, 0.05))),
        total_intensity=count * 400.0,
        mean_i_over_sigma=11.0,
    )
    delta_B = 12 * decayed + float(random.normal(0, 0.6))
    decay = Decay(
        probability=float(1 / (1 + np.exp(-(delta_B - 8) / 0.7))),
        alarm_probability=float(1 / (1 + np.exp(-(delta_B - 9) / 0.7))),
        delta_B_A2=delta_B,
        delta_B_sigma=0.6,
        scale=1.0,
        scale_sigma=0.1,
        reference_frames=(0, 39),
    )
    return Verdict(
        run_id=run_id,
        frame=frame,
        file=None,
        judgement=judgement,
        spots=spots,
        decay=decay if frame >= 40 else None,
        latency_ms=11.0 + random.random(),
    )


def flag(run_id: str, name: str, state: str, first: int, frame: int, severity: Severity, reason: str) -> Flag:
    return Flag(
        id=f"{run_id}/{name}/{first}",
        run_id=run_id,
        flag=name,
        state=state,
        first_frame=first,
        frame=frame,
        severity=severity,
        probability=0.93,
        reason=reason,
        at=BEGAN + timedelta(seconds=frame / 50),
    )


STORY = (
    (
        "multi_lattice",
        "raised",
        497,
        512,
        Severity.WARNING,
        "Two or more lattices in 9 of the last 10 images: a second crystal is in the beam.",
    ),
    ("multi_lattice", "cleared", 497, 711, Severity.WARNING, "One lattice again for 10 images."),
    (
        "non_diffraction",
        "raised",
        899,
        906,
        Severity.CRITICAL,
        "No diffraction in 8 of the last 8 images, most likely blank: the crystal has left the beam.",
    ),
    ("non_diffraction", "cleared", 899, 1008, Severity.CRITICAL, "Diffraction is back."),
    ("ice", "raised", 1146, 1159, Severity.INFO, "Ice rings in 10 of the last 10 images."),
    ("ice", "cleared", 1146, 1262, Severity.INFO, "No ice rings for 10 images."),
    (
        "decay",
        "raised",
        1120,
        1240,
        Severity.CRITICAL,
        "The fall-off is 11 Å² steeper than at the start of the run: radiation damage; consider stopping.",
    ),
)


def feed(board: Board, run_id: str, first: int, last: int, seed: int = 1) -> None:
    """Verdicts of frames first..last-1, the flags of the story, and the books."""
    random = np.random.default_rng([seed, first])
    for frame in range(first, last):
        board.accept(verdict(run_id, frame, random))
        for name, state, since, at, severity, reason in STORY:
            if at == frame:
                board.accept(flag(run_id, name, state, since, at, severity, reason))
    board.progress(run_id, Progress(received=last, judged=last))


def finish(board: Board, run_id: str, frames: int) -> None:
    books = Progress(received=frames, judged=frames)
    board.accept(RunFinished(run_id=run_id, progress=books, flags={}, indexed=0, wall_s=20.0, complete=True, reason=None))


def chromium_path() -> str:
    named = os.environ.get("TRIAGE_CHROMIUM")
    path = named or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None or not Path(path).exists():
        pytest.skip("chromium is absent: apt-get install chromium, or set TRIAGE_CHROMIUM to its path")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium_path(), args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def board() -> Board:
    return Board(waiting_for="frames from tcp://127.0.0.1:31001")


def wait_for(page: Any, expression: str, within_s: float = 15.0) -> None:
    """Until the expression is true; playwright's own wait needs eval in the page, which its Content-Security-Policy forbids."""
    deadline = time.monotonic() + within_s
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {within_s:g} s: {expression}")
        page.wait_for_timeout(50)


class Visitor:
    """A page, what it complained of, and whom it asked."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: self.asked.add(urlsplit(socket.url).netloc))
        page.goto(url)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait_for(self, expression: str) -> None:
        wait_for(self.page, expression)


@pytest.fixture
def server(board: Board) -> Iterator[DashboardServer]:
    serving = DashboardServer(board, port=0)
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture
def visitor(browser: Any, server: DashboardServer) -> Iterator[Visitor]:
    context = browser.new_context(viewport={"width": 1920, "height": 1000})
    come = Visitor(context.new_page(), server.url)
    yield come
    assert come.complaints == []
    assert come.asked == {urlsplit(server.url).netloc}
    context.close()


def figure(tile: str) -> str:
    return f"#tile-{tile} .figure"


def shows(tile: str, text: str) -> str:
    return f"document.querySelector('{figure(tile)}').textContent === {text!r}"


def drawn_pixels(visitor: Visitor, panel: int, variable: str) -> int:
    """How many pixels of a chart have the colour of a CSS variable, within what antialiasing leaves."""
    script = """([panel, variable]) => {
        const canvas = document.querySelectorAll('.panel canvas')[panel];
        const hex = getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
        const want = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
        const copy = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
        const context = copy.getContext('2d', { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        let found = 0;
        for (let at = 0; at < data.length; at += 4) found += want.every((value, k) => Math.abs(data[at + k] - value) < 12);
        return found;
    }"""
    return int(visitor.page.evaluate(script, [panel, variable]))


def test_says_what_it_waits_for_then_shows_the_run(visitor: Visitor, board: Board) -> None:
    visitor.wait_for("!document.getElementById('empty').hidden")
    assert "Waiting for frames from tcp://127.0.0.1:31001" in visitor.text("#empty")
    start_run(board, "thaumatin-1")
    feed(board, "thaumatin-1", 0, 300)
    visitor.wait_for(shows("judged", "300"))
    assert visitor.page.locator("#empty").is_hidden()
    assert visitor.text("#facts").split("\n") == [
        *("Kind", "rotation", "Detector", "EIGER2 X 16M", "Distance", "265.3 mm", "Wavelength", "0.9763 Å"),
        *("Exposure", "10.0 ms", "Model", "look-twice 0.1.0"),
    ]
    assert visitor.text(figure("coverage")) == "100 %"
    assert visitor.text("#link") == "live"


def test_flags_are_listed_newest_first_and_critical_ones_stand_in_the_banner(visitor: Visitor, board: Board) -> None:
    start_run(board, "r")
    feed(board, "r", 0, 950)
    visitor.wait_for("document.querySelectorAll('#flag-list .flag').length === 2")
    newest, oldest = (visitor.page.locator("#flag-list .flag").nth(k).inner_text() for k in (0, 1))
    assert "No diffraction" in newest
    assert "CRITICAL" in newest
    assert "from image 899, raised at 906, still standing" in newest
    assert "WARNING" in oldest
    assert "cleared at 711" in oldest
    assert "the crystal has left the beam" in visitor.text("#banner")
    assert "No diffraction" in visitor.page.title()
    assert "No diffraction" in visitor.page.locator("#announce").text_content()
    feed(board, "r", 950, 1100)
    visitor.wait_for("document.getElementById('banner').hidden")
    assert visitor.text(figure("flags")) == "None"


def test_charts_are_drawn_with_thresholds_and_bands(visitor: Visitor, board: Board) -> None:
    start_run(board, "r", frames_expected=None)
    feed(board, "r", 0, 1300)
    visitor.wait_for(shows("judged", "1\u202f300"))
    visitor.page.wait_for_timeout(300)
    for panel, colours in enumerate(
        (("--multi", "--none"), ("--decay", "--alarm", "--delta"), ("--spots", "--all-spots"), ("--network", "--spots"), ("--ice",))
    ):
        for colour in colours:
            assert drawn_pixels(visitor, panel, colour) > 100, (panel, colour)
    assert drawn_pixels(visitor, 0, "--critical") > 50  # where the crystal left
    assert visitor.page.locator(".panel-head").first.inner_text().count("0.") == 2  # the newest values


def test_a_flag_picked_moves_the_charts_and_follow_live_brings_them_back(visitor: Visitor, board: Board) -> None:
    start_run(board, "r")
    feed(board, "r", 0, 1000)
    visitor.wait_for("document.querySelectorAll('#flag-list .flag').length === 2")
    visitor.page.locator("#flag-list .flag").nth(1).click()
    visitor.wait_for("document.getElementById('span').textContent === 'images 390 to 818'")
    assert visitor.page.locator("#follow").get_attribute("aria-pressed") == "false"
    visitor.page.locator("#panels").press("l")
    visitor.wait_for("document.getElementById('follow').getAttribute('aria-pressed') === 'true'")
    visitor.page.locator("#zoom-in").press("Enter")
    visitor.wait_for("document.getElementById('span').textContent === 'images 500 to 999'")


def test_dragging_zooms_all_charts(visitor: Visitor, board: Board) -> None:
    start_run(board, "r", frames_expected=1000)
    feed(board, "r", 0, 1000)
    visitor.wait_for(shows("judged", "1\u202f000"))
    box = visitor.page.locator(".panel .u-over").nth(2).bounding_box()
    y = box["y"] + box["height"] / 2
    visitor.page.mouse.move(box["x"] + box["width"] * 0.4, y)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    visitor.page.mouse.up()
    visitor.wait_for("document.getElementById('follow').getAttribute('aria-pressed') === 'false'")
    _, first, _, last = visitor.text("#span").split()
    assert (int(first), int(last)) == (pytest.approx(400, abs=3), pytest.approx(600, abs=3))  # 1,000 images on the whole axis
    assert visitor.text("#at").startswith("image ")
    visitor.page.locator(".panel .u-over").nth(0).dblclick()
    visitor.wait_for("document.getElementById('span').textContent === 'images 0 to 999'")


def test_a_new_run_is_shown_unless_somebody_looks_back(visitor: Visitor, board: Board) -> None:
    start_run(board, "first")
    feed(board, "first", 0, 100)
    finish(board, "first", 100)
    visitor.wait_for("document.getElementById('phase').textContent === 'complete'")
    assert visitor.text(figure("rate")) == "5.0"  # 100 images in 20 s
    start_run(board, "second")
    feed(board, "second", 0, 50)
    visitor.wait_for("document.getElementById('run').value === 'second'")
    visitor.page.locator("#run").select_option("first")
    visitor.wait_for("document.getElementById('notice').textContent.startsWith('Looking back at first')")
    start_run(board, "third")
    visitor.wait_for("document.getElementById('run').options.length === 3")
    assert visitor.page.locator("#run").input_value() == "first"
    visitor.page.locator("#follow").click()
    visitor.wait_for("document.getElementById('run').value === 'third'")


def test_means_are_of_the_images_they_stand_for(visitor: Visitor) -> None:
    """Against NumPy, on image numbers with gaps and values that are not known."""
    random = np.random.default_rng(3)
    frames = np.flatnonzero(random.random(500) < 0.4)
    values = np.where(random.random(len(frames)) < 0.3, np.nan, random.normal(size=len(frames)))
    group = frames // 16
    script = """async ([frames, values]) => {
        const { groupStarts, groupCentres, groupMeans } = await import('./static/means.js');
        const starts = groupStarts(frames, 16);
        return [groupCentres(frames, starts, 16), groupMeans(values, starts)];
    }"""
    centres, found = visitor.page.evaluate(script, [frames.tolist(), [None if np.isnan(value) else value for value in values.tolist()]])
    assert centres == [(each + 0.5) * 16 for each in np.unique(group)]
    for name, reduce in (("mean", np.mean), ("low", np.min), ("high", np.max)):
        parts = [values[(group == each) & np.isfinite(values)] for each in np.unique(group)]
        assert found[name] == [pytest.approx(reduce(part)) if len(part) else None for part in parts]


def test_what_is_indexed_agreement_and_cells_are_shown(visitor: Visitor, board: Board) -> None:
    start_run(board, "r")
    feed(board, "r", 0, 120)
    visitor.wait_for(shows("indexed", "–"))
    assert visitor.page.locator("#witness").is_hidden()
    other: Cell = (78.3, 78.3, 37.4, 90.0, 90.0, 90.0)
    shares = (
        CellShare(cell=CELL, bravais="oP", n=70, share=0.875, drift_percent_per_1000_frames=0.31),
        CellShare(cell=other, bravais="tP", n=10, share=0.125),
    )
    for frame in range(100):
        said = one() if frame < 70 else two() if frame < 80 else Indexed(status=IndexingStatus.NOT_INDEXED, reason="no lattice")
        agreement = None if frame >= 80 else Agreement.CLASSICAL_ONLY if frame >= 75 else Agreement.AGREES
        board.accept(
            Indexing(
                run_id="r",
                frame=frame,
                engine="triage 0.1.0",
                indexed=said,
                multi_lattice=0.1,
                agreement=agreement,
                cells=shares if frame < 80 else (),
                latency_ms=310.0,
            )
        )
    visitor.wait_for(shows("indexed", "80.0 %"))
    assert visitor.text("#tile-indexed .detail") == "80 of 100 tried"
    assert "agree in 75; 0 by the network only, 5 by indexing only" in visitor.text("#agreement")
    first, second = (visitor.page.locator("#cells li").nth(k).inner_text() for k in (0, 1))
    assert "oP 50.0 60.0 70.0 Å" in first
    assert "88 %, 70 images, edges grow 0.31 % in 1000 images" in first
    assert "tP 78.3 78.3 37.4 Å" in second


def test_low_coverage_is_marked(visitor: Visitor, board: Board) -> None:
    start_run(board, "r")
    feed(board, "r", 0, 90)
    board.progress("r", Progress(received=120, judged=90, dropped=8, failed=2))
    visitor.wait_for(shows("coverage", "90 %"))
    assert visitor.page.locator("#tile-coverage").get_attribute("data-state") == "bad"
    assert visitor.text("#tile-coverage .detail") == "8 skipped, 2 failed"


def test_keeps_up_with_a_thousand_points_a_second(visitor: Visitor, board: Board) -> None:
    start_run(board, "r", frames_expected=None)
    feed(board, "r", 0, 20_000)
    visitor.wait_for(shows("judged", "20\u202f000"))
    visitor.page.locator("#zoom-all").click()
    visitor.page.evaluate("window.turns = 0; (function turn() { window.turns++; requestAnimationFrame(turn); })()")
    for step in range(20):
        feed(board, "r", 20_000 + 100 * step, 20_100 + 100 * step)
        time.sleep(0.1)
    visitor.wait_for(shows("judged", "22\u202f000"))
    assert visitor.text("#span").endswith("means of 32 and their range")  # 22,000 images on about 1,260 pixels
    assert visitor.page.evaluate("window.turns") >= 20  # the page was drawn between the updates, not frozen


def test_says_when_the_connection_is_lost(browser: Any, board: Board) -> None:
    serving = DashboardServer(board, port=0)
    serving.start()
    page = browser.new_page()
    start_run(board, "r")
    page.goto(serving.url)
    wait_for(page, "document.getElementById('link').textContent === 'live'")
    serving.stop()
    wait_for(page, "document.getElementById('notice').textContent.startsWith('Connection lost')")
    again = DashboardServer(Board(), port=serving.port)
    again.start()
    wait_for(page, "!document.getElementById('empty').hidden")  # another board: what was shown is gone
    again.stop()
    page.close()
