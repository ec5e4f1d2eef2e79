#!/usr/bin/python3
"""What DIALS finds on single-frame NXmx files: FOUND.json FILE...; run by an interpreter that has DIALS, HDF5_PLUGIN_PATH set.

Writes {file: {"default": rows, "any": rows}}; rows are those of tests/golden/make_dials_spots.py. "any" holds strong regions of any
size, of `dispersion` and `dispersion_extended`: what DIALS sees at all, before it asks for three pixels.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "golden"))

from make_dials_spots import found_by_dials, rows


def found(path, algorithm, least_pixels):
    table, image, trusted = found_by_dials(path, algorithm, least_pixels)
    return rows(table, image, trusted) if len(table) else []


def main():
    out, results = Path(sys.argv[1]), {}
    for path in sys.argv[2:]:
        any_size = found(path, "dispersion_extended", 1) + found(path, "dispersion", 1)
        results[path] = {"default": found(path, "dispersion_extended", 3), "any": any_size}
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
