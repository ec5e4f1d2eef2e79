"""`python -m training.decay`: simulate and judge runs, learn the fusion, report (docs/decay.md)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from training.decay.agree import agreement, both_ways
from training.decay.evaluate import write
from training.decay.fuse import alarms_of, collect, learn, level_of, samples_of
from training.decay.store import judge, load


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.decay", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    simulate = verbs.add_parser("judge", help="simulates runs of a split and judges them; goes on where it was cut off")
    simulate.add_argument("--split", default="train", choices=("train", "validation", "test"))
    simulate.add_argument("--seed", type=int, required=True)
    simulate.add_argument("--runs", type=int, required=True)
    simulate.add_argument("--out", type=Path, required=True)
    fuse = verbs.add_parser("learn", help="learns the fusion on training runs; writes the file that the runtime reads")
    fuse.add_argument("--seed", type=int, required=True)
    fuse.add_argument("--runs", type=int, required=True)
    fuse.add_argument("--kept", type=Path, required=True, help="evidence of the runs, so that learning again needs no simulation")
    fuse.add_argument("--out", type=Path, default=Path("triage/decay/fusion.json"))
    both = verbs.add_parser("agree", help="renders short runs with pixels, finds their spots, and compares with runs without pixels")
    both.add_argument("--seed", type=int, required=True)
    both.add_argument("--runs", type=int, required=True)
    report = verbs.add_parser("report", help="tables and plots of judged test runs; baselines take their thresholds from training runs")
    report.add_argument("--train", type=Path, required=True, help="whose trends give the thresholds of trends")
    report.add_argument("--test", type=Path, required=True)
    report.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if told.verb == "judge":
        judge(told.out, seed=told.seed, split=told.split, number=told.runs)
    elif told.verb == "learn":
        runs = collect(told.kept, seed=told.seed, number=told.runs)
        learnt, probability = learn(samples_of(runs))
        learnt |= {"alarms": alarms_of(runs, probability), "learnt_from": {"seed": told.seed, "runs": told.runs, "with_copies": len(runs)}}
        told.out.write_text(json.dumps(learnt) + "\n")
        print(f"5 % of the undamaged runs exceed {level_of(runs, probability, 0.05):.3f} (out of fold): flags.decay.raise_at")
    elif told.verb == "agree":
        print(agreement([both_ways(told.seed, "train", index) for index in range(told.runs)]))
    else:
        train, test = load(told.train), load(told.test)
        print(write(train, test, told.out))


if __name__ == "__main__":
    main()
