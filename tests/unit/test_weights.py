"""Encoder weights from files: what is loaded, and what is rejected without being run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from nerveseg.errors import NervesegError
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec
from nerveseg.model.weights import load_encoder_weights

ROOT = Path(__file__).parents[2]
SPEC = ModelSpec(architecture="Unet", encoder="resnet18", height=64, width=64, threshold=0.5)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def state() -> State:
    """Weights of a resnet18 for three channels, with a classifier, like published files."""
    torch.manual_seed(1)
    given = get_encoder("resnet18", weights=None).state_dict()
    given["bn1.running_mean"] = torch.rand(64)
    return {**given, "fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    """A resnet18 for three channels; rejected files must not change it."""
    return get_encoder("resnet18", weights=None)


class TouchesAFile:
    """A malicious pickle: loading it calls a function of its choice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def assert_loaded(network: torch.nn.Module, given: State, first: str) -> None:
    for name, tensor in network.get_submodule("encoder").state_dict().items():
        expected = given[name].sum(1, keepdim=True) if name == first else given[name]
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_match_the_file_and_the_first_convolution_is_summed(suffix: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / f"encoder{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    network = build(SPEC, str(path)).eval()
    assert_loaded(network, state, first="conv1.weight")
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 1, 64, 64)


def test_counters_may_be_missing_in_old_files(state: State, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, path)
    encoder = build(SPEC, str(path)).get_submodule("encoder").state_dict()
    torch.testing.assert_close(encoder["bn1.running_mean"], state["bn1.running_mean"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.pop("bn1.weight"), "bn1.weight is missing"),
        (lambda state: state.update({"bn1.weight": torch.rand(3)}), r"bn1.weight is \(3,\), not \(64,\)"),
        (lambda state: state.update({"conv1.weight": torch.rand(64, 1, 7, 7)}), r"conv1.weight is .*, not \(64, 3,"),
        (lambda state: state.clear(), r"conv1.weight is missing; .*; \.\.\."),
    ],
)
def test_all_mismatches_are_one_error(
    suffix: str, spoil: Callable[[State], object], words: str, state: State, encoder: torch.nn.Module, tmp_path: Path
) -> None:
    spoil(state)
    path = tmp_path / f"encoder{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(NervesegError, match=words) as caught:
        load_encoder_weights(encoder, path)
    assert str(path) in str(caught.value)
    assert "model.encoder" in str(caught.value)


def test_weights_of_another_encoder_are_rejected(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "resnet18.pth")
    for encoder in ("resnet34", "mobilenet_v2"):
        with pytest.raises(NervesegError, match="do not fit"):
            build(SPEC.model_copy(update={"encoder": encoder}), str(tmp_path / "resnet18.pth"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_is_rejected_before_its_code_runs(state: State, encoder: torch.nn.Module, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    attacks = {"plain.pth": pickle.dumps(TouchesAFile(touched))}
    torch.save({**state, "conv1.weight": TouchesAFile(touched)}, tmp_path / "zip.pth")
    torch.save({**state, "more": TouchesAFile(touched)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name, content in attacks.items():
        (tmp_path / name).write_bytes(content)
    for name in ("plain.pth", "zip.pth", "old.pth"):
        with pytest.raises(NervesegError, match=rf"{name} is not a file of plain tensors"):
            load_encoder_weights(encoder, tmp_path / name)
    assert not touched.exists()
    pickle.loads(attacks["plain.pth"])
    assert touched.exists(), "the attack works if it is not rejected"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_are_rejected(suffix: str, state: State, encoder: torch.nn.Module, tmp_path: Path) -> None:
    """Whatever the readers raise for these bytes."""
    path = tmp_path / f"encoder{suffix}"
    small = {name: state[name] for name in ("bn1.weight", "bn1.bias")}
    if suffix == ".safetensors":
        save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=False)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(1)
    for size in (0, 1, 8, len(whole) // 2):
        path.write_bytes(whole[:size].tobytes())
        with pytest.raises(NervesegError, match="plain tensors"):
            load_encoder_weights(encoder, path)
    for _ in range(30):
        spoilt = whole.copy()
        spoilt[random.integers(0, len(whole), 10)] = random.integers(0, 256, 10)
        path.write_bytes(spoilt.tobytes())
        with pytest.raises(NervesegError, match=str(path)):
            load_encoder_weights(encoder, path)


@pytest.mark.parametrize("content", [[torch.rand(1)], torch.rand(1), {"state_dict": {"a": torch.rand(1)}}, {"a": 1}])
def test_anything_but_a_state_dict_is_rejected(content: object, encoder: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "encoder.pth")
    with pytest.raises(NervesegError, match="not a state dict"):
        load_encoder_weights(encoder, tmp_path / "encoder.pth")


@pytest.mark.parametrize("name", ["nope.pth", "nope.safetensors"])
def test_a_missing_file_is_named(name: str, encoder: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(NervesegError, match=rf"model.encoder_weights: .*{name} is missing"):
        load_encoder_weights(encoder, tmp_path / name)


def test_timm_encoders_cannot_load_files(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "encoder.pth")
    with pytest.raises(NervesegError, match="cannot be loaded into a timm encoder"):
        build(SPEC.model_copy(update={"encoder": "tu-resnet10t"}), str(tmp_path / "encoder.pth"))


@pytest.mark.real_data
def test_torchvisions_published_mobilenet_loads() -> None:
    path = ROOT.parent / "shared" / "weights" / "mobilenet_v2_imagenet.pth"
    if not path.exists():
        pytest.skip(f"no {path}")
    network = build(SPEC.model_copy(update={"encoder": "mobilenet_v2"}), str(path))
    assert_loaded(network, torch.load(path, weights_only=True), first="features.0.0.weight")
