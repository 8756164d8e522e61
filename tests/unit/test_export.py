"""The exported network compared with torch: in ONNX Runtime, as an independent reader, and in the scorer."""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from nerveseg.errors import NervesegError
from nerveseg.model.frames import normalise
from nerveseg.model.inference import Segmenter
from nerveseg.model.network import build, load, save, save_ensemble
from nerveseg.model.spec import ModelSpec
from nerveseg.modelcard import smoke
from nerveseg.prediction.export import export
from nerveseg.prediction.openvino import OpenVinoScorer
from nerveseg.registry import verification
from nerveseg.registry.verification import Check

SPEC = ModelSpec(architecture="Unet", encoder="tu-test_resnet", height=64, width=96, threshold=0.5)


def frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(70).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(70)
    return build(SPEC).eval()


@pytest.fixture(scope="module")
def folder(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    save(network, SPEC, folder)
    export(network, SPEC, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "model.onnx")


@pytest.mark.parametrize(
    "shape", [(1, 64, 96), (2, 64, 96), (7, 64, 96), (1, 32, 32), (3, 128, 64), (1, 256, 256), (16, 32, 64)]
)
def test_batch_height_and_width_are_arbitrary(
    network: torch.nn.Module, session: onnxruntime.InferenceSession, shape: tuple[int, int, int]
) -> None:
    given = frames(*shape)
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(normalise(given, SPEC))[:, None]))[:, 0].numpy()
    (found,) = session.run(None, {"frames": given})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_input_and_output_are_named_and_typed(session: onnxruntime.InferenceSession) -> None:
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("frames", "tensor(uint8)", ["batch", "height", "width"])
    assert (found.name, found.type, found.shape) == ("probability", "tensor(float)", ["batch", "height", "width"])


def test_the_same_network_gives_the_same_bytes(network: torch.nn.Module, folder: Path, tmp_path: Path) -> None:
    export(network, SPEC, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(("architecture", "encoder"), [("FPN", "resnet18"), ("DeepLabV3Plus", "mobilenet_v2")])
def test_other_architectures_match_torch(architecture: str, encoder: str, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"architecture": architecture, "encoder": encoder})
    built = build(spec).eval()
    save(built, spec, tmp_path)
    export(built, spec, tmp_path / "model.onnx")
    frame = frames(70, 90)
    (expected,) = Segmenter(built, spec).probabilities([frame])
    np.testing.assert_allclose(OpenVinoScorer(tmp_path, streams=1, threads=1).probability(frame), expected, atol=1e-3)


def test_an_ensemble_with_flips_matches_torch(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save(build(SPEC), SPEC, other)
    save_ensemble([folder, other], SPEC.model_copy(update={"flips": ("horizontal",)}), tmp_path)
    network, spec = load(tmp_path)
    export(network, spec, tmp_path / "model.onnx")
    for given in (frames(1, 64, 96), frames(3, 32, 64)):
        with torch.inference_mode():
            expected = torch.sigmoid(network(torch.from_numpy(normalise(given, spec))[:, None]))[:, 0].numpy()
        (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"frames": given})
        np.testing.assert_allclose(found, expected, atol=1e-4)
    frame = frames(70, 90)
    (expected,) = Segmenter(network, spec).probabilities([frame])
    scorer = OpenVinoScorer(tmp_path, streams=1, threads=1)
    np.testing.assert_allclose(scorer.probability(frame), expected, atol=1e-3)
    np.testing.assert_allclose(scorer.probability(frame[:, ::-1].copy()), expected[:, ::-1], atol=1e-3)
    (alone,) = Segmenter(load(folder)[0], SPEC).probabilities([frame])
    assert np.abs(alone - expected).max() > 0.01


def test_an_architecture_that_cannot_be_exported_is_a_clear_error(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"architecture": "PSPNet"})
    with pytest.raises(NervesegError, match="PSPNet pools to a grid"):
        export(build(spec), spec, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_scorer_matches_the_segmenter(network: torch.nn.Module, folder: Path) -> None:
    scorer, segmenter = OpenVinoScorer(folder, streams=2, threads=2), Segmenter(network, SPEC)
    given = [frames(height, width) for height, width in ((64, 96), (70, 90), (420, 580), (32, 200))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(scorer.probability, given * 5))
    for number, expected in enumerate(segmenter.probabilities(given)):
        assert found[number].shape == given[number].shape
        np.testing.assert_allclose(found[number], expected, atol=1e-3)
        for again in found[number :: len(given)]:
            assert np.array_equal(again, found[number]), "whatever else is being scored"


def test_nothing_phones_home(folder: Path, tmp_path: Path) -> None:
    """Importing OpenVINO reports to a server unless its telemetry is blocked."""
    code = (
        "import sys; from pathlib import Path; from nerveseg.prediction.openvino import OpenVinoScorer\n"
        f"OpenVinoScorer(Path({str(folder)!r}), streams=1, threads=1)\n"
        "print([name for name, module in sys.modules.items() if name.startswith('openvino_telemetry') and module])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_export_is_rejected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(NervesegError, match=r"model\.onnx cannot be loaded"):
        OpenVinoScorer(tmp_path, streams=1, threads=1)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(NervesegError, match=r"model\.onnx cannot be loaded"):
        OpenVinoScorer(tmp_path, streams=1, threads=1)


def verified(folder: Path, pairs: list[smoke.Pair]) -> Check:
    """The check of the export that a delivery makes, for a model with these smoke frames."""
    smoke.write(pairs, folder / "smoke.npz")
    return next(check for check in verification.of_network(folder) if check.name == "export")


def test_a_sound_export_passes_where_rounding_moves_pixels_across_the_threshold(
    network: torch.nn.Module, folder: Path, tmp_path: Path
) -> None:
    """The threshold lies between what torch and OpenVINO give one of the pixels of a small mask."""
    (frame,) = given = list(frames(1, 64, 96))
    scorer, segmenter = OpenVinoScorer(folder, streams=1, threads=1), Segmenter(network, SPEC)
    ours, theirs = segmenter.probabilities(given)[0].ravel(), scorer.probability(frame).ravel()
    highest = np.argsort(ours)[::-1][1:200]
    pixel = next(index for index in highest if ours[index] != theirs[index])
    threshold = float(ours[pixel] + theirs[pixel]) / 2
    save(network, SPEC.model_copy(update={"threshold": threshold}), tmp_path)
    check = verified(tmp_path, [(frame, (ours >= threshold).astype(np.uint8).reshape(frame.shape))])
    assert check.passed, check.found
    assert "on 4 frames, probabilities differ from the network's own by at most 0.0000" in check.found
    assert "of the pixels are in another class (the limit is 0.1%)" in check.found


def test_an_export_of_lower_precision_is_refused(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(network: torch.nn.Module, spec: ModelSpec, path: Path) -> None:
        export(copy.deepcopy(network).bfloat16().float(), spec, path)

    monkeypatch.setattr("nerveseg.prediction.export.export", rounded)
    save(network, SPEC, tmp_path)
    given = list(frames(5, 64, 96))
    segmenter = Segmenter(network, SPEC)
    check = verified(tmp_path, [(frame, segmenter.mask(segmenter.probabilities([frame])[0])) for frame in given])
    assert not check.passed
    assert "on 16 frames" in check.found
