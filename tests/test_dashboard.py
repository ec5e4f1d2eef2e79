"""The page's server over real sockets: snapshots, wake-ups, what it refuses, and that nothing comes from outside."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from triage.core import Judgement, Progress, Run, RunHeader, RunKind, RunStarted, TriageError, Verdict
from triage.dashboard.app import FRAMES_PER_ANSWER, STATIC, DashboardError, DashboardServer
from triage.dashboard.board import Board


def begin(board: Board, run_id: str = "r") -> None:
    board.accept(RunStarted(run=Run(id=run_id, header=RunHeader(source="s"), kind=RunKind.STILLS, geometry=None), model=None, config={}))


def judge(board: Board, frames: range, run_id: str = "r") -> None:
    judgement = Judgement(lattices=(0.0, 1.0, 0.0, 0.0), non_diffraction_kind=(1.0, 0.0, 0.0, 0.0), ice_rings=0.0, resolution_A=2.0)
    for frame in frames:
        board.accept(Verdict(run_id=run_id, frame=frame, file=None, judgement=judgement, spots=None, latency_ms=1.0))


@pytest.fixture
def board() -> Board:
    return Board(waiting_for="frames")


@pytest.fixture
def server(board: Board) -> Iterator[DashboardServer]:
    serving = DashboardServer(board, port=0)
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture
def client(server: DashboardServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False) as asking:
        yield asking


def test_the_page_and_its_parts_are_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert len(parts) >= 5
    for part in parts:
        assert client.get(f"/{part}").status_code == 200, part


def test_every_module_imported_is_there() -> None:
    for script in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', script.read_text("utf-8")):
            assert (STATIC / name).is_file(), f"{script.name} imports {name}"


def test_the_browser_is_told_to_load_nothing_from_outside(client: httpx.Client) -> None:
    for path in ("/", "/api/snapshot", "/static/app.js"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs").status_code == 404  # it would load from outside


def test_no_part_names_another_host() -> None:
    """Own files name no address at all but the SVG name space; uPlot's only names its home in a comment."""
    for part in STATIC.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"')]+", part.read_text("utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}, part.name


def test_uplot_is_the_version_we_say_and_its_licence_lies_beside_it() -> None:
    assert "uPlot (v1.6.32)" in (STATIC / "uPlot.iife.min.js").read_text("utf-8")[:200]
    assert "MIT License" in (STATIC / "uPlot.LICENSE").read_text("utf-8")


def test_a_snapshot_since_a_version_holds_what_changed(client: httpx.Client, board: Board) -> None:
    assert client.get("/api/snapshot").json()["waiting_for"] == "frames"
    begin(board)
    judge(board, range(3))
    first = client.get("/api/snapshot", params={"since": 0, "board": board.id}).json()
    judge(board, range(3, 5))
    second = client.get("/api/snapshot", params={"since": first["version"], "board": board.id}).json()
    assert first["runs"][0]["frames"]["frame"] == [0, 1, 2]
    assert second["runs"][0]["frames"]["frame"] == [3, 4]
    assert "started" not in second["runs"][0]


def test_a_page_of_an_earlier_board_gets_everything(client: httpx.Client, board: Board) -> None:
    """After a restart the versions begin anew, and an open page still asks since its old one."""
    begin(board)
    snapshot = client.get("/api/snapshot", params={"since": 50_000, "board": "earlier"}).json()
    assert snapshot["board"] == board.id
    assert snapshot["runs"][0]["started"]["run"] == "r"


def test_long_histories_come_in_portions(client: httpx.Client, board: Board) -> None:
    begin(board)
    judge(board, range(FRAMES_PER_ANSWER + 10))
    first = client.get("/api/snapshot").json()
    rest = client.get("/api/snapshot", params={"since": first["version"]}).json()
    assert (len(first["runs"][0]["frames"]["frame"]), first["more"]) == (FRAMES_PER_ANSWER, True)
    assert (rest["runs"][0]["frames"]["frame"], rest["more"]) == (list(range(FRAMES_PER_ANSWER, FRAMES_PER_ANSWER + 10)), False)


@pytest.mark.parametrize("since", ["-1", "x", "1.5"])
def test_a_version_that_is_none_is_refused(client: httpx.Client, since: str) -> None:
    assert client.get("/api/snapshot", params={"since": since}).status_code == 422


def test_healthz(client: httpx.Client, board: Board) -> None:
    begin(board)
    assert client.get("/healthz").json() == {"status": "ok", "version": 1}


def socket_url(server: DashboardServer) -> str:
    return f"ws://127.0.0.1:{server.port}/ws"


def test_wake_ups_carry_the_version_and_no_data(server: DashboardServer, board: Board) -> None:
    begin(board)
    with connect(socket_url(server)) as waiting:
        assert json.loads(waiting.recv(timeout=5)) == {"version": 1}
        board.progress("r", Progress(received=1))
        assert json.loads(waiting.recv(timeout=5)) == {"version": 2}


def test_wake_ups_are_coalesced(server: DashboardServer, board: Board) -> None:
    """1,000 changes in a burst wake a browser a few times, and the last wake-up names the last version."""
    begin(board)
    with connect(socket_url(server)) as waiting:
        judge(board, range(1000))
        told = [json.loads(waiting.recv(timeout=5))["version"]]
        while told[-1] != board.version:
            told.append(json.loads(waiting.recv(timeout=5))["version"])
    assert told == sorted(told)
    assert len(told) < 50


def test_browsers_that_leave_are_forgotten_and_others_are_still_served(server: DashboardServer, board: Board) -> None:
    begin(board)
    for _ in range(5):
        with connect(socket_url(server)) as waiting:
            waiting.recv(timeout=5)
    with connect(socket_url(server)) as waiting:
        waiting.recv(timeout=5)
        judge(board, range(1))
        assert json.loads(waiting.recv(timeout=5)) == {"version": 2}


def test_stops_while_browsers_are_connected_and_the_port_is_free_again(board: Board) -> None:
    first = DashboardServer(board, port=0)
    first.start()
    with connect(socket_url(first)) as waiting:
        waiting.recv(timeout=5)
        began = time.monotonic()
        first.stop()
        assert time.monotonic() - began < 5
    second = DashboardServer(board, port=first.port)
    second.start()
    assert httpx.get(f"{second.url}/healthz", trust_env=False).status_code == 200
    second.stop()
    second.stop()  # twice does no harm


def test_a_port_that_is_taken_is_named(board: Board) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DashboardError, match=rf"port {port} on 127\.0\.0\.1 is taken .*dashboard\.port") as raised:
            DashboardServer(board, port=port).start()
    assert isinstance(raised.value, TriageError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "port", "key"),
    [("no such host", 0, "dashboard.host"), ("192.0.2.1", 0, "dashboard.host"), ("127.0.0.1", 70000, "dashboard.port")],
)
def test_an_address_that_cannot_be_had_is_named(board: Board, host: str, port: int, key: str) -> None:
    """192.0.2.0/24 is TEST-NET-1 of RFC 5737: no machine's own."""
    with pytest.raises(DashboardError, match=re.escape(f"set {key}") if key == "dashboard.host" else key):
        DashboardServer(board, host=host, port=port).start()


def test_requests_are_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            client.get("/api/snapshot")
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_static_files_stay_inside_their_folder(client: httpx.Client) -> None:
    assert client.get("/static/..%2fapp.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404
    assert Path(STATIC, "..", "app.py").exists()
