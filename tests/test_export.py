"""From a trained network to the released file. Truths: torch's own output, ONNX's own checks, the dataset's path from pixels to input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from models.export import ExportError, export  # noqa: E402
from models.network import Calibrated, Calibration, Network, NetworkSize  # noqa: E402
from training.dataset import inputs_of  # noqa: E402
from training.simulate.draw import draw_scene  # noqa: E402
from training.simulate.render import Rendered, render  # noqa: E402
from triage.classify import METADATA_KEY, ModelError, ModelMetadata, OnnxClassifier  # noqa: E402
from triage.core import Judgement, Run  # noqa: E402
from triage.preprocess import Inputs, Preprocess  # noqa: E402
from triage.sources.resolve import RunResolver  # noqa: E402
from triage.sources.stream_headers import SeriesName, header_of, start_of  # noqa: E402
from triage.spots import DispersionFinder  # noqa: E402
from triage.wire import stream2  # noqa: E402
from triage.wire.arrays import EncodedArray  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    # torch's exporter gives the batch, which all inputs share, one name of its own.
    pytest.mark.filterwarnings("ignore:# The axis name:UserWarning"),
    # torch's exporter asks torch's pytree in a way that it gives up; only where nothing in the process did so before.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
torch.set_num_threads(1)  # on a busy machine two wait for each other

CALIBRATION = Calibration(lattices=1.7, kind=0.8, ice=1.3)
METADATA = ModelMetadata(
    name="tiny",
    version="0.0.1",
    preprocess=Preprocess(),
    base_rates=(0.35, 0.4, 0.2, 0.05),
    provenance={"data_seed": 3, "git_revision": "abc"},
)


def network() -> Calibrated:
    torch.manual_seed(5)
    return Calibrated(Network(NetworkSize(trunk=(8, 16), crop=(4, 8, 8), hidden=16)), CALIBRATION).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    assert export(network(), METADATA, path) <= 1e-4
    return path


@pytest.fixture(scope="module")
def frames() -> list[Rendered]:
    """Frames of several detectors and kinds; the last one without a mask."""
    rng = np.random.default_rng(31)
    scenes = [draw_scene(rng, detectors=(name,)) for name in ("EIGER2 500K", "PILATUS 300K", "EIGER 1M", "JUNGFRAU 1M", "RAYONIX MX225")]
    return [render(scene) for scene in [*scenes, dataclasses.replace(scenes[1], gaps_masked=False)]]


def test_onnx_says_what_torch_says(exported: Path, frames: list[Rendered]) -> None:
    classifier, calibrated = OnnxClassifier(exported, device="cpu"), network()
    for frame in frames:
        _, inputs = inputs_of(frame, METADATA.preprocess)
        with torch.inference_mode():
            lattices, kind, ice, inverse_d = calibrated(*(torch.from_numpy(x)[None] for x in (inputs.image, inputs.crops, inputs.features)))
        said = classifier.score(frame.counts, DispersionFinder().find(frame.counts, frame.run), frame.run)
        assert said.lattices == pytest.approx(lattices[0].tolist(), abs=1e-4)
        assert said.non_diffraction_kind == pytest.approx(kind[0].tolist(), abs=1e-4)
        assert said.ice_rings == pytest.approx(float(ice), abs=1e-4)
        if said.resolution_A is not None:
            assert said.resolution_A == pytest.approx(1.0 / float(inverse_d), rel=1e-4)


def test_probabilities_leave_the_file_calibrated(exported: Path) -> None:
    """The softmax of the logits over the temperature, computed by hand."""
    made = METADATA.preprocess
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (3, 5, made.size, made.size), dtype=np.uint8)
    crops = rng.integers(0, 256, (3, made.n_crops, made.crop_px, made.crop_px), dtype=np.uint8)
    features = rng.normal(size=(3, made.n_features)).astype(np.float32)
    with torch.inference_mode():
        logits = network().network(*(torch.from_numpy(x) for x in (image, crops, features)))
    session = ort.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    lattices, kind, ice, inverse_d = session.run(None, {"image": image, "crops": crops, "features": features})  # a batch of any size
    for found, head, temperature in ((lattices, logits.lattices, 1.7), (kind, logits.kind, 0.8)):
        power = np.exp(head.numpy() / temperature)
        assert found == pytest.approx(power / power.sum(axis=1, keepdims=True), abs=1e-4)
    assert ice == pytest.approx(1.0 / (1.0 + np.exp(-logits.ice.numpy() / 1.3)), abs=1e-4)
    assert inverse_d == pytest.approx(np.exp(logits.log_s.numpy()), rel=1e-4)


def test_metadata_come_back(exported: Path) -> None:
    classifier = OnnxClassifier(exported, device="cpu")
    assert classifier.metadata == METADATA
    assert (classifier.model.name, classifier.model.version, len(classifier.model.sha256)) == ("tiny", "0.0.1", 64)
    assert ModelMetadata.from_json(METADATA.to_json()) == METADATA


def test_the_file_is_valid_and_tells_nothing_of_the_machine_it_was_made_on(exported: Path) -> None:
    model = onnx.load(str(exported))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    content = exported.read_bytes()
    for trace in (str(Path.cwd()), "site-packages", "/home/", "Traceback"):
        assert trace.encode() not in content
    assert not list(exported.parent.glob("*.data"))


def rewritten(exported: Path, path: Path, metadata: str | None) -> Path:
    """The model with other metadata."""
    model = onnx.load(str(exported))
    del model.metadata_props[:]
    if metadata is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, metadata
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        (None, r"other.onnx: carries no preprocessing .* export it with `triage export`"),
        ("{", r"other.onnx: its metadata do not fit this version"),
        ("{}", r"other.onnx: its metadata do not fit this version"),
        (METADATA.to_json().replace('"spot_finder_version": ', '"spot_finder_version": 9'), r"wants preprocessing spot_finder_version 9\d"),
        (METADATA.to_json().replace('"blank"', '"empty"'), r"its kinds are \['empty', 'ice', 'salt', 'artefact'\]"),
    ],
)
def test_a_model_without_fitting_metadata_is_refused(exported: Path, tmp_path: Path, metadata: str | None, line: str) -> None:
    with pytest.raises(ModelError, match=line):
        OnnxClassifier(rewritten(exported, tmp_path / "other.onnx", metadata), device="cpu")


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"text.onnx: not an ONNX model"):
        OnnxClassifier(tmp_path / "text.onnx", device="cpu")
    with pytest.raises(ModelError, match=r"none.onnx: no such model file; set model=PATH"):
        OnnxClassifier(tmp_path / "none.onnx", device="cpu")


def test_an_export_that_differs_from_torch_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.export._difference", lambda *_: 2e-3)
    with pytest.raises(ExportError, match=r"bad.onnx: ONNX differs from torch by 0.002, more than 0.0001"):
        export(network(), METADATA, tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def through_stream2(frame: Rendered) -> tuple[np.ndarray[Any, Any], Run]:
    """Pixels and run as a listener has them after the detector in a box sent them."""
    series = SeriesName(id=1, unique_id="one")
    start = start_of(frame.run, series, "threshold_1", 8 * frame.counts.itemsize)
    image = stream2.Image(series_id=1, image_id=0, data={"threshold_1": EncodedArray.encode(frame.counts)})
    received_start, received = (stream2.decode(stream2.encode(message)) for message in (start, image))
    assert isinstance(received_start, stream2.Start)
    assert isinstance(received, stream2.Image)
    run = RunResolver().resolve(header_of(received_start, "tcp://detector:31001"), "one")
    return received.data["threshold_1"].decode(), run


def test_a_frame_sent_as_stream2_makes_the_input_that_training_saw_bit_for_bit(frames: list[Rendered]) -> None:
    preprocess = METADATA.preprocess
    for frame in frames:
        pixels, run = through_stream2(frame)
        assert run.geometry is not None, run.geometry_problem
        served = preprocess(pixels, DispersionFinder().find(pixels, run), run)
        _, trained = inputs_of(frame, preprocess)
        for field in dataclasses.fields(Inputs):
            assert np.array_equal(getattr(served, field.name), getattr(trained, field.name)), (frame.run.header.detector, field.name)


def test_a_judgement_of_a_frame_sent_as_stream2_is_that_of_the_frame(exported: Path, frames: list[Rendered]) -> None:
    classifier, finder = OnnxClassifier(exported, device="cpu"), DispersionFinder()

    def judged(pixels: Any, run: Run) -> Judgement:
        return classifier.score(pixels, finder.find(pixels, run), run)

    for frame in frames:
        assert judged(*through_stream2(frame)) == judged(frame.counts, frame.run)
