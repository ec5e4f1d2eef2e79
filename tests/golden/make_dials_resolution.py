#!/usr/bin/python3
"""Writes dials_resolution.json: where DIALS sees spots end, counted in shells of equal volume (method 2 of DISTL), on drawn lists of 1/d.

Run with an interpreter that has DIALS (Debian's `dials` package: /usr/bin/python3), from the repository root:

    /usr/bin/python3 tests/golden/make_dials_resolution.py
"""

import json
from pathlib import Path

import numpy as np
from dials.algorithms.spot_finding.per_image_analysis import estimate_resolution_limit_distl_method2
from dials.array_family import flex
from dials.util.version import dials_version

OUT = Path(__file__).with_name("dials_resolution.json")
LISTS = {
    "evenly to 2 A, a few beyond": (120, 0.5, 6, 0.8),
    "few": (11, 0.4, 0, 0.4),
    "many": (900, 0.45, 30, 0.9),
    "low resolution": (60, 0.15, 3, 0.6),
    "no end": (200, 0.6, 0, 0.6),
}
"""Name: spots on a sphere's cap to 1/d, stragglers to a larger 1/d."""


def drawn(rng, n, reach, n_beyond, reach_beyond):
    """1/d in 1/A: points of a still lie evenly over s^2."""
    inside = reach * np.sqrt(rng.uniform(0.002, 1.0, n))
    return np.round(np.concatenate([inside, rng.uniform(reach, reach_beyond, n_beyond)]), 5)


def by_dials(s):
    table = flex.reflection_table()
    table["rlp"] = flex.vec3_double(flex.double(s), flex.double(len(s), 0.0), flex.double(len(s), 0.0))
    table["intensity.sum.variance"] = flex.double(len(s), 1.0)
    return estimate_resolution_limit_distl_method2(table)[0]


def main():
    rng = np.random.default_rng(20)
    cases = []
    for name, numbers in LISTS.items():
        s = drawn(rng, *numbers)
        cases.append({"name": name, "s_per_A": s.tolist(), "d_min_A": by_dials(s)})
    OUT.write_text(json.dumps({"dials": dials_version(), "cases": cases}) + "\n")
    print(*((case["name"], round(case["d_min_A"], 3)) for case in cases), sep="\n")


if __name__ == "__main__":
    main()
