#!/usr/bin/python3
"""Finds and indexes the spots of NXmx frames by DIALS, with known cells; run by an interpreter that has DIALS.

    dials_index.py JOBS.json FOUND.json

Jobs: a list of {"path", "frame", "cell", "space_group"}. Found: one object a job: spots found, spots indexed, and of the crystal A (row by
row, columns a*, b*, c* in 1/A, DIALS' laboratory frame) and the cell; or the error. Every frame is indexed as a still, with the detector
where its header says: one frame cannot tell its distance from the cell.
"""

import json
import sys
import types
from pathlib import Path

sys.modules.setdefault("xfel_mono_sim_ext", types.ModuleType("xfel_mono_sim_ext"))  # Debian's build lacks it; the stills indexer imports it

from dials.array_family import flex  # noqa: E402
from dials.command_line import find_spots, index  # noqa: E402
from dials.util import Sorry  # noqa: E402
from dials.util.options import ArgumentParser  # noqa: E402
from dxtbx.imageset import ImageSet  # noqa: E402
from dxtbx.model import Experiment  # noqa: E402
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory  # noqa: E402

INDEXING = (
    "indexing.stills.indexer=stills",
    "indexing.method=real_space_grid_search",
    "indexing.basis_vector_combinations.max_combinations=50",  # all of them take four times as long and end in the same lattice
    "indexing.basis_vector_combinations.max_refine=5",
    "indexing.stills.refine_all_candidates=False",
    "refinement.parameterisation.detector.fix=all",
    "output.log=None",
)


def parameters(scope, arguments):
    """`phil_scope.extract()` alone finds no spots: defaults come through the parser."""
    return ArgumentParser(phil=scope).parse_args(args=list(arguments), show_diff_phil=False)[0]


def still(path, frame):
    """One frame without its goniometer."""
    for experiment in ExperimentListFactory.from_filenames([path]):
        if frame not in experiment.imageset.indices():
            continue
        images = ImageSet(experiment.imageset.data(), flex.size_t([frame]))
        images.set_detector(experiment.detector, 0)
        images.set_beam(experiment.beam, 0)
        images.set_goniometer(None, 0)
        images.set_scan(None, 0)
        return ExperimentList([Experiment(imageset=images, beam=experiment.beam, detector=experiment.detector)])
    raise ValueError(f"{path} has no frame {frame}")


def indexed(job):
    frames = still(job["path"], job["frame"])
    spots = flex.reflection_table.from_observations(frames, parameters(find_spots.phil_scope, ["spotfinder.mp.nproc=1"]))
    cell = ",".join(str(x) for x in job["cell"])
    known = (f"indexing.known_symmetry.space_group={job['space_group']}", f"indexing.known_symmetry.unit_cell={cell}")
    try:
        experiments, reflections = index.index(frames, [spots], parameters(index.phil_scope, (*known, *INDEXING)))
    except (Sorry, RuntimeError, ValueError) as error:  # what DIALS raises when no lattice fits
        return {"spots": len(spots), "error": str(error) or type(error).__name__}
    crystal = experiments[0].crystal
    return {
        "spots": len(spots),
        "indexed": (reflections["id"] >= 0).count(True),
        "a_matrix": list(crystal.get_A()),
        "cell": list(crystal.get_unit_cell().parameters()),
    }


def main():
    jobs, found = (Path(name) for name in sys.argv[1:3])
    found.write_text(json.dumps([indexed(job) for job in json.loads(jobs.read_text())]))


if __name__ == "__main__":
    main()
