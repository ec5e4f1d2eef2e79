"""The network at work: what loads, what is refused and how, and what a judgement promises."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import GEOMETRY, run_of, scattered, with_spots

from triage.classify import METADATA_KEY, ModelError, ModelMetadata, OnnxClassifier
from triage.compose import released_dir
from triage.core import NON_DIFFRACTION_KINDS, Judgement, Pixels, Run
from triage.preprocess import Preprocess
from triage.spots import DispersionFinder

RELEASED = released_dir() / "triage.onnx"
KNOWN, UNKNOWN = run_of(geometry=GEOMETRY), run_of()
needs_release = pytest.mark.skipif(not RELEASED.is_file(), reason="no released network; test_packaging.py says so")


@pytest.fixture(scope="module")
def network() -> OnnxClassifier:
    return OnnxClassifier(RELEASED)


def frames() -> list[Pixels]:
    """Empty, noise, a lattice, two lattices, scattered spots, saturated, all masked."""
    rng = np.random.default_rng(1)
    flat = np.full((512, 512), 1.0)
    cells = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10)), axis=-1).reshape(-1, 2)
    first = 256.0 + cells @ np.array([[22.0, 5.0], [-6.0, 24.0]])
    second = 256.0 + cells @ np.array([[20.0, -9.0], [11.0, 22.0]])
    places = (first, np.concatenate([first, second]), scattered(rng, 60, (512, 512)))
    kept = [p[((p > 8) & (p < 504)).all(axis=1)] for p in places]
    made = [rng.poisson(with_spots(flat, positions, rng.exponential(300.0, len(positions)))) for positions in kept]
    blanks = [np.zeros((512, 512)), rng.poisson(flat), np.full((512, 512), 65533), np.full((512, 512), 65535)]
    return [frame.astype(np.uint16) for frame in (*blanks, *made)]


def judge(network: OnnxClassifier, pixels: Pixels, run: Run) -> Judgement:
    return network.score(pixels, DispersionFinder().find(pixels, run), run)


@needs_release
@pytest.mark.parametrize("run", [KNOWN, UNKNOWN], ids=["geometry", "no geometry"])
def test_probabilities_are_probabilities(network: OnnxClassifier, run: Run) -> None:
    for pixels in frames():
        found = judge(network, pixels, run)
        for probabilities in (found.lattices, found.non_diffraction_kind):
            assert sum(probabilities) == pytest.approx(1.0, abs=1e-12)
            assert all(0.0 <= p <= 1.0 for p in probabilities)
        assert len(found.non_diffraction_kind) == len(NON_DIFFRACTION_KINDS)
        assert 0.0 <= found.ice_rings <= 1.0
        assert found.multi_lattice == pytest.approx(found.lattices[2] + found.lattices[3], abs=1e-12)
        assert found.non_diffraction == found.lattices[0]


@needs_release
def test_a_resolution_needs_geometry_and_diffraction(network: OnnxClassifier) -> None:
    for pixels in frames():
        assert judge(network, pixels, UNKNOWN).resolution_A is None
        found = judge(network, pixels, KNOWN)
        if found.non_diffraction > 0.5:
            assert found.resolution_A is None
        else:
            assert found.resolution_A is not None
            assert 0.5 < found.resolution_A < 50.0


@needs_release
def test_the_obvious_is_judged_rightly(network: OnnxClassifier) -> None:
    _, noise, _, _, lattice, _, _ = frames()
    assert judge(network, noise, KNOWN).non_diffraction > 0.8
    assert judge(network, lattice, KNOWN).non_diffraction < 0.5


@needs_release
def test_four_threads_judge_as_one(network: OnnxClassifier) -> None:
    pixels = frames() * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: judge(network, p, KNOWN), pixels))
    assert together == [judge(network, p, KNOWN) for p in pixels]


@needs_release
def test_the_model_says_who_it_is(network: OnnxClassifier) -> None:
    assert network.model.sha256 == hashlib.sha256(RELEASED.read_bytes()).hexdigest()
    assert network.model.name == "triage"
    assert network.model.version
    made = network.metadata.preprocess
    assert made == Preprocess(n_features=made.n_features)
    assert sum(network.metadata.base_rates) == pytest.approx(1.0, abs=1e-6)
    assert {"git_revision", "calibration", "data", "seed"} <= set(network.metadata.provenance)
    again = ModelMetadata.from_json(network.metadata.to_json())
    assert again.to_json() == network.metadata.to_json()
    assert again.pair is not None  # the released one compares frames of a run for decay


# What is refused; ONNX files are written here byte by byte, after onnx.proto


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def integer(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def onnx_file(path: Path, metadata: dict[str, str], operator: str = "Identity", opset: int = 17) -> Path:
    """A model of one operator on one float; fields by their numbers in onnx.proto."""
    one_float = block(1, integer(1, 1) + block(2, block(1, integer(1, 1))))  # TypeProto.tensor_type: elem_type FLOAT, shape (1)
    node = block(1, "x") + block(2, "y") + block(4, operator)
    graph = block(1, node) + block(2, "g") + block(11, block(1, "x") + block(2, one_float)) + block(12, block(1, "y") + block(2, one_float))
    properties = b"".join(block(14, block(1, key) + block(2, value)) for key, value in metadata.items())
    path.write_bytes(integer(1, 8) + block(7, graph) + block(8, integer(2, opset)) + properties)
    return path


def good_metadata() -> dict[str, Any]:
    value = ModelMetadata(name="n", version="1", preprocess=Preprocess(), base_rates=(0.4, 0.4, 0.1, 0.1), provenance={})
    written: dict[str, Any] = json.loads(value.to_json())
    return written


def refusal(path: Path, device: str = "auto") -> str:
    with pytest.raises(ModelError) as caught:
        OnnxClassifier(path, device)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_file_with_good_metadata_loads(tmp_path: Path) -> None:
    found = OnnxClassifier(onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(good_metadata())}), "cpu")
    assert (found.model.name, found.model.version) == ("n", "1")


def test_a_missing_file_is_named_with_the_mend(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.onnx") == f"{tmp_path}/no.onnx: no such model file; set model=PATH to an exported .onnx"
    assert "no such model file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"not a network at all", b"\x00" * 5000],
    ids=["empty", "png", "text", "zeros"],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: not an ONNX model that this runtime can load (")


@needs_release
def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(RELEASED.read_bytes()[:-2000])
    assert str(path) in refusal(path)


@pytest.mark.parametrize(("operator", "opset"), [("NoSuchOperator", 17), ("Identity", 999)])
def test_what_this_runtime_cannot_run_is_refused(tmp_path: Path, operator: str, opset: int) -> None:
    path = onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(good_metadata())}, operator, opset)
    assert refusal(path).startswith(f"{path}: not an ONNX model that this runtime can load (")


def test_a_file_without_preprocessing_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", {"author": "someone"})
    assert refusal(path) == f"{path}: carries no preprocessing ('{METADATA_KEY}' metadata); export it with `triage export`"


@pytest.mark.parametrize("name", ["version", "spot_finder_version", "n_features"])
def test_another_versions_input_is_refused_by_name(tmp_path: Path, name: str) -> None:
    metadata = good_metadata()
    metadata["preprocess"][name] += 1
    line = refusal(onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(metadata)}))
    assert f"wants preprocessing {name} {metadata['preprocess'][name]}" in line
    assert line.endswith("export the model again")


@pytest.mark.parametrize(
    "change",
    [
        {"non_diffraction_kinds": ["blank", "ice", "salt", "fish"]},
        {"base_rates": [0.5, 0.5]},
        {"base_rates": ["a", "b", "c", "d"]},
        {"preprocess": None},
        {"preprocess": {"size": 256, "colour": "blue"}},
        {"provenance": 3},
    ],
)
def test_metadata_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(good_metadata() | change)})
    assert refusal(path).startswith(f"{path}: its metadata do not fit this version (")


@pytest.mark.parametrize("key", ["name", "version", "preprocess", "base_rates", "provenance", "non_diffraction_kinds"])
def test_metadata_that_lack_something_are_refused(tmp_path: Path, key: str) -> None:
    metadata = {name: value for name, value in good_metadata().items() if name != key}
    line = refusal(onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(metadata)}))
    assert key in line


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_metadata_that_are_no_object_are_refused(tmp_path: Path, text: str) -> None:
    assert "m.onnx" in refusal(onnx_file(tmp_path / "m.onnx", {METADATA_KEY: text}))


def test_cuda_where_there_is_none_is_refused_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triage.classify.ort.get_available_providers", lambda: ["CPUExecutionProvider"])
    path = onnx_file(tmp_path / "m.onnx", {METADATA_KEY: json.dumps(good_metadata())})
    assert "set model.device=cpu" in refusal(path, "cuda")
