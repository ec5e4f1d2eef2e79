"""Shards of network inputs. Truths: the runtime's own path from counts to input, the scenes' labels, symmetry of the augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from training import dataset  # noqa: E402
from training.dataset import (  # noqa: E402
    HELD_OUT_DETECTORS,
    LABEL_TYPE,
    SPLITS,
    FrameDataset,
    ShardSpec,
    claim_folder,
    label_row,
    load,
    make_shard,
    provenance,
    scene_of,
    structures,
    used_shards,
    with_false_spots,
)
from training.simulate.crystal import Crystal  # noqa: E402
from training.simulate.draw import draw_scene  # noqa: E402
from training.simulate.render import Labels, LatticeTruth, render, run_of  # noqa: E402
from training.simulate.scene import Scene  # noqa: E402
from triage.core import NON_DIFFRACTION_KINDS  # noqa: E402
from triage.preprocess import RESOLUTION_CHANNEL, Preprocess  # noqa: E402
from triage.spots import DispersionFinder, as_spots, as_table  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other

TINY = Preprocess(size=32, n_crops=4, crop_px=16)
FRAMES = 6


def small_scene(seed: int, split: str, index: int, crystals: tuple[Crystal, ...]) -> Scene:
    """As `scene_of`, always of a detector that costs little."""
    return draw_scene(np.random.default_rng([seed, SPLITS[split][0], 1, index]), crystals=crystals, detectors=("PILATUS 300K",))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of three frames."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "scene_of", small_scene)
        for number in (0, 1):
            make_shard(ShardSpec(folder=folder, seed=5, split="train", number=number, frames=FRAMES // 2, preprocess=TINY))
    claim_folder(folder, ShardSpec(folder=folder, seed=5, split="train", number=0, preprocess=TINY))
    return folder


def test_a_folder_of_another_seed_or_preprocessing_is_refused(shards: Path) -> None:
    claim_folder(shards, ShardSpec(folder=shards, seed=5, split="test", number=3, preprocess=TINY))
    for seed, preprocess in ((6, TINY), (5, Preprocess())):
        with pytest.raises(ValueError, match="another seed or preprocessing"):
            claim_folder(shards, ShardSpec(folder=shards, seed=seed, split="train", number=0, preprocess=preprocess))


def test_features_of_another_number_are_computed_anew_from_the_kept_spots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "scene_of", small_scene)
    spec = ShardSpec(folder=tmp_path, seed=5, split="train", number=2, frames=2, preprocess=TINY)
    features = make_shard(spec).with_suffix(".features.npy")
    made = np.load(features)
    claim_folder(tmp_path, replace(spec, preprocess=replace(TINY, n_features=7)))
    np.save(features, made[:, :7])
    claim_folder(tmp_path, spec)
    assert np.array_equal(np.load(features), made)


def test_shards_of_an_older_model_are_not_taken_for_frames_without_faint_spots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "scene_of", small_scene)
    older = ShardSpec(folder=tmp_path, seed=5, split="train", number=2, frames=1, preprocess=replace(TINY, n_features=7))
    assert np.load(make_shard(older).with_suffix(".features.npy")).shape == (1, 7)
    claim_folder(tmp_path, older)
    with pytest.raises(FileNotFoundError, match=r"train_0002: made where faint spots were not looked for; set data\.folder"):
        claim_folder(tmp_path, replace(older, preprocess=TINY))


def test_false_spots_are_strewn_where_there_are_pixels_and_leave_the_true_ones() -> None:
    scene = small_scene(5, "train", 1, structures(5, "train"))
    run = run_of(scene)
    true = as_table(DispersionFinder().find(render(scene).counts, run))
    for diffracts in (True, False):
        table = with_false_spots(true, run, np.random.default_rng(0), diffracts=diffracts)
        assert np.array_equal(table[: len(true)], true)
        false = as_spots(table[len(true) :], run)
        assert 0 < len(false) <= (1.5 * len(true) if diffracts else 250)
        assert (false.intensity / false.sigma >= 4.4).all()
        assert run.mask is None or not run.mask[tuple(false.positions_px.astype(int).T)].any()


def test_a_shard_holds_what_the_runtime_makes_of_each_frame(shards: Path) -> None:
    arrays, crystals = load(shards, "train"), structures(5, "train")
    assert len(arrays) == FRAMES
    for index in range(FRAMES):
        scene = small_scene(5, "train", index, crystals)
        rendered = render(scene)
        expected = TINY(rendered.counts, DispersionFinder().find(rendered.counts, rendered.run), rendered.run)
        shard, within = divmod(index, FRAMES // 2)
        assert np.array_equal(arrays.images[shard][within], expected.image)
        assert np.array_equal(arrays.crops[shard][within], expected.crops)
        assert np.array_equal(arrays.features[index], expected.features)
        assert arrays.labels[index]["n_lattices"] == rendered.labels.n_lattices
        assert arrays.labels[index]["meant"] == scene.kind


def test_a_shard_is_a_function_of_its_numbers_and_is_kept(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "scene_of", small_scene)
    spec = ShardSpec(folder=tmp_path, seed=5, split="train", number=1, frames=FRAMES // 2, preprocess=TINY)
    assert not spec.is_done
    make_shard(spec)
    assert spec.is_done
    for name in ("image", "crops", "features", "labels"):
        file = f"train_0001.{name}.npy"
        assert (tmp_path / file).read_bytes() == (shards / file).read_bytes()
    written = spec.path.with_suffix(".labels.npy").stat().st_mtime_ns
    make_shard(spec)
    assert spec.path.with_suffix(".labels.npy").stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.part*"))


def test_no_structure_is_in_two_splits() -> None:
    seeds = {split: {crystal.seed for crystal in structures(1, split)[:300]} for split in SPLITS}
    cells = {split: {crystal.cell for crystal in structures(1, split)[:300]} for split in SPLITS}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not cells[a] & cells[b]
        assert len(seeds[a] & seeds[b]) <= 1  # 31 bits: chance


def test_frames_of_a_split_use_its_structures_only() -> None:
    crystals = structures(1, "validation")[:50]
    known = {(crystal.space_group, crystal.cell) for crystal in crystals}
    for index in range(40):
        for lattice in scene_of(1, "validation", index, crystals).lattices:
            assert (lattice.crystal.space_group, lattice.crystal.cell) in known


def test_held_out_detectors_are_never_trained_on_and_make_half_of_the_test_frames() -> None:
    crystals = structures(1, "train")[:20]
    for split in ("train", "validation"):
        assert not {scene_of(1, split, k, crystals).detector for k in range(80)} & set(HELD_OUT_DETECTORS)
    held_out = [scene_of(1, "test", k, crystals).detector in HELD_OUT_DETECTORS for k in range(40)]
    assert held_out == [False, True] * 20


def labels(**changes: Any) -> Labels:
    values = {
        "n_lattices": 2,
        "non_diffraction_kind": None,
        "ice_rings": True,
        "d_min_A": 2.5,
        "lattices": (truth(100, 100, 1.0, 0.0), truth(50, 3, 0.9, 0.05), truth(40, 30, 0.5, 12.0)),
        "visible_spots": 100,
        "background": 0.5,
        "photons": 7.0,
    }
    return Labels(**{**values, **changes})


def truth(visible: int, separable: int, ratio: float, separation: float) -> LatticeTruth:
    return LatticeTruth(visible_spots=visible, separable_spots=separable, intensity_ratio=ratio, separation_deg=separation)


def row(made: Labels) -> Any:
    scene = draw_scene(np.random.default_rng(2), detectors=("PILATUS 300K",))
    return np.array([label_row(scene, made)], dtype=LABEL_TYPE)[0]


def test_the_second_lattice_of_a_label_is_the_strongest_that_counts() -> None:
    found = row(labels())
    assert (found["second_visible"], found["second_separable"]) == (40, 30)
    assert (found["intensity_ratio"], found["separation_deg"]) == (0.5, 12.0)
    none_counts = row(labels(n_lattices=1, lattices=labels().lattices[:2]))
    assert (none_counts["second_visible"], none_counts["separation_deg"]) == (50, np.float32(0.05))
    alone = row(labels(n_lattices=1, lattices=labels().lattices[:1]))
    assert alone["second_visible"] == 0
    assert np.isnan(alone["separation_deg"])


def test_absent_truths_are_marked() -> None:
    diffracting, blank = row(labels()), row(labels(n_lattices=0, non_diffraction_kind="salt", d_min_A=None, lattices=()))
    assert diffracting["kind"] == -1
    assert NON_DIFFRACTION_KINDS[blank["kind"]] == "salt"
    assert np.isnan(blank["d_min_A"])


def test_items_are_inputs_and_targets(shards: Path) -> None:
    arrays = load(shards, "train")
    frames = FrameDataset(arrays, augment=False)
    assert len(frames) == FRAMES
    for index in range(FRAMES):
        item, label = frames[index], arrays.labels[index]
        shard, within = divmod(index, FRAMES // 2)
        assert torch.equal(item["image"], torch.from_numpy(np.array(arrays.images[shard][within])))
        assert (item["image"].dtype, item["crops"].shape, item["features"].shape) == (torch.uint8, (4, 16, 16), (TINY.n_features,))
        assert int(item["lattices"]) == min(int(label["n_lattices"]), 3)
        assert int(item["kind"]) == label["kind"]
        assert bool(item["ice"]) == label["ice_rings"]
        assert float(item["s_max"]) == pytest.approx(1 / label["d_min_A"], nan_ok=True)


def test_augmentation_turns_and_mirrors_image_and_crops_alike(shards: Path) -> None:
    plain, turned = (FrameDataset(load(shards, "train"), augment=augment)[0] for augment in (False, True))
    torch.manual_seed(3)
    arrays = load(shards, "train")
    assert arrays.spoilt is not None
    assert arrays.blind is not None
    frames = FrameDataset(arrays, augment=True)
    seen, spoilt, blind = set(), set(), 0
    for _ in range(90):
        item = frames[0]
        if torch.equal(item["features"], torch.from_numpy(arrays.blind[0])):  # as where no geometry is known
            assert not item["image"][RESOLUTION_CHANNEL].any()
            assert torch.isnan(item["s_max"])
            blind += 1
            continue
        fits = [
            (turns, mirror)
            for turns in range(4)
            for mirror in (False, True)
            if all(torch.equal(item[name], moved(plain[name], turns, mirror)) for name in ("image", "crops"))
        ]
        assert len(fits) == 1
        seen.add(fits[0])
        assert all(torch.equal(item[name], plain[name]) for name in ("lattices", "kind", "ice"))
        spoilt.add(torch.equal(item["features"], torch.from_numpy(arrays.spoilt[0])))
        assert torch.equal(item["features"], plain["features"]) or True in spoilt
    assert len(seen) == 8
    assert spoilt == {True, False}  # some with false spots among theirs, some without
    assert 1 <= blind <= 20
    assert turned["image"].shape == plain["image"].shape


def moved(x: Any, turns: int, mirror: bool) -> Any:
    x = torch.rot90(x, turns, (-2, -1))
    return x.flip(-1) if mirror else x


def test_a_folder_without_shards_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no simulated 'train' shards; run `triage train`"):
        load(tmp_path, "train")


def test_the_first_shards_that_hold_so_many_frames_are_used(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"train_{number:04d}.labels.npy", np.zeros(4))
    assert [len(used_shards(tmp_path, "train", frames)) for frames in (1, 4, 5, 99, None)] == [1, 1, 2, 3, 3]
    assert used_shards(tmp_path, "validation", 4) == []


def test_provenance_names_preprocessing_and_shards(shards: Path) -> None:
    found = provenance(shards)
    assert Preprocess.from_json(str(found["preprocess"]).replace("'", '"')) == TINY
    assert found["shards"] == {"train": 2, "validation": 0, "test": 0}
