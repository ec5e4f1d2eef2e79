"""`python -m training.decay`: simulate and judge runs, learn the fusion, report (docs/decay.md)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from training.decay.agree import agreement, both_ways
from training.decay.evaluate import write
from training.decay.finder import measure
from training.decay.fuse import collect, learnt_from
from training.decay.judge import judged_by
from training.decay.network import gain
from training.decay.out_of_fold import out_of_fold
from training.decay.store import judge, load
from triage.classify import OnnxClassifier
from triage.decay.fusion import released


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
    both = verbs.add_parser("agree", help="short runs with and without pixels: do they agree, and does the network add anything")
    both.add_argument("--seed", type=int, required=True)
    both.add_argument("--runs", type=int, required=True)
    both.add_argument("--model", type=Path, default=Path("models/released/triage.onnx"))
    both.add_argument("--without-network", action="store_true", help="agreement alone, in half the time")
    finder = verbs.add_parser("finder", help="shows the spot finder isolated spots; writes what runs without pixels take for found")
    finder.add_argument("--seed", type=int, required=True)
    finder.add_argument("--out", type=Path, default=Path("training/decay/finder.json"))
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
        learnt, found = learnt_from(runs)
        learnt |= {"learnt_from": {"seed": told.seed, "runs": told.runs, "with_copies": len(runs)}}
        told.out.write_text(json.dumps(learnt) + "\n")
        print(out_of_fold(runs, found))
    elif told.verb == "agree":
        classifier = None if told.without_network else OnnxClassifier(told.model, device="cpu")
        runs_both = [both_ways(told.seed, "train", index, classifier) for index in range(told.runs)]
        print(agreement(runs_both))
        if classifier is not None:
            print("", gain(runs_both), sep="\n")
    elif told.verb == "finder":
        told.out.write_text(json.dumps(measure(told.seed)) + "\n")
    else:
        print(write(load(told.train), [judged_by(run, released()) for run in load(told.test)], told.out))


if __name__ == "__main__":
    main()
