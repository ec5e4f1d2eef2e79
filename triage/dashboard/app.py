"""The page's server: static files, snapshots as JSON, and data-free wake-ups. It keeps nothing of a browser between requests."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from triage.core import TriageError
from triage.dashboard.board import Board

STATIC = Path(__file__).parent / "static"
FRAMES_PER_ANSWER = 2_000
"""Few enough that making the JSON holds the interpreter for about 10 ms; the page asks again until it has all."""
WAKE_UP_EVERY_S = 0.1
START_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class DashboardError(TriageError):
    """The live page cannot be served."""


def create_app(board: Board) -> FastAPI:
    """The web application that shows `board`; it only reads."""
    app = FastAPI(title="triage", docs_url=None, redoc_url=None, openapi_url=None)  # the docs pages load from outside

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": board.version}

    @app.get("/api/snapshot")
    def snapshot(since: Annotated[int, Query(ge=0)] = 0, board_id: Annotated[str, Query(alias="board")] = "") -> JSONResponse:
        """What changed since a version of the named board; everything, where that is another board than this one."""
        return JSONResponse(board.snapshot(since if board_id in ("", board.id) else 0, limit=FRAMES_PER_ANSWER))

    @app.websocket("/ws")
    async def wake_ups(browser: WebSocket) -> None:
        await browser.accept()
        await _wake(browser, board)

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


async def _wake(browser: WebSocket, board: Board) -> None:
    """Sends the board's version whenever it has changed, at most every WAKE_UP_EVERY_S, until the browser leaves."""
    leaving = asyncio.create_task(_until_gone(browser))
    told = -1
    try:
        while not leaving.done():
            if board.version != told:
                told = board.version
                await browser.send_json({"version": told})
            await asyncio.wait([leaving], timeout=WAKE_UP_EVERY_S)
    except WebSocketDisconnect:
        pass
    finally:
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving


async def _until_gone(browser: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await browser.receive_text()


class DashboardServer:
    """Serves a board's page from a background thread."""

    def __init__(self, board: Board, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Port 0 takes any free one; `port` says which after `start`."""
        self._app = create_app(board)
        self._host = host
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """The page's address for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        return f"http://{host}:{self._port}"

    def start(self) -> None:
        """Serves from now on. Raises DashboardError when the address cannot be had."""
        if self._thread is not None:
            return
        listening = self._listen()
        self._port = int(listening.getsockname()[1])
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="dashboard", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise DashboardError(f"the dashboard did not start on {self.url}; see the log, or set dashboard=off")
            time.sleep(0.005)

    def stop(self) -> None:
        """Serves no longer; open pages show that the connection is lost. Safe to call twice, or before `start`."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(STOP_WITHIN_S)
        self._server = self._thread = None

    def _listen(self) -> socket.socket:
        """A bound socket: bound here, so that the person who started it gets the error, and not a thread."""
        if not 0 <= self._port <= 65535:
            raise DashboardError(f"dashboard.port={self._port} is no port; set it to a number from 1 to 65535")
        try:
            found = socket.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise DashboardError(f"dashboard.host={self._host} is no address of this machine; set dashboard.host") from error
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError as error:
            listening.close()
            raise DashboardError(self._why(error)) from error
        return listening

    def _why(self, error: OSError) -> str:
        match error.errno:
            case errno.EADDRINUSE:
                return f"port {self._port} on {self._host} is taken by another program; set dashboard.port to a free one, or dashboard=off"
            case errno.EACCES:
                return f"port {self._port} on {self._host} needs rights this user lacks; set dashboard.port to one above 1023"
            case errno.EADDRNOTAVAIL:
                return f"dashboard.host={self._host} is no address of this machine; set dashboard.host"
            case _:
                return f"the dashboard cannot listen on {self._host}:{self._port} ({error.strerror}); set dashboard.host and dashboard.port"
