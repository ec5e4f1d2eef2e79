"""What DIALS finds on real frames is found, where it is, and as strong (tests/golden/make_dials_spots.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import match

from triage.core import Frame
from triage.sources.files import FileSource
from triage.sources.resolve import RunResolver
from triage.spots import DispersionFinder

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("dials_spots.json").read_text())
FOUND_OF_DIALS = {  # the share of DIALS' spots with I/sigma > 5 that we find within 2 px; measured: 1.0, 0.996, 1.0, 0.960
    "DLS_I03_smargon_0001.cbf.gz": 0.99,
    "run2_1_00148.cbf.bz2": 0.98,
    "dlsnxs2cbf_therm_0001.cbf.gz": 0.97,
    "ximg2700_00001.cbf": 0.95,
}
ONLY_DIALS = {  # of I/sigma > 13, (slow, fast)
    "ximg2700_00001.cbf": [
        [388.4, 291.4],  # 5,900 photons over 470, less than a twentieth of them outside one pixel: a spot or a zinger
        [43.3, 378.0],  # 950 and 480 photons in two pixels on 350, little in the other seven neighbours: the same
        [329.3, 20.2],  # no spot: the edge of a shadow, 100 photons to its left and 500 to its right
    ]
}


@pytest.mark.fixtures
@pytest.mark.parametrize("name", GOLDEN["files"])
def test_what_dials_finds_on_real_frames_is_found(name: str, fixtures_dir: Path) -> None:
    frame = next(e for e in FileSource([fixtures_dir / "real" / name], resolver=RunResolver(), group="file") if isinstance(e, Frame))
    found = DispersionFinder().find(frame.decode(), frame.run)
    theirs = np.array(GOLDEN["files"][name]["spots"])
    strong = theirs[theirs[:, GOLDEN["columns"].index("i_over_sigma")] > 5.0]
    matched = match(found.positions_px, strong[:, :2])
    assert matched.recall >= FOUND_OF_DIALS[name]
    assert np.median(np.hypot(*matched.error_px.T)) < 0.2
    intensity = strong[matched.true, GOLDEN["columns"].index("intensity")]
    assert np.median(found.intensity[matched.found] / intensity) == pytest.approx(1.0, abs=0.1)
    assert len(found) < 1.5 * len(theirs)


@pytest.mark.fixtures
@pytest.mark.parametrize("name", GOLDEN["files"])
def test_every_spot_that_nobody_can_overlook_is_found(name: str, fixtures_dir: Path) -> None:
    frame = next(e for e in FileSource([fixtures_dir / "real" / name], resolver=RunResolver(), group="file") if isinstance(e, Frame))
    theirs = np.array(GOLDEN["files"][name]["spots"])
    obvious = theirs[theirs[:, GOLDEN["columns"].index("i_over_sigma")] > 13.0]
    matched = match(DispersionFinder().find(frame.decode(), frame.run).positions_px, obvious[:, :2])
    lost = np.delete(obvious[:, :2], matched.true, axis=0)
    np.testing.assert_allclose(sorted(lost.tolist()), sorted(ONLY_DIALS.get(name, [])), atol=0.1)
