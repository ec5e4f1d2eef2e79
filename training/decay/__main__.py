"""`python -m training.decay`: simulate and judge runs, learn the fusion, report (docs/decay.md)."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from models.decay import attach, with_heads
from training.decay.agree import agreement, both_ways
from training.decay.evaluate import write
from training.decay.finder import measure
from training.decay.fuse import collect, learnt_from
from training.decay.heads import learn_heads, pairs_of
from training.decay.judge import judged_by
from training.decay.network import tables
from training.decay.out_of_fold import out_of_fold
from training.decay.pairs import collect as collect_pairs
from training.decay.store import judge, load
from training.evaluation.frozen import read_metadata, sha256_of
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
    both = verbs.add_parser("agree", help="short runs with and without pixels: do they agree")
    both.add_argument("--seed", type=int, required=True)
    both.add_argument("--runs", type=int, required=True)
    heads = verbs.add_parser("pairs", help="learns the network's heads for decay on rendered frames; writes the model file with them")
    heads.add_argument("--seed", type=int, required=True)
    heads.add_argument("--runs", type=int, required=True)
    heads.add_argument("--test-seed", type=int, required=True)
    heads.add_argument("--test-runs", type=int, required=True)
    heads.add_argument("--kept", type=Path, required=True, help="folder for what was rendered, so that learning again needs no rendering")
    heads.add_argument("--model", type=Path, default=Path("models/released/triage.onnx"))
    heads.add_argument("--version", required=True, help="of the model file that is written")
    heads.add_argument("--out", type=Path, required=True)
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
        print(agreement([both_ways(told.seed, "train", index) for index in range(told.runs)]))
    elif told.verb == "pairs":
        print(_pairs(told))
    elif told.verb == "finder":
        told.out.write_text(json.dumps(measure(told.seed)) + "\n")
    else:
        print(write(load(told.train), [judged_by(run, released()) for run in load(told.test)], told.out))


def _pairs(told: argparse.Namespace) -> str:
    """Renders what is missing, learns, writes the model file; tables out of fold and of test runs."""
    parts = {"train": (told.seed, told.runs), "test": (told.test_seed, told.test_runs)}
    train, test = (
        pairs_of(collect_pairs(told.kept / f"{split}_{seed}.pkl", told.model, seed=seed, split=split, number=number))
        for split, (seed, number) in parts.items()
    )
    learnt = learn_heads(train)
    source = {"seed": told.seed, "runs": told.runs, "pairs": len(train.run), "looks_of": sha256_of(told.model)}
    metadata = with_heads(read_metadata(told.model), learnt.head, told.version, source)
    attach(told.model, learnt.heads, metadata, told.out)
    return tables(learnt, train, test)


if __name__ == "__main__":
    main()
