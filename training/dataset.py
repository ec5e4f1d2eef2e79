"""Simulated frames as network inputs with their labels, split by structure and detector.

A shard is a pure function of (seed, split, number), so that any frame of any set can be made again. Shards hold what `Preprocess` makes,
not pixels: the same bytes that serving makes of the same frame.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from training.simulate.crystal import Crystal, draw_crystal
from training.simulate.detectors import DETECTORS
from training.simulate.draw import SMALL_MOLECULE_A, draw_distortion, draw_header_error, draw_scene
from training.simulate.render import Labels, Rendered, render, run_of
from training.simulate.scene import Scene
from triage.core import NON_DIFFRACTION_KINDS, FloatArray, Run, Spots
from triage.faint_spots import WIDTHS_PX, FaintSpots
from triage.preprocess import RESOLUTION_CHANNEL, Inputs, Preprocess
from triage.spots import DispersionFinder, as_spots, as_table

LOG = logging.getLogger(__name__)

SPLITS = {"train": (0, 4000), "validation": (1, 500), "test": (2, 800)}
"""Each split's stream of random numbers and number of structures: no structure is in two splits."""
HELD_OUT_DETECTORS = ("PILATUS3 2M", "JUNGFRAU 4M")
"""Never trained or calibrated on; half of the test frames."""

SPOILT_SHARE = 0.35
"""Of the training frames seen with false spots among theirs."""
BLIND_SHARE = 0.06
"""Of the training frames seen as where no geometry is known: bare data files, cylinders of panels, headers that contradict themselves."""
LONG_CELL_A = 200.0
"""Longest cell edge above which a report sets samples apart."""

