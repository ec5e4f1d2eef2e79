#!/usr/bin/python3
"""What DIALS finds with several settings: FOUND.json FILE...; run by an interpreter that has DIALS.

Writes {file: {setting: rows}}; rows are those of tests/golden/make_dials_spots.py. Beside it trusted_0.npy, trusted_1.npy ...: DIALS'
trusted pixels of each file.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "golden"))

import numpy as np
from make_dials_spots import found_by_dials, rows

SETTINGS = {
    "dispersion_extended, 3 pixels (default)": ("dispersion_extended", 3, 3),
    "dispersion_extended, 2 pixels": ("dispersion_extended", 2, 3),
    "dispersion_extended, 1 pixel": ("dispersion_extended", 1, 3),
    "dispersion_extended, 2 pixels, window 13": ("dispersion_extended", 2, 6),
    "dispersion, 3 pixels": ("dispersion", 3, 3),
    "dispersion, 2 pixels": ("dispersion", 2, 3),
    "dispersion, 2 pixels, window 13": ("dispersion", 2, 6),
    "dispersion, 1 pixel": ("dispersion", 1, 3),
}


def main():
    out, results = Path(sys.argv[1]), {}
    for k, path in enumerate(sys.argv[2:]):
        results[path] = {}
        for name, (algorithm, least_pixels, kernel) in SETTINGS.items():
            table, image, trusted = found_by_dials(path, algorithm, least_pixels, kernel=kernel)
            results[path][name] = rows(table, image, trusted) if len(table) else []
        np.save(out.with_name(f"trusted_{k}.npy"), trusted)
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
