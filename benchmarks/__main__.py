"""All benchmarks, one after the other, or those named: early_lane, spots, decay, simulator."""

from __future__ import annotations

import argparse

from benchmarks import decay, early_lane, simulator, spots

PARTS = {"early_lane": early_lane.main, "spots": spots.main, "decay": decay.main, "simulator": simulator.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)}; all by default")
    parser.add_argument("--repeats", type=int, default=20, help="timed repeats of each part")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in given.parts or PARTS:
        PARTS[name](["--repeats", str(given.repeats)])
        print()


if __name__ == "__main__":
    main()
