#!/usr/bin/python3
"""Writes dials_spots.json: the strong spots that DIALS finds on real CBF frames, with its default settings.

Run with an interpreter that has DIALS (Debian's `dials` package: /usr/bin/python3), from the repository root:

    /usr/bin/python3 tests/golden/make_dials_spots.py FIXTURES/real

Positions are (slow, fast) pixels from the outer corner of the first pixel. DIALS' spot finder does not subtract the background, so
intensity and sigma are computed here, plainly: the spot's foreground pixels, less the mean of the trusted pixels within 4 px of its box
that belong to no spot.
"""

import json
import sys
from pathlib import Path

import numpy as np
from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex
from dials.command_line.find_spots import phil_scope
from dials.util.options import ArgumentParser
from dials.util.version import dials_version
from dxtbx.model.experiment_list import ExperimentListFactory

OUT = Path(__file__).with_name("dials_spots.json")
CBF_FILES = ("DLS_I03_smargon_0001.cbf.gz", "run2_1_00148.cbf.bz2", "dlsnxs2cbf_therm_0001.cbf.gz", "ximg2700_00001.cbf")
MARGIN = 4


def found_by_dials(path, algorithm, least_pixels=3, *, kernel=3):
    """DIALS' strong spots, and the image with its trusted pixels; `kernel` is half the window of the local background."""
    arguments = [f"spotfinder.threshold.algorithm={algorithm}", "spotfinder.mp.nproc=1", f"spotfinder.filter.min_spot_size={least_pixels}"]
    arguments.append(f"spotfinder.threshold.dispersion.kernel_size={kernel},{kernel}")
    params, _ = ArgumentParser(phil=phil_scope).parse_args(args=arguments, show_diff_phil=False)
    experiments = ExperimentListFactory.from_filenames([str(path)])
    table = flex.reflection_table.from_observations(experiments, params)
    image_set = experiments.imagesets()[0]
    return table, image_set.get_raw_data(0)[0].as_numpy_array(), image_set.get_mask(0)[0].as_numpy_array()


def rows(table, image, trusted):
    """[slow, fast, intensity, i_over_sigma, n_pixels] of each spot, strongest first."""
    members = [
        np.add(np.argwhere(box.mask.as_numpy_array()[0] & MaskCode.Foreground), (box.bbox[2], box.bbox[0])) for box in table["shoebox"]
    ]
    free = trusted.copy()
    for at in members:
        free[at[:, 0], at[:, 1]] = False
    found = []
    for at, (fast, slow, _) in zip(members, table["xyzobs.px.value"], strict=True):
        first, last = np.maximum(at.min(axis=0) - MARGIN, 0), at.max(axis=0) + MARGIN + 1
        window = np.s_[first[0] : last[0], first[1] : last[1]]
        around = image[window][free[window]].astype(float)
        counts, n = image[at[:, 0], at[:, 1]].astype(float), len(at)
        background, n_around = (around.mean(), len(around)) if len(around) else (0.0, 1)
        intensity = counts.sum() - n * background
        sigma = np.sqrt(max(counts.sum(), 1.0) + n * n * background / n_around)
        found.append([round(slow, 2), round(fast, 2), round(intensity, 1), round(intensity / sigma, 2), n])
    return sorted(found, key=lambda row: -row[2])


def main():
    folder = Path(sys.argv[1])
    golden = {"dials": dials_version(), "columns": ["slow", "fast", "intensity", "i_over_sigma", "n_pixels"], "files": {}}
    for name in CBF_FILES:
        table, image, trusted = found_by_dials(folder / name, "dispersion_extended")
        plain, _, _ = found_by_dials(folder / name, "dispersion")
        golden["files"][name] = {"spots": rows(table, image, trusted), "count_dispersion": len(plain)}
        print(name, "dispersion_extended", len(table), "dispersion", len(plain))
    text = json.dumps(golden).replace('"spots": [[', '"spots": [\n[').replace("], [", "],\n[").replace("]]", "]\n]")
    OUT.write_text(text + "\n")
    print("wrote", OUT)


if __name__ == "__main__":
    main()
