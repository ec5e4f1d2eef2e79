"""What network and trees are worth apart. Truths: judgements of which one knows the truth and the other does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.frozen_set import labels  # noqa: E402
from training import parts  # noqa: E402
from training.parts import MEASURES, main, worth  # noqa: E402
from training.release import Outputs  # noqa: E402

pytestmark = pytest.mark.torch


def outputs(n: int, seed: int) -> Outputs:
    """A network that guesses at lattices and knows ice, and trees the other way round."""
    generator, truth = torch.Generator().manual_seed(seed), labels(n)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    number = torch.from_numpy(np.minimum(truth["n_lattices"], 3).astype(np.int64))
    kind, ice = torch.from_numpy(truth["kind"].astype(np.int64)), torch.from_numpy(truth["ice_rings"].astype(np.float32))
    known = torch.nn.functional.one_hot(number, 4) * 4.0 + noise(n, 4)
    of_kind = torch.nn.functional.one_hot(kind.clamp_min(0), 4) * 4.0 + noise(n, 4)
    none = (number == 0).float()[:, None] * 4.0 - 2.0 + noise(n, 1)
    trees = {"lattices": known, "kind": of_kind, "ice": noise(n, 1), "none": none}
    return Outputs(noise(n, 4), of_kind, 4.0 * ice - 2.0 + noise(n), torch.zeros(n), {"lattices": number, "kind": kind, "ice": ice}, trees)


def test_each_part_is_worth_what_it_knows() -> None:
    found = worth(outputs(800, 1), outputs(600, 2), labels(600))
    lattices = {way: numbers["multi_lattice/auroc"] for way, numbers in found.items()}
    ice = {way: numbers["ice_rings/auroc"] for way, numbers in found.items()}
    assert lattices["both"] > 0.98
    assert lattices["trees alone"] > 0.98
    assert lattices["network alone"] < 0.6
    assert (ice["both"] > 0.95, ice["network alone"] > 0.95, ice["trees alone"] < 0.6) == (True, True, True)


def test_the_table_has_a_row_for_each_and_a_network_without_trees_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loaded:
        labels = labels(600)

    monkeypatch.setattr(parts, "load_network", lambda path: (None, {}))
    monkeypatch.setattr(parts, "load_trees", lambda path: {} if path.name == "bare.pt" else outputs(8, 0).trees)
    monkeypatch.setattr(parts, "run_split", lambda network, folder, split, trees: outputs(800 if split == "validation" else 600, 3))
    monkeypatch.setattr(parts, "load", lambda folder, split: Loaded)
    assert main([str(tmp_path / "network.pt"), "calibration", "frozen"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| both", "| network alone", "| trees alone"]
    assert {len(row) for row in rows} == {1 + len(MEASURES)}
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "bare.pt"), "calibration", "frozen"])
    assert "has not all trees" in capsys.readouterr().err
