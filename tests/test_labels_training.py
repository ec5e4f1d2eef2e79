"""Labelled frames in training. Truths: the runtime's own path from file to input, the labels, closed forms of the losses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_writers import write_cbf_series
from labelling import said

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
from torch.utils.data import TensorDataset  # noqa: E402

from models.network import Logits  # noqa: E402
from training import dataset as simulated_shards  # noqa: E402
from training.dataset import FrameDataset, ShardSpec, claim_folder, load, make_shard  # noqa: E402
from training.labels import dataset as mixing  # noqa: E402
from training.labels.dataset import LabelledFrames, MixedSampler, labelled_frames, labels_report, mixed, target_row  # noqa: E402
from training.labels.frames import FrameLibrary, is_validation, run_key  # noqa: E402
from training.labels.inputs import InputCache, labelled_inputs, load_inputs  # noqa: E402
from training.labels.label import Label, LabelError  # noqa: E402
from training.labels.pairs import RATIOS, draw_pairs, pair_inputs  # noqa: E402
from training.labels.rows import Defaults  # noqa: E402
from training.labels.simulated import read_simulated  # noqa: E402
from training.labels.store import LabelStore  # noqa: E402
from training.module import NOT_JUDGED, SOME_LATTICE, losses  # noqa: E402
from training.settings import DataSettings, TrainSettings  # noqa: E402
from training.simulate.crystal import Crystal  # noqa: E402
from training.simulate.draw import draw_scene  # noqa: E402
from training.simulate.experiment import draw_scenes_of_one_experiment  # noqa: E402
from training.simulate.scene import Scene  # noqa: E402
from training.simulate.writer import write_nxmx  # noqa: E402
from training.train import train  # noqa: E402
from triage.compose import compose_settings  # noqa: E402
from triage.core import Frame, FrameError, SourceError  # noqa: E402
from triage.preprocess import Preprocess  # noqa: E402
from triage.refusal import ConfigError  # noqa: E402
from triage.sources.files import FileSource  # noqa: E402
from triage.sources.resolve import RunResolver  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
torch.set_num_threads(1)  # on a busy machine two wait for each other

DETECTOR = ("PILATUS 300K",)
SIMULATED = Defaults(labeller="triage simulate", origin="simulated")
FRAMES = 6


@pytest.fixture(scope="module")
def beamtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of simulated frames, `run_a.h5` and `run_b.h5`, and the label store of both beside them."""
    folder = tmp_path_factory.mktemp("beamtime")
    with LabelStore(folder / "labels.sqlite", create=True) as store:
        for seed, name in ((25, "run_a.h5"), (22, "run_b.h5")):
            scenes = draw_scenes_of_one_experiment(np.random.default_rng(seed), FRAMES, detectors=DETECTOR)
            write_nxmx(folder / name, scenes)
            store.add(replace(label, source=name) for label in read_simulated(folder / name, SIMULATED) if isinstance(label, Label))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated shards of one cheap detector: 8 frames to train on, 4 to validate on."""
    folder = tmp_path_factory.mktemp("shards")

    def small_scene(seed: int, split: str, index: int, crystals: tuple[Crystal, ...]) -> Scene:
        return draw_scene(np.random.default_rng([seed, len(split), index]), crystals=crystals, detectors=DETECTOR)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_shards, "scene_of", small_scene)
        for split, frames in (("train", 8), ("validation", 4)):
            spec = ShardSpec(folder=folder, seed=99, split=split, number=0, frames=frames)
            claim_folder(folder, spec)
            make_shard(spec)
    return folder


@pytest.fixture
def labels(beamtime: Path) -> list[Label]:
    with LabelStore(beamtime / "labels.sqlite") as store:
        return store.current()


def data_settings(folder: Path, beamtime: Path, **changes: Any) -> DataSettings:
    values = {"folder": folder, "seed": 99, "train_frames": 8, "validation_frames": 4, "processes": 1, "loaders": 0}
    return DataSettings(**(values | {"labels": beamtime / "labels.sqlite", "labels_share": 0.5} | changes))


# targets


@pytest.mark.parametrize(
    ("judged", "row"),
    [
        ({}, (NOT_JUDGED, NOT_JUDGED, NOT_JUDGED, math.nan)),
        ({"n_lattices": 2, "d_min_A": 2.5}, (2, NOT_JUDGED, NOT_JUDGED, 2.5)),
        ({"diffracts": True, "ice_rings": True}, (SOME_LATTICE, NOT_JUDGED, 1, math.nan)),
        ({"diffracts": False, "ice_rings": False}, (0, NOT_JUDGED, 0, math.nan)),
        ({"non_diffraction_kind": "salt"}, (0, 2, NOT_JUDGED, math.nan)),
        ({"n_lattices": 7}, (7, NOT_JUDGED, NOT_JUDGED, math.nan)),
    ],
)
def test_what_was_not_judged_is_marked_in_the_target(judged: dict[str, Any], row: tuple[float, ...]) -> None:
    found = target_row(said(**judged))
    assert [found[name].item() for name in ("n_lattices", "kind", "ice_rings", "d_min_A")] == pytest.approx(row, nan_ok=True)


def batch_of(targets: list[dict[str, Any]]) -> dict[str, Any]:
    """The targets of frames with these judgements, as FrameDataset gives them."""
    rows = np.array([target_row(said(**judged)) for judged in targets])
    n = len(rows)
    blank = Preprocess(size=8, n_crops=1, crop_px=4)
    arrays = simulated_shards.Arrays(
        images=[np.zeros((n, 5, 8, 8), dtype=np.uint8)],
        crops=[np.zeros((n, 1, 4, 4), dtype=np.uint8)],
        features=np.zeros((n, blank.n_features), dtype=np.float32),
        labels=rows,
        shard_frames=n,
    )
    items = [FrameDataset(arrays, augment=False)[k] for k in range(n)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def logits_of(n: int) -> Logits:
    made = torch.randn(n, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    return Logits(made[:, :4], made[:, 4:8], made[:, 8], made[:, 9])


def test_losses_are_means_over_the_frames_that_were_judged() -> None:
    """Of a frame that diffracts, lattices uncounted, the loss is -log(p1 + p2 + p3)."""
    logits = logits_of(4)
    parts = losses(logits, batch_of([{"n_lattices": 2}, {"diffracts": True}, {"ice_rings": True}, {"non_diffraction_kind": "ice"}]))
    p = torch.softmax(logits.lattices, dim=1)
    expected = -(p[0, 2].log() + (1.0 - p[1, 0]).log() + p[3, 0].log()) / 3
    assert parts["lattices"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["ice"].item() == pytest.approx(-torch.sigmoid(logits.ice[2]).log().item(), rel=1e-5)
    assert parts["kind"].item() == pytest.approx(-torch.log_softmax(logits.kind, dim=1)[3, 1].item(), rel=1e-5)
    assert parts["resolution"].item() == 0.0
    (gradient,) = torch.autograd.grad(parts["lattices"], logits.lattices, retain_graph=True)
    assert gradient[2].abs().sum() == 0
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, True, False, True]
    (ice,) = torch.autograd.grad(parts["ice"], logits.ice)
    assert (ice != 0).tolist() == [False, False, True, False]


def test_a_batch_in_which_nothing_was_judged_has_no_loss() -> None:
    parts = losses(logits_of(2), batch_of([{"decayed": True}, {}]))
    total = torch.stack(list(parts.values())).sum()
    assert total.item() == 0.0
    assert total.requires_grad


# frames


def test_a_label_finds_its_frame(beamtime: Path, labels: list[Label]) -> None:
    library = FrameLibrary(beamtime)
    frame = library.frame(labels[3])
    expected = [event for event in FileSource([str(beamtime / labels[3].source)], resolver=RunResolver()) if isinstance(event, Frame)]
    assert np.array_equal(frame.decode(), expected[labels[3].frame].decode())
    with pytest.raises(FrameError, match="it has no frame 99"):
        library.frame(replace(labels[3], frame=99))
    with pytest.raises(SourceError, match="no such file; run where its path is true"):
        library.frame(replace(labels[3], source="absent.h5"))


def test_frames_of_an_image_series_count_from_the_source(tmp_path: Path) -> None:
    files = write_cbf_series(tmp_path, [2, 9, 10])
    library = FrameLibrary(tmp_path)
    first, third = (library.frame(said(k, source=Path(files[0]).name)) for k in (0, 2))
    assert [Path(str(frame.file)).name for frame in (first, third)] == ["frame_2.cbf", "frame_10.cbf"]
    assert library.frame(said(1, source=files[1])).file == files[2]
    with pytest.raises(FrameError, match="its series has no frame 3"):
        library.frame(said(3, source=files[0]))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a/x_00001.cbf", "a/x_00900.cbf", True),
        ("a/x_00001.cbf", "b/x_00001.cbf", False),
        ("a/x_data_000001.h5", "a/x_data_000002.h5", True),
        ("a/x_1_master.h5", "a/x_2_master.h5", False),
    ],
)
def test_frames_of_one_run_have_one_key(one: str, other: str, same: bool) -> None:
    assert (run_key(one) == run_key(other)) is same


def test_runs_fall_on_one_side_for_good() -> None:
    names = [f"run_{k}_master.h5" for k in range(2000)]
    sides = [is_validation(name, 0.2) for name in names]
    assert sum(sides) / len(sides) == pytest.approx(0.2, abs=0.04)
    assert not any(is_validation(name, 0.0) for name in names)
    assert all(is_validation(name, 0.3) for name, side in zip(names, sides, strict=True) if side)  # a larger share keeps them there
    assert len({is_validation(f"/data/x_{k:05d}.cbf", 0.5) for k in range(50)}) == 1


# inputs


def test_inputs_are_what_serving_makes_and_are_made_once(
    beamtime: Path, labels: list[Label], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, cache = FrameLibrary(beamtime), InputCache(tmp_path, Preprocess())
    found = labelled_inputs(labels[:2], library, cache)
    assert [label for label, _ in found] == labels[:2]
    frame = library.frame(labels[1])
    pixels = frame.decode()
    expected = Preprocess()(pixels, DispersionFinder().find(pixels, frame.run), frame.run)
    inputs = load_inputs(found[1][1])
    for name in ("image", "crops", "features"):
        assert np.array_equal(getattr(inputs, name), getattr(expected, name))
    monkeypatch.setattr(library, "frame", None)  # not asked for again
    assert labelled_inputs(labels[:2], library, cache) == found


def test_another_preprocessing_or_another_file_makes_other_inputs(tmp_path: Path) -> None:
    cache, other = InputCache(tmp_path, Preprocess()), InputCache(tmp_path, Preprocess(n_crops=20))
    made_from = {"file": "a.h5", "frame": 0, "bytes": 1, "written_ns": 2}
    assert cache.path(made_from).parent != other.path(made_from).parent
    assert cache.path(made_from) != cache.path(made_from | {"written_ns": 3})


def test_a_frame_that_cannot_be_read_costs_itself_and_a_line(
    beamtime: Path, labels: list[Label], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    absent = replace(labels[0], source="absent.h5")
    found = labelled_inputs([absent, labels[0]], FrameLibrary(beamtime), InputCache(tmp_path, Preprocess()))
    assert [label for label, _ in found] == [labels[0]]
    assert [record.getMessage() for record in caplog.records] == [
        "labelled frame left out: absent.h5: no such file; run where its path is true, or put the label store beside it"
    ]


def test_labelled_items_are_like_simulated_ones(beamtime: Path, labels: list[Label], shards: Path, tmp_path: Path) -> None:
    found = labelled_inputs(labels, FrameLibrary(beamtime), InputCache(tmp_path, Preprocess()))
    frames, like = LabelledFrames(found, augment=False), FrameDataset(load(shards, "train"), augment=False)[0]
    assert len(frames) == len(labels) == 2 * FRAMES
    for k, label in enumerate(labels):
        item = frames[k]
        assert {name: (value.dtype, value.shape) for name, value in item.items()} == {
            name: (value.dtype, value.shape) for name, value in like.items()
        }
        assert int(item["lattices"]) == min(label.n_lattices or 0, 3)
        assert bool(item["ice"]) == label.ice_rings
        assert float(item["s_max"]) == pytest.approx(1.0 / label.d_min_A if label.d_min_A else math.nan, nan_ok=True, rel=1e-5)
    torch.manual_seed(1)
    turned = LabelledFrames(found, augment=True)
    assert any(not torch.equal(turned[0]["image"], frames[0]["image"]) for _ in range(8))


# thinned pairs


def test_pairs_are_of_one_experiment_and_their_inputs_are_made_once(
    beamtime: Path, labels: list[Label], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, cache = FrameLibrary(beamtime), InputCache(tmp_path, Preprocess())
    pairs = draw_pairs(labels, 12, library, seed=1)
    assert 0 < len(pairs) <= 12
    assert draw_pairs(labels, 12, library, seed=1) == pairs
    for pair in pairs:
        assert pair.first.source == pair.second.source  # the two files have different geometries
        assert pair.first != pair.second
        assert (pair.first.n_lattices, pair.second.n_lattices) in ((1, 1), (1, 0))
        assert sum(pair.shares) == pytest.approx(1.0)
        assert RATIOS[0] <= pair.shares[1] / pair.shares[0] <= RATIOS[1]
    found = pair_inputs(pairs, library, cache)
    assert 0 < len(found) <= len(pairs)
    for label, path in found:
        assert label.n_lattices in (1, 2)
        assert label.says.keys() <= {"n_lattices", "ice_rings"}
        assert load_inputs(path).image.any()
    monkeypatch.setattr("training.labels.pairs._make", lambda *_: None)
    assert pair_inputs(pairs, library, cache) == found


def rotation_labels(tmp_path: Path, n: int) -> tuple[list[Label], FrameLibrary]:
    """One-lattice frames of a CBF series that turns by 1 deg a frame, each labelled by its own file."""
    files = [write_cbf_series(tmp_path, [k], start=float(k), step=1.0)[0] for k in range(1, n + 1)]
    return [said(0, source=file, n_lattices=1) for file in files], FrameLibrary(tmp_path)


def test_neighbours_of_one_rotation_are_not_paired(tmp_path: Path) -> None:
    labels, library = rotation_labels(tmp_path, 9)
    pairs = draw_pairs(labels, 40, library, seed=3)
    assert pairs
    assert all(pair_turn(pair, library) >= 5.0 for pair in pairs)
    assert draw_pairs(labels[:4], 40, library, seed=3) == []


def pair_turn(pair: Any, library: FrameLibrary) -> float:
    one, other = (library.frame(label).run.header for label in (pair.first, pair.second))
    return abs((one.omega_start_deg or 0.0) - (other.omega_start_deg or 0.0))


# mixing


@pytest.mark.parametrize(("first", "second", "share"), [(30, 4, 0.25), (10, 50, 0.5), (8, 3, 0.9)])
def test_an_epoch_holds_every_simulated_frame_once_and_the_share_of_labelled_ones(first: int, second: int, share: float) -> None:
    torch.manual_seed(1)
    sampler = MixedSampler(first, second, share, shuffle=True)
    epochs = [list(sampler) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(sampler)
        drawn = [k for k in epoch if k >= first]
        assert sorted(k for k in epoch if k < first) == list(range(first))
        assert len(drawn) / len(epoch) == pytest.approx(share, abs=0.5 / len(epoch) + 1e-9)
        times = [drawn.count(k) for k in range(first, first + second)]
        assert max(times) - min(times) <= 1
    assert epochs[0] != epochs[1]
    torch.rand(3)  # another process of the same training, whose generator is elsewhere
    assert list(MixedSampler(first, second, share, shuffle=True)) == epochs[0]
    in_order = list(MixedSampler(first, second, share, shuffle=False))
    assert in_order == sorted(in_order, key=lambda k: (k >= first, 0))


def test_without_a_store_nothing_is_mixed_in(shards: Path) -> None:
    frames = TensorDataset(torch.zeros(3))
    found = mixed(frames, DataSettings(folder=shards, seed=1, train_frames=8, validation_frames=4, processes=1, loaders=0), "train")
    assert (found.frames, found.sampler) == (frames, None)


def test_runs_are_on_one_side_and_thinned_frames_on_the_training_side(
    shards: Path, beamtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "is_validation", lambda source, share: source == "run_b.h5")
    data = data_settings(shards, beamtime, labels_thinned=4)
    training, validation = labelled_frames(data, "train"), labelled_frames(data, "validation")
    assert {label.source for label, _ in training} == {"run_a.h5"}
    assert {label.source for label, _ in validation} == {"run_b.h5"}
    assert FRAMES < len(training) <= FRAMES + 4
    assert len(validation) == FRAMES
    report = labels_report(data)
    assert report is not None
    assert (report["frames"], report["runs"], report["thinned"]) == (2 * FRAMES, {"train": 1, "validation": 1}, 4)


def test_no_frame_to_train_on_is_refused(shards: Path, beamtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "is_validation", lambda source, share: True)
    with pytest.raises(LabelError, match=r"no labelled frame to train on; label more runs, or set data.labels_validation=0"):
        mixed(TensorDataset(torch.zeros(3)), data_settings(shards, beamtime), "train")


@pytest.mark.slow
def test_finetuning_mixes_labelled_frames_in(shards: Path, beamtime: Path, tmp_path: Path) -> None:
    small = [
        "network.trunk=[8,16]",
        "network.crop=[4,8,8]",
        "network.hidden=16",
        "trainer.batch=4",
        "trainer.epochs=1",
        "tracking.uri=null",
    ]
    data = [f"data.folder={shards}", "data.seed=99", "data.train_frames=8", "data.validation_frames=4", "data.loaders=0"]
    first = compose_settings("train", [*small, *data, f"out={tmp_path / 'first'}"], TrainSettings)
    warm = train(first) / "network.pt"
    tuning = ["experiment=finetune_labels", f"warm_start={warm}", f"data.labels={beamtime / 'labels.sqlite'}", "data.labels_validation=0"]
    out = train(compose_settings("train", [*tuning, *small, *data, f"out={tmp_path / 'tuned'}"], TrainSettings))
    report = json.loads((out / "report.json").read_text())
    assert report["labels"]["frames"] == 2 * FRAMES
    assert report["labels"]["share"] == 0.25
    assert math.isfinite(report["validation_loss"])
    assert json.loads((tmp_path / "first" / "report.json").read_text())["labels"] is None
    steps = torch.load(out / "last.ckpt", weights_only=True, map_location="cpu")["global_step"]
    assert steps == 2  # 8 simulated frames and 3 labelled ones in batches of 4, the last one not full


@pytest.fixture(autouse=True)
def quiet_seed() -> Iterator[None]:
    """Lightning seeds torch for the whole process; other tests must not depend on it."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["experiment=finetune_labels"], "set data.labels to a label store"),
        (["experiment=finetune_labels", "data.labels=x", "data.labels_share=0"], "set data.labels_share above 0"),
        (["experiment=finetune_labels", "data.labels=x", "data.labels_share=1.0"], "data.labels_share: 1.0 is out of range, must be < 1"),
    ],
)
def test_labels_that_are_not_used_are_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        compose_settings("train", overrides, TrainSettings)
