#!/usr/bin/python3
"""Times DIALS' thresholding of .npy frames; run by an interpreter that has DIALS. Prints a JSON list, one object a frame.

Thresholding alone: labelling, centroids and filters are left out, as our finder's are not.
"""

import json
import os
import statistics
import sys
import time

import numpy as np
from dials.algorithms.image.threshold import DispersionExtendedThreshold, DispersionThreshold
from dials.array_family import flex

KERNEL, SIGMA_BACKGROUND, SIGMA_STRONG, GLOBAL, MIN_LOCAL = (3, 3), 6.0, 3.0, 0.0, 2  # DIALS' defaults
NO_DATA = 65535


def median_ms(kind, image, mask, repeats):
    """CPU time of this thread, and the number of strong pixels."""
    threshold = kind(image.all(), KERNEL, SIGMA_BACKGROUND, SIGMA_STRONG, GLOBAL, MIN_LOCAL)
    strong, times = flex.bool(image.accessor(), False), []
    for _ in range(repeats + 1):
        started = time.thread_time()
        threshold(image, mask, strong)
        times.append(time.thread_time() - started)
    return 1e3 * statistics.median(times[1:]), strong.count(True)


def main():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    repeats, results = int(sys.argv[1]), []
    for path in sys.argv[2:]:
        pixels = np.load(path)
        image, mask = flex.double(pixels.astype(float)), flex.bool(pixels < NO_DATA - 1)
        found = {}
        for kind in (DispersionThreshold, DispersionExtendedThreshold):
            found[kind.__name__] = dict(zip(("ms", "strong"), median_ms(kind, image, mask, repeats), strict=True))
        results.append(found)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