LABEL_FIELDS = (
    ("n_lattices", "i1"),
    ("kind", "i1"),
    ("ice_rings", "i1"),
    ("d_min_A", "f4"),
    ("visible_spots", "i4"),
    ("second_visible", "i4"),
    ("second_separable", "i4"),
    ("separation_deg", "f4"),
    ("intensity_ratio", "f4"),
    ("background", "f4"),
    ("rotation_deg", "f4"),
    ("detector", "U16"),
    ("meant", "U16"),
    ("sample", "U16"),
)
LABEL_TYPE = np.dtype(list(LABEL_FIELDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """Which shard."""

    folder: Path
    seed: int
    split: str
    number: int
    frames: int = 200
    preprocess: Preprocess = field(default_factory=Preprocess)
    device: str = "cpu"
    """Where pixels are rendered; on another the noise is another."""

    @property
    def path(self) -> Path:
        """Where its arrays lie, without the ending."""
        return self.folder / f"{self.split}_{self.number:04d}"

    @property
    def is_done(self) -> bool:
        """Labels are written last."""
        return self.path.with_suffix(".labels.npy").exists()


def structures(seed: int, split: str) -> tuple[Crystal, ...]:
    """The crystals of a split."""
    stream, number = SPLITS[split]
    rng = np.random.default_rng([seed, stream])
    return tuple(draw_crystal(rng) for _ in range(number))


def scene_of(seed: int, split: str, index: int, crystals: tuple[Crystal, ...]) -> Scene:
    """The scene of one frame of a split."""
    rng = np.random.default_rng([seed, SPLITS[split][0], 1, index])
    seen = tuple(name for name in DETECTORS if name not in HELD_OUT_DETECTORS)
    detectors = HELD_OUT_DETECTORS if split == "test" and index % 2 else seen
    drawn = draw_scene(rng, crystals=crystals, detectors=detectors)
    return replace(drawn, header_error=draw_header_error(rng), distortion=draw_distortion(rng))


def inputs_of(rendered: Rendered, preprocess: Preprocess) -> tuple[Spots, Inputs]:
    """The spots of a simulated frame and what the network sees of it: the runtime's own path."""
    spots = DispersionFinder().find(rendered.counts, rendered.run)
    return spots, preprocess(rendered.counts, spots, rendered.run)


def label_row(scene: Scene, labels: Labels) -> tuple[Any, ...]:
    """One record of LABEL_TYPE. The second lattice is the strongest further one that counts, else the strongest further one."""
    further = sorted(labels.lattices[1:], key=lambda truth: (not truth.counts, -truth.intensity_ratio))
    second = further[0] if further else None
    return (
        labels.n_lattices,
        NON_DIFFRACTION_KINDS.index(labels.non_diffraction_kind) if labels.non_diffraction_kind else -1,
        labels.ice_rings,
        labels.d_min_A if labels.d_min_A is not None else np.nan,
        labels.visible_spots,
        second.visible_spots if second else 0,
        second.separable_spots if second else 0,
        second.separation_deg if second else np.nan,
        second.intensity_ratio if second else np.nan,
        labels.background,
        scene.beam.rotation_deg,
        scene.detector,
        scene.kind,
        _sample(scene),
    )


def _sample(scene: Scene) -> str:
    """What makes a frame's lattices hard to count, for a stratum of its own."""
    if not scene.lattices:
        return "none"
    crystal = scene.lattices[0].crystal
    longest = max(crystal.cell[:3])
    if scene.harmonic:
        return "harmonics"
    if crystal.pseudo_translation is not None:
        return "pseudo_symmetry"
    if longest < SMALL_MOLECULE_A:
        return "small_molecule"
    return "long_cell" if longest > LONG_CELL_A else "protein"


def make_shard(spec: ShardSpec) -> Path:
    """Simulates one shard, unless it is there already."""
    if spec.is_done:
        return spec.path
    torch.set_num_threads(1)
    crystals = structures(spec.seed, spec.split)
    preprocess = spec.preprocess
    images = np.empty((spec.frames, 5, preprocess.size, preprocess.size), dtype=np.uint8)
    crops = np.empty((spec.frames, preprocess.n_crops, preprocess.crop_px, preprocess.crop_px), dtype=np.uint8)
    features = np.empty((spec.frames, preprocess.n_features), dtype=np.float32)
    labels = np.empty(spec.frames, dtype=LABEL_TYPE)
    tables: list[FloatArray] = []
    faint: list[FloatArray] = []
    spoilt: list[FloatArray] = []
    blind: list[FloatArray] = []
    for k in range(spec.frames):
        scene = scene_of(spec.seed, spec.split, spec.number * spec.frames + k, crystals)
        rendered = render(scene, device=spec.device)
        spots, inputs = inputs_of(rendered, preprocess)
        tables.append(as_table(spots))
        faint.append(inputs.faint)
        images[k], crops[k], features[k] = inputs.image, inputs.crops, inputs.features
        labels[k] = label_row(scene, rendered.labels)
        if spec.split == "train":
            seen = Seen(inputs.image, tables[-1], faint[-1], rendered.run)
            spoilt.append(_spoilt_features(spec, k, seen, diffracts=bool(labels[k]["n_lattices"] > 0)))
            blind.append(_blind_features(spec, seen))
    spec.folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(table) for table in tables])
    if spoilt:
        _save(spec.path.with_suffix(".spoilt.npy"), np.stack(spoilt))
        _save(spec.path.with_suffix(".blind.npy"), np.stack(blind))
    for name, array in (
        ("image", images),
        ("crops", crops),
        ("features", features),
        ("spots", np.concatenate(tables)),
        ("spot_ends", ends),
        *(
            (("faint", np.concatenate(faint)), ("faint_ends", np.cumsum([len(table) for table in faint])))
            if preprocess.looks_for_faint_spots
            else ()
        ),
        ("labels", labels),
    ):
        _save(spec.path.with_suffix(f".{name}.npy"), array)
    return spec.path


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    """A file that is whole or absent."""
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)


