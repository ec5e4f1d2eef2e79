"""Learning the network's heads for decay: on made-up looks with a known truth, into the released file, and on rendered runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.torch

import onnx  # noqa: E402
from synthetic import GEOMETRY, run_of, scattered, with_spots  # noqa: E402

from models.decay import DecayHeads, Looks, attach, looks_output, with_heads  # noqa: E402
from models.export import ExportError  # noqa: E402
from training.decay.heads import Pairs, learn_heads, pairs_of, weighed  # noqa: E402
from training.decay.network import gain, tables  # noqa: E402
from training.decay.pairs import BLOCKS, collect, paired  # noqa: E402
from triage.classify import OnnxClassifier  # noqa: E402
from triage.compose import released_dir  # noqa: E402
from triage.decay.evidence import FEATURES  # noqa: E402
from triage.decay.network import NOW_FRAMES, REFERENCE_FRAMES  # noqa: E402
from triage.pair import APPEARANCE  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402

RELEASED = released_dir() / "triage.onnx"


def made_up(runs: int, seed: int, tracker: float = 0.0) -> Pairs:
    """Twenty looks; the first tells ln B with noise, the others nothing. Every other run's B grows in its last two of three blocks.

    The tracker's log-odds are `tracker` times the truth (plus or minus one), with noise; the first block is early.
    """
    rng = np.random.default_rng(seed)
    frames = REFERENCE_FRAMES + 3 * NOW_FRAMES
    owner = np.repeat(np.arange(runs), frames)
    block = np.tile(np.repeat([-1, 0, 1, 2], [REFERENCE_FRAMES, *[NOW_FRAMES] * 3]), runs)
    lost = (block >= 1) & (owner % 2 == 1)
    truth = rng.normal(size=(runs, 3))[owner] + np.stack([1.5 * lost, 0.0 * lost, 0.0 * lost], axis=1)
    looks = rng.normal(size=(len(owner), 21)).astype(np.float32)
    looks[:, 0] = 3.0 * truth[:, 0] + 0.3 * rng.normal(size=len(owner))
    run = np.repeat(np.arange(runs), 3)
    number = np.tile(np.arange(3), runs)
    damaged = (number >= 1) & (run % 2 == 1)
    first = run * frames
    return Pairs(
        looks=looks,
        truth=truth,
        owner=owner,
        reference=first[:, None] + np.arange(REFERENCE_FRAMES),
        now=first[:, None] + REFERENCE_FRAMES + NOW_FRAMES * number[:, None] + np.arange(NOW_FRAMES),
        loss=np.where(damaged, 0.5, 0.0),
        run=run,
        kind=np.full(len(run), "stills"),
        tracker=tracker * np.where(damaged, 1.0, -1.0) + rng.normal(size=len(run)),
        early=(number == 0) | (rng.random(len(run)) < 0.2),
    )


def test_heads_learn_what_the_looks_hold_and_are_weighed_beside_the_tracker() -> None:
    train, test = made_up(60, 1), made_up(60, 2)
    learnt = learn_heads(train)
    appearance = learnt.heads(test.looks)
    assert appearance.shape == (len(test.looks), len(APPEARANCE))
    assert np.array_equal(appearance[:, 0], test.looks[:, -1])
    assert np.corrcoef(appearance[:, 1], test.truth[:, 0])[0, 1] > 0.8
    said = np.array([learnt.head.log_odds(list(appearance[a]), list(appearance[b])) for a, b in zip(test.reference, test.now, strict=True)])
    assert ((said > 0) == test.damaged).mean() > 0.9
    assert learnt.head.joined[2] > 0.5  # the tracker knows nothing
    assert abs(learnt.head.joined[1]) < 0.5
    text = tables(learnt, train, test)
    assert "Test runs, 60 runs" in text
    row = next(line for line in text.split("Test runs")[1].splitlines() if line.startswith("| stills"))
    assert float(row.split("|")[-2].split()[0]) > 0.2  # of ln 2


def test_a_network_that_knows_nothing_new_gains_nothing() -> None:
    pairs = made_up(80, 3, tracker=4.0)
    learnt = learn_heads(pairs)
    noise = np.random.default_rng(0).normal(size=len(pairs.run))
    weights = weighed(pairs, [pairs.tracker, noise], ~pairs.early)
    head = replace(learnt.head, joined=(weights[0], weights[1], weights[2]))
    text = gain(pairs, noise, head, weighed(pairs, [pairs.tracker], ~pairs.early))
    row = next(line for line in text.splitlines() if line.startswith("| stills"))
    assert abs(float(row.split("|")[-2].split()[0])) < 0.02


@pytest.fixture(scope="module")
def heads() -> DecayHeads:
    rng = np.random.default_rng(0)
    n = 608
    return DecayHeads(0.1 * rng.normal(size=n), rng.uniform(0.5, 2.0, n), 0.05 * rng.normal(size=(3, n)), rng.normal(size=3))


def test_the_released_file_says_what_it_said_and_how_frames_appear(heads: DecayHeads, tmp_path: Path) -> None:
    learnt = learn_heads(made_up(30, 4))
    metadata = with_heads(OnnxClassifier(RELEASED, device="cpu").metadata, learnt.head, "9.9.9", {"seed": 1})
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    attach(RELEASED, heads, metadata, once)
    attach(once, heads, metadata, twice)  # heads that were there go
    assert once.read_bytes() == twice.read_bytes()
    before, after = OnnxClassifier(RELEASED, device="cpu"), OnnxClassifier(once, device="cpu")
    assert (after.model.version, after.metadata.provenance["decay"]) == ("9.9.9", {"seed": 1})
    rng, run = np.random.default_rng(2), run_of(geometry=GEOMETRY)
    expected = with_spots(np.full((512, 512), 1.0), scattered(rng, 60, (512, 512)), 300.0)
    pixels = rng.poisson(expected).astype(np.uint16)
    spots = DispersionFinder().find(pixels, run)
    assert after.score(pixels, spots, run) == before.score(pixels, spots, run)
    seen = Looks(once)(pixels, spots, run)
    assert after.score(pixels, spots, run).appearance == pytest.approx(heads(seen[None])[0], abs=1e-4)


def test_heads_that_onnx_would_not_say_are_refused(heads: DecayHeads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = OnnxClassifier(RELEASED, device="cpu").metadata
    monkeypatch.setattr(DecayHeads, "__call__", lambda self, seen: np.ones((len(seen), 4)))
    with pytest.raises(ExportError, match="differs from the heads"):
        attach(RELEASED, heads, metadata, tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other.onnx: no layer network.join.0.weight"):
        looks_output(onnx.GraphProto(), tmp_path / "other.onnx")


@pytest.mark.slow
def test_runs_are_rendered_in_pairs_once(tmp_path: Path) -> None:
    """Frames of the reference, of the first block and of BLOCKS others; a second call renders nothing anew."""
    path = tmp_path / "pairs.pkl"
    runs = collect(path, RELEASED, seed=5, split="train", number=2)
    kept = path.stat().st_mtime_ns
    again = collect(path, RELEASED, seed=5, split="train", number=2)
    assert path.stat().st_mtime_ns == kept
    for run, same in zip(runs, again, strict=True):
        assert np.array_equal(run.looks, same.looks)
        assert (run.block == -1).sum() == REFERENCE_FRAMES
        assert len(run.at) <= BLOCKS + 1
        assert len(run.looks) == len(run.truth) == len(run.block)
        assert run.features.shape == (len(run.at), len(FEATURES))
        assert np.isfinite(run.looks.astype(float)).all()
        assert ((run.truth[:, 3] >= 0) & (run.truth[:, 3] <= 1)).all()
    pairs = pairs_of(runs)
    assert pairs.reference.shape == (len(pairs.run), REFERENCE_FRAMES)
    assert set(pairs.owner[pairs.now].ravel()) <= {0, 1}
    assert (pairs.owner[pairs.reference[:, 0]] == pairs.run).all()
    whole = paired(Looks(RELEASED), 5, "train", 0)
    assert whole is not None
    assert np.array_equal(whole.looks, runs[0].looks)
