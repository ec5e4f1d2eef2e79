"""The ML developer's verbs of `triage`, found by name through entry points."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.settings import EvaluateSettings, ExportSettings, SimulateSettings, TrainSettings
from triage.commands.console import console
from triage.compose import compose_settings

if TYPE_CHECKING:
    from training.settings import EvaluatePart
    from training.simulate.experiment import Progress as Done

_HELP = {
    "train": """triage train [overrides]
Simulates what is missing, trains the network, records the run in MLflow (docs/training.md). Examples:
  triage train                                  the CPU recipe (experiment=cpu_small)
  triage train experiment=debug                 does it run at all?
  triage train out=runs/wide network.hidden=256 trainer.epochs=20
  triage train resume=runs/train/last.ckpt
  triage train experiment=gpu_full out=runs/gpu a leg of some minutes; the same again goes on
  triage train trainer.devices=2 trainer.strategy=ddp
  triage train --multirun seed=1,2,3 network.hidden=128,256 out=runs/sweep
  triage train network.kind=resnet18_half out=runs/resnet   the baseline""",
    "simulate": """triage simulate [overrides]
Writes simulated frames as NXmx files, the truth of each under /entry/labels (docs/simulate.md). Complete files in the folder are kept.
Examples:
  triage simulate simulate.out=frames simulate.n=1000 simulate.seed=1
  triage simulate simulate.out=frames simulate.n=20 simulate.frames_per_file=5 simulate.detectors='["EIGER2 500K"]'
  triage simulate simulate.out=frames simulate.n=100000 simulate.processes=32""",
    "evaluate": """triage evaluate [overrides]
Judges the frozen set of simulated frames with an ONNX model, baselines beside it: report.html, report.md, report.json (docs/evaluation.md).
Frames that are missing are simulated first. With evaluate.what=runs: radiation damage on simulated runs (docs/decay.md).
Examples:
  triage evaluate
  triage evaluate evaluate.what=runs evaluate.out=runs/decay evaluate.runs.test=200
  triage evaluate evaluate.model=runs/new.onnx evaluate.against=models/released/triage.onnx evaluate.out=runs/compared""",
    "export": """triage export [overrides]
Calibrates a trained network on held-out frames and writes the ONNX file with its report beside it. Refuses one that differs from torch
by more than 1e-4, or that does not beat the released one on the frozen set. Examples:
  triage export export.network=runs/train/network.pt export.version=0.2.0
  triage export export.network=runs/quick/network.pt export.out=runs/quick.onnx export.force=true export.reason='a trial'""",
}


def _log_progress() -> None:
    """Lines of our own with their time; of the libraries, what they warn of."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s: %(message)s", force=True)
    logging.getLogger("training").setLevel(logging.INFO)


def train(argv: list[str]) -> int:
    """`triage train`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP["train"])
        return 0
    _log_progress()
    from training.sweep import FLAGS

    if any(argument in FLAGS for argument in argv):
        return _sweep([argument for argument in argv if argument not in FLAGS])
    settings = compose_settings("train", argv, TrainSettings)
    from training.train import train as fit  # torch and lightning take seconds to import: not for --help, nor a wrong key

    out = fit(settings)
    print(f"trained: {out}" if out else "the leg is over, frames are still to be simulated: the same command goes on")
    return 0


def _sweep(argv: list[str]) -> int:
    """`triage train --multirun`: a line for each run; 1 when one failed."""
    from training.sweep import sweep

    rows = sweep(argv)
    for row in rows:
        loss = row["validation_loss"]
        ended = f"failed (exit status {row['status']})" if row["status"] else "not done" if loss is None else f"validation loss {loss:.4f}"
        print(f"{row['folder']}: {', '.join(row['overrides'])}: {ended}")
    return int(any(row["status"] for row in rows))


def simulate(argv: list[str]) -> int:
    """`triage simulate`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP["simulate"])
        return 0
    wanted = compose_settings("simulate", argv, SimulateSettings).simulate
    from training.simulate.experiment import plan, write_files  # torch takes seconds to import: not for --help, nor a wrong key
    from training.simulate.render import device_of

    device = device_of(wanted.device, "simulate.device")
    folder = Path(wanted.out).expanduser()
    detectors = tuple(wanted.detectors) if wanted.detectors is not None else None
    files = plan(folder, n=wanted.n, seed=wanted.seed, frames_per_file=wanted.frames_per_file, detectors=detectors, device=device)
    with _frames_bar(wanted.n) as done:
        made = write_files(files, wanted.processes or _cores(), done)
    kept = f" ({len(files) - made} were there already)" if made < len(files) else ""
    print(f"simulated: {wanted.n} frames in {len(files)} files{kept}: {folder}")
    return 0


def evaluate(argv: list[str]) -> int:
    """`triage evaluate`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP["evaluate"])
        return 0
    wanted = compose_settings("evaluate", argv, EvaluateSettings).evaluate
    if wanted.what == "runs":
        return _evaluate_runs(wanted)
    from training.evaluate import evaluate as judge  # torch and scikit-learn take seconds to import
    from training.evaluation.document import as_markdown
    from training.evaluation.tables import headline

    _log_progress()
    print(as_markdown(headline(judge(wanted))))
    print(f"report: {Path(wanted.out) / 'report.html'}")
    return 0


def _evaluate_runs(wanted: EvaluatePart) -> int:
    """`triage evaluate evaluate.what=runs`."""
    from training.decay.evaluate import evaluate_runs  # torch and matplotlib take seconds to import

    _log_progress()
    print(evaluate_runs(wanted.runs, Path(wanted.out)))
    print(f"report: {Path(wanted.out) / 'report.md'}")
    return 0


def export(argv: list[str]) -> int:
    """`triage export`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP["export"])
        return 0
    wanted = compose_settings("export", argv, ExportSettings).export
    from training.release import release  # torch takes seconds to import

    _log_progress()
    print(f"exported: {wanted.out}: {release(wanted)}")
    return 0


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _frames_bar(total: int) -> Iterator[Done]:
    """A progress bar of frames on standard error; silent where that is no terminal."""
    err = console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("simulating", total=total)
        yield lambda frames: bar.advance(task, frames)