class Seen(NamedTuple):
    """What a frame's features are made of, pixels aside."""

    image: npt.NDArray[np.uint8]
    """Pooled, as the network gets it."""
    spots: FloatArray
    """(n, 7), see `as_table`."""
    faint: FloatArray
    """(m, 4), see `FaintSpots`."""
    run: Run


def refresh_features(spec: ShardSpec) -> None:
    """Computes a shard's features anew from its spots and pooled images, after what is computed of them changed: no frame is rendered.

    Of training shards, also the features that the frames would have with false spots among theirs (`with_false_spots`), and where no
    geometry is known. Raises FileNotFoundError, with the mend, where faint spots are asked for that were not looked for.
    """
    crystals = structures(spec.seed, spec.split)
    images = np.load(spec.path.with_suffix(".image.npy"), mmap_mode="r")
    diffracts = np.load(spec.path.with_suffix(".labels.npy"))["n_lattices"] > 0
    rows, spoilt, blind = [], [], []
    for k, (spots, faint) in enumerate(zip(_tables(spec, "spot"), _faint_tables(spec), strict=True)):
        run = run_of(scene_of(spec.seed, spec.split, spec.number * spec.frames + k, crystals))
        seen = Seen(np.array(images[k]), spots, faint, run)
        rows.append(_features(spec, seen))
        if spec.split == "train":
            spoilt.append(_spoilt_features(spec, k, seen, diffracts=bool(diffracts[k])))
            blind.append(_blind_features(spec, seen))
    if spoilt:
        _save(spec.path.with_suffix(".spoilt.npy"), np.stack(spoilt))
        _save(spec.path.with_suffix(".blind.npy"), np.stack(blind))
    _save(spec.path.with_suffix(".features.npy"), np.stack(rows))


def _tables(spec: ShardSpec, name: Literal["spot", "faint"]) -> list[FloatArray]:
    """Of each frame of a shard, the rows of what was found in it."""
    rows = np.load(spec.path.with_suffix(".spots.npy" if name == "spot" else ".faint.npy"))
    return np.split(rows, np.load(spec.path.with_suffix(f".{name}_ends.npy"))[:-1])


def _faint_tables(spec: ShardSpec) -> list[FloatArray]:
    if not spec.preprocess.looks_for_faint_spots:
        return [FaintSpots.none().as_table()] * spec.frames
    if not spec.path.with_suffix(".faint_ends.npy").exists():
        raise FileNotFoundError(f"{spec.path}: made where faint spots were not looked for; set data.folder to another folder")
    return _tables(spec, "faint")


def _features(spec: ShardSpec, seen: Seen) -> FloatArray:
    shape_px = seen.run.header.shape_px
    if shape_px is None:
        raise ValueError(f"{spec.path}: a simulated frame without a shape")
    return spec.preprocess.features(seen.image, as_spots(seen.spots, seen.run), FaintSpots.of_table(seen.faint), seen.run, shape_px)


def _spoilt_features(spec: ShardSpec, position: int, seen: Seen, *, diffracts: bool) -> FloatArray:
    rng = np.random.default_rng([spec.seed, SPLITS[spec.split][0], 2, spec.number * spec.frames + position])
    spots = with_false_spots(seen.spots, seen.run, rng, diffracts=diffracts)
    return _features(spec, seen._replace(spots=spots, faint=_with_false_faint(seen.faint, seen.run, rng, len(spots) - len(seen.spots))))


def _blind_features(spec: ShardSpec, seen: Seen) -> FloatArray:
    dark = seen.image.copy()
    dark[RESOLUTION_CHANNEL] = 0
    return _features(spec, seen._replace(image=dark, run=replace(seen.run, geometry=None)))


