"""Indexes spots by DIALS. Run by an interpreter that has DIALS, as a script: it imports nothing of triage.

    python3 dials_worker.py ENDPOINT

Answers JSON requests on a ZeroMQ socket, one at a time, until its standard input is closed: who started it has gone then.
`{"hello": true}` is answered by `{"version": "DIALS 3.12"}`; a frame, by its crystals: of each A (row by row, columns a*, b*, c* in 1/A, in
the request's own frame) and the numbers of the spots it explains; or by `{"reason": ...}` where none was found, `{"error": ...}` where
the request could not be worked on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import types
from typing import Any

sys.modules.setdefault("xfel_mono_sim_ext", types.ModuleType("xfel_mono_sim_ext"))  # Debian's build lacks it; the stills indexer imports it

import zmq
from dials.algorithms.indexing import DialsIndexError
from dials.array_family import flex
from dials.command_line import index
from dials.util import Sorry
from dials.util.options import ArgumentParser
from dials.util.version import dials_version
from dxtbx.imageset import ImageSet, ImageSetData, MemReader
from dxtbx.model import BeamFactory, Detector, Experiment
from dxtbx.model.experiment_list import ExperimentList
from scitbx import matrix

PARAMETERS = (
    "indexing.method=fft3d",  # with a known cell, real_space_grid_search takes twice as long and ends in the same lattice
    "indexing.basis_vector_combinations.max_refine=5",
    "indexing.stills.indexer=stills",
    "indexing.stills.refine_all_candidates=False",  # all of them take minutes
    "indexing.nproc=1",
    "refinement.parameterisation.detector.fix=all",  # one frame cannot tell its distance from the cell
    "refinement.parameterisation.beam.fix=all",
    "output.log=None",
)


def parameters(arguments: list[str]) -> Any:
    """Defaults come through the parser: `phil_scope.extract()` alone indexes nothing."""
    return ArgumentParser(phil=index.phil_scope).parse_args(args=arguments, show_diff_phil=False)[0]


def experiment(geometry: dict[str, Any]) -> Any:
    """A still of one flat panel; vectors in mm, z along the beam. DIALS takes any frame."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_name("panel")
    panel.set_image_size([int(n) for n in geometry["shape_px"][::-1]])
    panel.set_pixel_size([float(x) for x in geometry["pixel_mm"][::-1]])
    panel.set_trusted_range((0.0, 1e9))
    panel.set_frame(*(tuple(geometry[name]) for name in ("fast_axis", "slow_axis", "origin_mm")))
    beam = BeamFactory.make_beam(sample_to_source=(0.0, 0.0, -1.0), wavelength=float(geometry["wavelength_A"]))
    images = ImageSet(ImageSetData(MemReader([None]), None), flex.size_t([0]))  # no pixels: DIALS asks it for its models
    for set_model, model in (
        (images.set_detector, detector),
        (images.set_beam, beam),
        (images.set_goniometer, None),
        (images.set_scan, None),
    ):
        set_model(model, 0)
    return Experiment(imageset=images, beam=beam, detector=detector)


def reflections(spots: list[list[float]]) -> Any:
    """A table of strong spots (slow, fast, intensity, sigma)."""
    table = flex.reflection_table()
    n = len(spots)
    table["xyzobs.px.value"] = flex.vec3_double([(fast, slow, 0.5) for slow, fast, _, _ in spots])
    table["xyzobs.px.variance"] = flex.vec3_double(n, (0.25, 0.25, 0.25))
    table["intensity.sum.value"] = flex.double([row[2] for row in spots])
    table["intensity.sum.variance"] = flex.double([row[3] ** 2 for row in spots])
    table["panel"] = flex.size_t(n, 0)
    table["id"] = flex.int(n, -1)
    table["imageset_id"] = flex.int(n, 0)
    table["flags"] = flex.size_t(n, 32)  # strong
    table["spot"] = flex.int(list(range(n)))
    return table


def crystals(request: dict[str, Any]) -> dict[str, Any]:
    """What DIALS makes of a request."""
    arguments = [*PARAMETERS, f"indexing.multiple_lattice_search.max_lattices={int(request['most_lattices'])}"]
    if (cell := request.get("cell")) is not None:
        arguments.append(f"indexing.known_symmetry.unit_cell={','.join(str(float(x)) for x in cell)}")
        arguments.append("indexing.known_symmetry.space_group=P1")
    frames = ExperimentList([experiment(request["geometry"])])
    try:
        found, table = index.index(frames, [reflections(request["spots"])], parameters(arguments))
    except (DialsIndexError, Sorry, RuntimeError, ValueError) as error:  # what DIALS raises when no lattice fits
        return {"reason": " ".join(str(error).split()) or type(error).__name__}
    return {"crystals": [_crystal(found, table, number) for number in range(len(found))]}


def _crystal(found: Any, table: Any, number: int) -> dict[str, Any]:
    chosen = table.select(table["id"] == number)
    return {"a_matrix": list(matrix.sqr(found[number].crystal.get_A())), "spots": list(chosen["spot"])}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    if request.get("hello"):
        return {"version": dials_version()}
    try:
        return crystals(request)
    except Exception as error:  # noqa: BLE001  the edge of the process: a fault costs this frame
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Answers until standard input is closed."""
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # DIALS prints as it goes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.connect(sys.argv[1])
    while True:
        socket.send(json.dumps(answer(json.loads(socket.recv()))).encode())


if __name__ == "__main__":
    main()
