"""Stands in for triage/outside/dials_worker.py: does what the first spot's intensity tells it. Run as a script."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import zmq

ONE, TWO, NONE, ERROR, DIE, HANG = range(1, 7)


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    Path(sys.argv[1].removeprefix("ipc://")).with_name("gone").touch()
    os._exit(0)


def crystal(turned: bool, first: int, n: int) -> dict[str, object]:
    a_matrix = [0.02, 0, 0, 0, 0, -0.01, 0, 0.0125, 0] if turned else [0.02, 0, 0, 0, 0.0125, 0, 0, 0, 0.01]
    return {"a_matrix": a_matrix, "spots": list(range(first, first + n))}


def answer(request: dict[str, object]) -> dict[str, object]:
    if request.get("hello"):
        return {"version": "DIALS 0.0"}
    told = int(request["spots"][0][2])  # type: ignore[index]
    if told == DIE:
        os._exit(7)
    if told == HANG:
        time.sleep(600)
    if told == ERROR:
        return {"error": "ValueError: no such panel"}
    if told == NONE or request["cell"] is not None:
        return {"reason": "No suitable lattice could be found."}
    return {"crystals": [crystal(False, 0, 12), *([crystal(True, 12, 20)] if told == TWO else []), crystal(True, 0, 3)]}


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.connect(sys.argv[1])
    while True:
        socket.send(json.dumps(answer(json.loads(socket.recv()))).encode())
