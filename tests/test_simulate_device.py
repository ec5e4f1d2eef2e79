"""The simulator on a GPU. Truth: the same scene on the CPU; and, where there is no GPU, that nothing is left to a default device."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.overrides import TorchFunctionMode  # noqa: E402

from tests.test_simulate_render import diffracting, lattice  # noqa: E402
from training.simulate.render import render  # noqa: E402
from training.simulate.scene import Artefacts, Background, Powder, Scene  # noqa: E402

pytestmark = pytest.mark.torch
MAKERS = ("arange", "linspace", "rand", "randn", "randint", "zeros", "ones", "full", "tensor", "as_tensor", "empty", "eye")
ON_THE_CPU = ("_powder_spots", "_labels", "_apart")
"""Functions of render.py that compute with reflections, which stay on the CPU."""


def everything() -> Scene:
    """A scene that comes past every line: two lattices, ice and salt, a jet, all artefacts, read noise."""
    ice = Powder(rings_per_A=(0.257, 0.273, 0.29), strengths=(1.0, 0.5, 0.7), width=0.01, texture=0.8, n_spots=30, spot_photons=200.0)
    return diffracting(
        lattice(),
        dataclasses.replace(lattice(3.0, scale=0.5), blocks=((0.5, 0.2, 0.6), (-0.7, 0.1, 0.4))),
        detector="JUNGFRAU 1M",
        beam_px=(500.0, 510.0),
        ice=ice,
        powder=dataclasses.replace(ice, rings_per_A=(0.4,), strengths=(0.5,), n_spots=0),
        harmonic=0.05,
        background=Background(
            level=2.0, air=1.0, water=1.0, plastic=0.5, constant=0.1, unevenness=0.1, flat_field=0.01, ripple=0.02, chip_borders=0.1
        ),
        artefacts=Artefacts(zingers=5, hot_pixels=5, hot_lines=2, dead_module=True, jet_streak=1.0),
    )


class _Watch(TorchFunctionMode):
    """Notes every tensor that is made in the simulator's pixel code without a stated device."""

    def __init__(self) -> None:
        super().__init__()
        self.unstated: list[str] = []
        self.made = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in MAKERS:
            code = sys._getframe(1).f_code
            pixels = Path(code.co_filename).name in ("render.py", "background.py") and code.co_name not in ON_THE_CPU
            self.made += pixels
            if pixels and "device" not in kwargs:
                self.unstated.append(f"{Path(code.co_filename).name}: {code.co_name}: {func.__name__}")
        return func(*args, **kwargs)


def test_nothing_of_the_pixels_is_made_on_a_default_device() -> None:
    with _Watch() as watch:
        render(everything())
    assert watch.made > 20, "the watch sees nothing: has torch changed?"
    assert watch.unstated == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_a_frame_of_a_gpu_is_that_of_the_cpu_but_for_its_noise() -> None:
    made = dataclasses.replace(everything(), artefacts=Artefacts(jet_streak=0.0), ice=None, powder=None)
    made = dataclasses.replace(made, background=dataclasses.replace(made.background, unevenness=0.0, ripple=0.0))
    on_cpu, on_gpu, again = (render(made, device=device) for device in ("cpu", "cuda", "cuda"))
    assert on_cpu.labels.lattices == on_gpu.labels.lattices
    assert np.array_equal(on_gpu.counts, again.counts, equal_nan=True)
    a, b = (np.nan_to_num(frame.counts.astype(float)) for frame in (on_cpu, on_gpu))
    assert abs(a.sum() / b.sum() - 1.0) < 0.01
    bright = a > np.quantile(a, 0.999)
    assert np.corrcoef(a[bright], b[bright])[0, 1] > 0.9
    assert render(everything(), device="cuda").counts.shape == on_cpu.counts.shape
