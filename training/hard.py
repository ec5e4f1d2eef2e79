"""More training frames of the kinds that are hard to tell, for the trees (`training.regrow --more`).

    python -m training.hard data/hard --seed 62 --shards 20 --kinds weak blank ice_only salt_only artefact

Of frames as training draws them, those are rendered that are meant so, from structures of the training split; the others, which are easy
and cost as much, are passed over. `training.boosting.fit_trees` weighs them so that each kind has the share that it is drawn with.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.dataset import ShardSpec, make_shards
from training.simulate.draw import KINDS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: complete shards in the folder are kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True, help="of the training frames that these stand beside")
    parser.add_argument("--shards", type=int, default=20, help="files, each complete or not there")
    parser.add_argument("--frames", type=int, default=200, help="of each shard")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), required=True)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    kinds = tuple(given.kinds)
    like = ShardSpec(folder=given.folder, seed=given.seed, split="train", number=0, frames=given.frames, kinds=kinds)
    make_shards([replace(like, number=n) for n in range(given.shards)], given.processes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
