"""Simulated and labelled frames in one epoch: what was judged is learnt from, the rest of a label left out of the loss."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, Dataset, Sampler

from training.dataset import LABEL_TYPE, Arrays, FrameDataset
from training.labels.frames import FrameLibrary, is_validation, run_key
from training.labels.inputs import InputCache, labelled_inputs, load_inputs
from training.labels.label import Label, LabelError
from training.labels.pairs import draw_pairs, pair_inputs
from training.labels.store import LabelStore
from training.module import NOT_JUDGED, SOME_LATTICE
from training.settings import DataSettings
from triage.core import NON_DIFFRACTION_KINDS
from triage.preprocess import Preprocess

LOG = logging.getLogger(__name__)
Item = dict[str, torch.Tensor]
CACHE_NAME = "labelled"
"""Folder of the labelled frames' inputs, beside the simulated shards."""


def target_row(label: Label) -> Any:
    """A label as a record of LABEL_TYPE, what was not judged marked so that the losses leave it out. `decayed` has no head."""
    row = np.zeros((), dtype=LABEL_TYPE)
    for name in LABEL_TYPE.names or ():
        if LABEL_TYPE[name].kind == "f":
            row[name] = np.nan
    shows = label.shows_lattices
    empty_or_some = {None: NOT_JUDGED, False: 0, True: SOME_LATTICE}[shows]
    row["n_lattices"] = empty_or_some if label.n_lattices is None else label.n_lattices
    kind = label.non_diffraction_kind
    row["kind"] = NOT_JUDGED if kind is None else NON_DIFFRACTION_KINDS.index(kind)
    row["ice_rings"] = NOT_JUDGED if label.ice_rings is None else int(label.ice_rings)
    if label.d_min_A is not None:
        row["d_min_A"] = label.d_min_A
    return row


class LabelledFrames(Dataset[Item]):
    """Inputs and targets of labelled frames: the items of `FrameDataset`, each read from its own file."""

    def __init__(self, frames: Sequence[tuple[Label, Path]], *, augment: bool) -> None:
        self._files = [path for _, path in frames]
        self._rows = np.array([target_row(label) for label, _ in frames], dtype=LABEL_TYPE)
        self._augment = augment

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        inputs = load_inputs(self._files[index])
        one = Arrays(
            images=[inputs.image[None]],
            crops=[inputs.crops[None]],
            features=inputs.features[None],
            labels=self._rows[index : index + 1],
            shard_frames=1,
        )
        return FrameDataset(one, augment=self._augment)[0]


class MixedSampler(Sampler[int]):
    """Indices of one epoch over `first` frames followed by `second` ones, so that a share of the epoch is of the second kind.

    All of the first come once, those of the second as often as the share wants. Shuffled, each epoch anew, by the seed torch was given
    (so that all processes of one training agree), or in order.
    """

    def __init__(self, first: int, second: int, share: float, *, shuffle: bool) -> None:
        self._first, self._second, self._shuffle = first, second, shuffle
        self._drawn = max(1, round(first * share / (1.0 - share)))
        self._epoch = 0

    def __len__(self) -> int:
        return self._first + self._drawn

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((torch.initial_seed() + self._epoch) % 2**63)
        self._epoch += 1

        def order(n: int) -> torch.Tensor:
            return torch.randperm(n, generator=generator) if self._shuffle else torch.arange(n)

        rounds = -(-self._drawn // self._second)
        second = self._first + torch.cat([order(self._second) for _ in range(rounds)])[: self._drawn]
        indices = torch.cat([torch.arange(self._first), second])
        yield from indices[order(len(indices))].tolist()


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """What one loader reads."""

    frames: Dataset[Item]
    sampler: Sampler[int] | None
    """None: every frame once."""


def mixed(simulated: Dataset[Item], data: DataSettings, split: str) -> Mixture:
    """Simulated frames of a split, and the labelled ones of its side, where the settings name a label store.

    Runs are trained or validated on as a whole. Raises LabelError where no labelled frame is left to train on.
    """
    if data.labels is None:
        return Mixture(simulated, None)
    training = split == "train"
    frames = labelled_frames(data, split)
    if not frames and not training:
        LOG.info("no labelled run is validated on")
        return Mixture(simulated, None)
    if not frames:
        raise LabelError(f"{data.labels}: no labelled frame to train on; label more runs, or set data.labels_validation=0")
    n_simulated = len(cast(Sized, simulated))
    sampler = MixedSampler(n_simulated, len(frames), data.labels_share, shuffle=training)
    LOG.info("%s: %d simulated and %d labelled frames, %d an epoch", split, n_simulated, len(frames), len(sampler))
    return Mixture(ConcatDataset([simulated, LabelledFrames(frames, augment=training)]), sampler)


def labelled_statistics(data: DataSettings) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]] | None:
    """Spots' statistics (n, N_FEATURES) and records (n,) of LABEL_TYPE of the labelled training frames; None without a label store."""
    if data.labels is None:
        return None
    frames = labelled_frames(data, "train")
    return np.stack([load_inputs(path).features for _, path in frames]), np.array(
        [target_row(label) for label, _ in frames], dtype=LABEL_TYPE
    )


def labelled_frames(data: DataSettings, split: str) -> list[tuple[Label, Path]]:
    """The labelled frames of one side, and in training the thinned pairs of them, each with the file of its inputs."""
    labels = [label for label in _current(data) if is_validation(label.source, data.labels_validation) == (split == "validation")]
    library, cache = FrameLibrary(_store_of(data).parent), InputCache(data.folder / CACHE_NAME, Preprocess())
    frames = labelled_inputs(labels, library, cache)
    if split == "train" and data.labels_thinned:
        pairs = draw_pairs([label for label, _ in frames], data.labels_thinned, library, data.seed)
        made = pair_inputs(pairs, library, cache)
        LOG.info("%d thinned pairs wanted, %d drawn, %d of them can be labelled", data.labels_thinned, len(pairs), len(made))
        frames += made
    return frames


def labels_report(data: DataSettings) -> dict[str, Any] | None:
    """What the labels were that a network was trained on; None where there were none."""
    if data.labels is None:
        return None
    labels = _current(data)
    said = [[label.source, label.frame, label.says] for label in labels]
    runs: dict[str, set[str]] = {"train": set(), "validation": set()}
    for label in labels:
        runs["validation" if is_validation(label.source, data.labels_validation) else "train"].add(run_key(label.source))
    return {
        "store": str(data.labels),
        "sha256": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
        "frames": len(labels),
        "runs": {side: len(names) for side, names in runs.items()},
        "share": data.labels_share,
        "thinned": data.labels_thinned,
    }


def _current(data: DataSettings) -> list[Label]:
    with LabelStore(_store_of(data)) as store:
        return store.current()


def _store_of(data: DataSettings) -> Path:
    if data.labels is None:
        raise LabelError("data.labels: no label store is named")
    return data.labels
