"""The ML developer's verbs of `triage`, found by name through entry points."""

from __future__ import annotations

import logging

from training.settings import TrainSettings
from triage.compose import compose_settings

_HELP = {
    "train": """triage train [overrides]
Simulates what is missing, trains the network, records the run in MLflow. Examples:
  triage train                                  the CPU recipe (experiment=cpu_small)
  triage train experiment=debug                 does it run at all?
  triage train out=runs/wide network.hidden=256 trainer.epochs=20
  triage train resume=runs/train/last.ckpt""",
}


def train(argv: list[str]) -> int:
    """`triage train`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP["train"])  # noqa: T201
        return 0
    from training.train import train as fit  # torch and lightning take seconds to import: not for --help

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = compose_settings("train", argv, TrainSettings)
    print(f"trained: {fit(settings)}")  # noqa: T201
    return 0
