"""The network's word on damage at run time: the head by hand, the witness, what the tracker makes of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_decay import GOOD, Crystal, a_run

from triage.classify import ModelMetadata
from triage.core import Decay, ShellIntensities, Verdict
from triage.decay import DecayTracker
from triage.decay.network import NOW_FRAMES, REFERENCE_FRAMES, NetworkWitness, spread_over
from triage.pair import APPEARANCE, PairHead
from triage.preprocess import Preprocess

N = len(APPEARANCE)


def a_head(**changes: Any) -> PairHead:
    """Log-odds: minus ten times the fall of the resolution limit, plus tanh of the reference's own number 2."""
    inner, straight = np.zeros((1, 2 * N)), np.zeros(2 * N)
    inner[0, N + 2], straight[0] = 1.0, -10.0
    return replace(PairHead(inner, np.zeros(1), np.ones(1), straight, bias=-1.0), **changes)


def looks_like(log_inverse_d: float, photons: float = 0.0) -> np.ndarray:
    return np.array([log_inverse_d, 0.0, photons, 0.0])


@pytest.mark.parametrize(("n", "expected"), [(2, [0, 1]), (3, [0, 1, 2]), (5, [0, 2, 4]), (12, [0, 6, 11])])
def test_frames_are_spread_evenly(n: int, expected: list[int]) -> None:
    assert spread_over(list(range(n)), NOW_FRAMES) == expected


def test_the_head_compares_means() -> None:
    reference = [looks_like(-0.6, 1.0), looks_like(-0.8, 3.0)]
    now = [looks_like(-1.0), looks_like(-1.2), looks_like(-1.1)]
    assert a_head().log_odds(reference, now) == pytest.approx(10.0 * 0.4 + math.tanh(2.0) - 1.0)


def test_the_head_travels_in_the_metadata() -> None:
    head = a_head(early=(0.5, 1.5), joined=(0.1, 1.1, 0.3))
    metadata = ModelMetadata(name="m", version="1", preprocess=Preprocess(), base_rates=(0.25,) * 4, provenance={}, pair=head)
    back = ModelMetadata.from_json(metadata.to_json()).pair
    assert back is not None
    assert back.log_odds([looks_like(-0.7, 1.0)], [looks_like(-0.9)]) == pytest.approx(
        head.log_odds([looks_like(-0.7, 1.0)], [looks_like(-0.9)])
    )
    assert (back.early, back.joined) == (head.early, head.joined)
    assert ModelMetadata.from_json(replace(metadata, pair=None).to_json()).pair is None


@pytest.mark.parametrize(("key", "value"), [("straight", [1.0]), ("inner_bias", [0.0, 0.0]), ("joined", [0.0, 1.0]), ("early", [1.0])])
def test_a_head_whose_numbers_do_not_fit_is_refused(key: str, value: list[float]) -> None:
    told = json.loads(json.dumps(a_head().to_json()))
    with pytest.raises(ValueError, match=r"pair head|unpack"):
        PairHead.from_json({**told, key: value})


def test_what_both_say_is_weighed() -> None:
    head = a_head(early=(0.5, 1.5), joined=(0.1, 1.1, 0.3))
    assert head.with_tracker(2.0, None) == pytest.approx(3.5)
    assert head.with_tracker(2.0, -1.0) == pytest.approx(0.1 - 1.1 + 0.6)


NOWHERE = looks_like(0.0)


@pytest.mark.parametrize(("head", "reference", "now"), [(None, NOWHERE, NOWHERE), (a_head(), None, NOWHERE), (a_head(), NOWHERE, None)])
def test_without_a_head_or_appearances_the_network_has_no_word(
    head: PairHead | None, reference: np.ndarray | None, now: np.ndarray | None
) -> None:
    witness = NetworkWitness(head)
    witness.begin([reference])
    witness.look([now])
    assert witness.probability is None
    assert witness.joined(0.3, has_evidence=True) == 0.3


def decays(head: PairHead | None, fall: float, n_frames: int = 60) -> list[Decay | None]:
    """A sound crystal, which the network sees fall off from frame 30 on."""
    run, frames = a_run(), Crystal().frames(np.random.default_rng(3), n_frames, lambda _: 0.0, lambda _: 1.0)
    tracker, said = DecayTracker(run, pair=head), []
    for frame, spots in enumerate(frames):
        judgement = replace(GOOD, appearance=looks_like(-0.7 - fall * (frame >= 30)))
        shells = ShellIntensities(edges_per_A=(), intensity=(), variance=(), spots=spots)
        verdict = Verdict(run_id="r", frame=frame, file=None, judgement=judgement, spots=None, shells=shells, latency_ms=0.0)
        said.append(tracker.update(verdict))
    return said


def test_the_networks_word_is_recorded_and_joins_the_probability_but_not_the_alarm() -> None:
    head = a_head(early=(0.0, 1.0), joined=(0.0, 1.0, 0.5))
    alone, joined = decays(None, 0.3)[-1], decays(head, 0.3)[-1]
    assert alone is not None
    assert joined is not None
    assert alone.network_probability is None
    odds = 10.0 * 0.3 - 1.0
    assert joined.network_probability == pytest.approx(1.0 / (1.0 + math.exp(-odds)))
    before = math.log(alone.probability / (1.0 - alone.probability))
    assert math.log(joined.probability / (1.0 - joined.probability)) == pytest.approx(before + 0.5 * odds)
    assert replace(joined, probability=alone.probability, network_probability=None) == alone


def test_the_network_speaks_alone_until_the_tracker_has_evidence() -> None:
    """A reference of five frames is one block; the tracker has its first word after three."""
    head = a_head(early=(0.5, 2.0), joined=(0.0, 1.0, 0.0))
    said = [decay for decay in decays(head, 0.0) if decay is not None]
    alone = [decay for decay in decays(None, 0.0) if decay is not None]
    silent = [k for k, decay in enumerate(alone) if decay.probability == pytest.approx(0.1, abs=1e-12)]
    spoken = [said[k] for k in silent if said[k].network_probability is not None]
    expected = 1.0 / (1.0 + math.exp(-(0.5 + 2.0 * -1.0)))
    assert [decay.probability for decay in spoken] == pytest.approx([expected] * len(spoken))
    assert said[-1].probability == pytest.approx(alone[-1].probability)


def test_the_reference_is_a_few_frames() -> None:
    witness = NetworkWitness(a_head())
    witness.begin([looks_like(0.1 * k) for k in range(10)])
    witness.look([looks_like(0.45)] * 5)
    assert REFERENCE_FRAMES == 4
    mean = np.mean([0.0, 0.3, 0.6, 0.9])
    assert witness.probability == pytest.approx(1.0 / (1.0 + math.exp(1.0 + 10.0 * (0.45 - mean))))
