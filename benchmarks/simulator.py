"""Frames per second of the simulator on one core: one lattice, 500 visible spots, 1M pixels."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np

from benchmarks.timing import repeats_from, show, timed

VISIBLE = 500
KINDS = ("single", "random_pair")


def main(arguments: Sequence[str] | None = None) -> None:
    repeats = repeats_from(arguments, __doc__)
    if importlib.util.find_spec("torch") is None:
        print("simulator: skipped, torch is absent (pip install -e '.[train]')")
        return
    rows = [_row(kind, repeats) for kind in KINDS]
    show("simulator, EIGER2 1M, one core (ms)", ("scene", "lattices", "visible spots", "wall", "CPU", "frames/s"), rows)


def _row(kind: str, repeats: int) -> list[str]:
    import torch

    from training.simulate.draw import draw_scene
    from training.simulate.render import render
    from training.simulate.scene import Artefacts

    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    labels, scene = None, None
    while scene is None or labels is None or labels.visible_spots < VISIBLE:  # some crystals have not so many
        scene = draw_scene(rng, detectors=("EIGER2 1M",))
        if scene.kind != kind or scene.ice is not None or scene.salt is not None:
            continue
        scene = dataclasses.replace(scene, visible_spots=VISIBLE, artefacts=Artefacts())
        labels = render(scene).labels
    timing = timed(lambda: render(scene), max(3, repeats // 4))
    rate = f"{1e3 / timing.wall_ms:.1f} ({1e3 / timing.cpu_ms:.1f} by CPU)"
    return [kind, str(len(scene.lattices)), str(labels.visible_spots), f"{timing.wall_ms:.0f}", f"{timing.cpu_ms:.0f}", rate]


if __name__ == "__main__":
    main()
