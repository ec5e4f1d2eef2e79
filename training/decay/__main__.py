"""`python -m training.decay`: simulate and judge runs, calibrate, report (docs/decay.md)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np

from training.decay.pictures import examples
from training.decay.report import as_markdown, calibration_of, report_of
from training.decay.store import judge, load
from triage.decay.calibration import probability_of
from triage.flags.settings import DECAY


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.decay", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    simulate = verbs.add_parser("judge", help="simulates runs of a split and judges them; goes on where it was cut off")
    simulate.add_argument("--split", default="train", choices=("train", "validation", "test"))
    simulate.add_argument("--seed", type=int, required=True)
    simulate.add_argument("--runs", type=int, required=True)
    simulate.add_argument("--out", type=Path, required=True)
    calibrate = verbs.add_parser("calibrate", help="alarms per 1,000 undamaged frames against z, of judged training runs")
    calibrate.add_argument("runs", type=Path)
    report = verbs.add_parser("report", help="tables and plots of judged test runs; baselines take their thresholds from training runs")
    report.add_argument("--train", type=Path, required=True)
    report.add_argument("--test", type=Path, required=True)
    report.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if told.verb == "judge":
        judge(told.out, seed=told.seed, split=told.split, number=told.runs)
    elif told.verb == "calibrate":
        zs = np.arange(1.5, 8.01, 0.5)
        for z, rate in calibration_of(load(told.runs), zs, np.array([probability_of(z) for z in zs]), DECAY.k, DECAY.n):
            print(f"({z:.1f}, {rate:.4f}),")
    else:
        train, test = load(told.train), load(told.test)
        found = report_of(train, test, DECAY)
        told.out.mkdir(parents=True, exist_ok=True)
        (told.out / "report.json").write_text(json.dumps(found, indent=1))
        (told.out / "report.md").write_text(as_markdown(found))
        (told.out / "decay_runs.png").write_bytes(examples(test, DECAY))
        print(as_markdown(found))


if __name__ == "__main__":
    main()