def _with_false_faint(table: FloatArray, run: Run, rng: np.random.Generator, most: int) -> FloatArray:
    """A frame's faint spots (n, 4) with others strewn among them, none to `most`."""
    number = int(rng.integers(0, most + 1))
    positions = rng.uniform(0.0, 1.0, (number, 2)) * np.asarray(run.header.shape_px or (0, 0))
    significance, width = 4.0 + rng.exponential(1.0, number), rng.choice(WIDTHS_PX, number)
    return np.concatenate([table, np.column_stack([positions, significance, width]).astype(np.float32)])


def with_false_spots(table: FloatArray, run: Run, rng: np.random.Generator, *, diffracts: bool) -> FloatArray:
    """A frame's spots (n, 7) with weak ones strewn among them, 3 to 250, at most half as many again as its own where it diffracts.

    Real detectors respond unevenly, and on bright backgrounds a share of all weak spots is none; simulated detectors are too good.
    """
    number = int(np.exp(rng.uniform(np.log(3.0), np.log(250.0))))
    if diffracts:
        number = min(number, int(1.5 * len(table)))
    positions = rng.uniform(0.0, 1.0, (number, 2)) * np.asarray(run.header.shape_px or (0, 0))
    if run.mask is not None:
        positions = positions[~run.mask[tuple(positions.astype(int).T)]]
    n = len(positions)
    background = float(np.median(table[:, 4])) if len(table) else float(np.exp(rng.uniform(-2.0, 5.0)))
    n_pixels = rng.integers(3, 11, n)
    significance = 4.5 + rng.exponential(1.0, n)
    variance = n_pixels * max(background, 0.05)
    intensity = 0.5 * significance * (significance + np.sqrt(significance**2 + 4.0 * variance))  # so that I / sqrt(I + variance) is that
    peak = background + intensity * rng.uniform(0.25, 0.6, n)
    false = np.column_stack([positions, intensity, np.sqrt(intensity + variance), np.full(n, background), peak, n_pixels])
    return np.concatenate([table, false.astype(np.float32)])


def make_shards(specs: Sequence[ShardSpec], processes: int) -> None:
    """Simulates what is missing, in processes of its own; each finished shard survives an interruption."""
    missing = [spec for spec in specs if not spec.is_done]
    if not missing:
        return
    folder = missing[0].folder
    claim_folder(folder, missing[0])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, future in enumerate(as_completed([pool.submit(make_shard, spec) for spec in missing]), start=1):
            LOG.info("shard %s (%d of %d)", future.result().name, done, len(missing))


