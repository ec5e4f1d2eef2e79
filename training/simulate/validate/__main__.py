"""Writes the figures of docs/simulate.md and prints the numbers beside them.

python -m training.simulate.validate OUT [--real FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.simulate.validate import physics, real, widths

FIGURES = (physics.positions, physics.intensities, physics.exposure, widths.spot_sizes, physics.counting)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.simulate.validate", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the PNG files")
    parser.add_argument("--real", type=Path, help="folder of the real frames named in training/simulate/validate/real.py")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for figure in FIGURES:
        for name, value in figure(given.out).items():
            print(f"{figure.__name__}: {name}: {value:.4g}")  # noqa: T201
    if given.real is not None:
        for name, values in real.compare(given.out, given.real).items():
            print(f"{name}: {values}")  # noqa: T201


if __name__ == "__main__":
    main()
