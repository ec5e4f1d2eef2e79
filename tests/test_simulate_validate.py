"""The figures of docs/simulate.md can be made, and say what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
from PIL import Image  # noqa: E402

from training.simulate.validate import physics, real  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)  # on a busy machine two wait for each other


def test_spots_lie_where_a_closed_form_of_the_rotation_puts_them(tmp_path: Path) -> None:
    numbers = physics.positions(tmp_path)
    assert numbers["largest distance from the closed form, px"] < 0.02
    assert numbers["centroids: median distance, px"] < 0.05
    with Image.open(tmp_path / "simulate_positions.png") as image:
        assert image.width > 300
    assert (tmp_path / "simulate_positions.png").stat().st_size < 150_000


@pytest.mark.fixtures
def test_a_real_frame_is_simulated_at_its_level(fixtures_dir: Path) -> None:
    small = next(one for one in real.REAL if one.detector == "PILATUS 300K")
    _, frame, (simulated,) = real.beside(small, fixtures_dir / "real", seed=1, draws=1)
    assert simulated.level == pytest.approx(frame.level, rel=0.2)
    assert len(frame.spots) > 300  # what the real frame shows: 496


def test_rings_leave_hot_pixels_out() -> None:
    rng = np.random.default_rng(4)
    s = np.full(20_000, 0.3, dtype=np.float32)
    photons = rng.poisson(3.0, size=20_000).astype(np.float32)
    photons[:20] = 1e5
    mean, dispersion = real.rings(s, photons)
    assert np.nanmax(mean) == pytest.approx(3.0, rel=0.02)
    assert dispersion == pytest.approx(1.0, abs=0.05)