def claim_folder(folder: Path, spec: ShardSpec) -> None:
    """Notes in the folder what its shards are made with; features of another number are computed anew from the shards' spots.

    Raises ValueError when it holds shards of another seed or preprocessing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"seed": spec.seed, "preprocess": json.loads(spec.preprocess.to_json())}
    note = folder / "recipe.json"
    before = json.loads(note.read_text()) if note.exists() else recipe
    others = {**before, "preprocess": {**before["preprocess"], "n_features": spec.preprocess.n_features}}
    if others != recipe:
        raise ValueError(f"{folder}: its shards were made with another seed or preprocessing; set data.folder to another folder")
    if before != recipe:
        for stale in finished(folder, spec):
            LOG.info("features of %s are computed anew", stale.path.name)
            refresh_features(stale)
    note.write_text(json.dumps(recipe, sort_keys=True))


def finished(folder: Path, like: ShardSpec) -> list[ShardSpec]:
    """Every finished shard of a folder."""
    names = [path.name.removesuffix(".labels.npy").rsplit("_", 1) for path in sorted(folder.glob("*.labels.npy"))]
    return [
        replace(like, folder=folder, split=split, number=int(number), frames=len(np.load(folder / f"{split}_{number}.labels.npy")))
        for split, number in names
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrays:
    """All frames of a split, memory-mapped."""

    images: list[npt.NDArray[np.uint8]]
    crops: list[npt.NDArray[np.uint8]]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]
    shard_frames: int
    spoilt: npt.NDArray[np.float32] | None = None
    """Of training frames: the features with false spots among the true."""
    blind: npt.NDArray[np.float32] | None = None
    """Of training frames: the features where no geometry is known."""

    def __len__(self) -> int:
        return len(self.labels)


def used_shards(folder: Path, split: str, frames: int | None = None) -> list[Path]:
    """The labels of the finished shards of a split: of all, or of the first that hold so many frames."""
    names = sorted(folder.glob(f"{split}_*.labels.npy"))
    if frames is None or not names:
        return names
    return names[: ceil(frames / len(np.load(names[0], mmap_mode="r")))]


def load(folder: Path, split: str, frames: int | None = None) -> Arrays:
    """The finished shards of a split (`used_shards`). Raises FileNotFoundError, with the mend, when there is none."""
    names = used_shards(folder, split, frames)
    if not names:
        raise FileNotFoundError(f"{folder}: no simulated '{split}' shards; run `triage train` with data.frames set, or `triage simulate`")
    stems = [name.name.removesuffix(".labels.npy") for name in names]
    labels = [np.load(folder / f"{stem}.labels.npy") for stem in stems]

    def further(name: str) -> npt.NDArray[np.float32] | None:
        """Of training shards, and not of ones made before there were any."""
        paths = [folder / f"{stem}.{name}.npy" for stem in stems]
        return np.concatenate([np.load(path) for path in paths]) if all(path.exists() for path in paths) else None

    return Arrays(
        images=[np.load(folder / f"{stem}.image.npy", mmap_mode="r") for stem in stems],
        crops=[np.load(folder / f"{stem}.crops.npy", mmap_mode="r") for stem in stems],
        features=np.concatenate([np.load(folder / f"{stem}.features.npy") for stem in stems]),
        spoilt=further("spoilt"),
        blind=further("blind"),
        labels=np.concatenate(labels),
        shard_frames=len(labels[0]),
    )


class FrameDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Inputs and targets of a split, turned and mirrored at random when training: a detector has no preferred side."""

    def __init__(self, arrays: Arrays, *, augment: bool) -> None:
        self._arrays = arrays
        self._augment = augment

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        arrays = self._arrays
        shard, within = divmod(index, arrays.shard_frames)
        image = torch.from_numpy(np.array(arrays.images[shard][within]))
        crops = torch.from_numpy(np.array(arrays.crops[shard][within]))
        if self._augment:
            turns, mirror = int(torch.randint(4, (1,))), bool(torch.randint(2, (1,)))
            image, crops = (torch.rot90(x, turns, (-2, -1)) for x in (image, crops))
            if mirror:
                image, crops = image.flip(-1), crops.flip(-1)
        features, label = arrays.features, arrays.labels[index]
        d_min = float(label["d_min_A"])
        drawn = float(torch.rand(1)) if self._augment else 1.0
        if arrays.blind is not None and drawn < BLIND_SHARE:
            features, d_min = arrays.blind, float("nan")
            image[RESOLUTION_CHANNEL] = 0
        elif arrays.spoilt is not None and drawn < BLIND_SHARE + SPOILT_SHARE:
            features = arrays.spoilt
        return {
            "image": image.contiguous(),
            "crops": crops.contiguous(),
            "features": torch.from_numpy(features[index]),
            "lattices": torch.tensor(min(int(label["n_lattices"]), 3)),
            "kind": torch.tensor(int(label["kind"])),
            "ice": torch.tensor(float(label["ice_rings"])),
            "s_max": torch.tensor(1.0 / d_min if np.isfinite(d_min) else float("nan")),
        }


def provenance(folder: Path) -> dict[str, Any]:
    """What made the shards of a folder."""
    shards = {split: len(list(folder.glob(f"{split}_*.labels.npy"))) for split in SPLITS}
    recipe = json.loads((folder / "recipe.json").read_text())
    return {**recipe, "shards": shards, "held_out_detectors": HELD_OUT_DETECTORS}
