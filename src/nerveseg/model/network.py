"""The segmentation network: built by name, saved without pickling, rebuilt from what was saved."""

import copy
import difflib
import textwrap
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nerveseg.errors import NervesegError
from nerveseg.files import replacing, write_json
from nerveseg.model.spec import SPEC_FILE, ModelSpec, read_spec
from nerveseg.model.weights import hub_errors, load_encoder_weights

WEIGHTS_FILE = "model.safetensors"


def build(spec: ModelSpec, encoder_weights: str = "none") -> torch.nn.Module:
    """A network that maps float32 (N, 1, height, width) to logits of the same shape.

    Args:
        spec: architecture and encoder, by their names in segmentation_models_pytorch.
        encoder_weights: `none`, `imagenet` (from the Hugging Face hub) or the path of a .safetensors or .pth file
            with the encoder's weights for three channels; those of the first convolution are summed over them.

    Raises:
        NervesegError: an unknown name, a pair that does not go together, a size that the pair cannot take, or weights
            that cannot be had or do not fit.
    """
    _check_names(spec)
    if encoder_weights in ("none", "imagenet"):
        network = _create(spec, None if encoder_weights == "none" else encoder_weights, channels=1)
    else:
        network = _create(spec, None, channels=3)
        load_encoder_weights(network.get_submodule("encoder"), Path(encoder_weights))
    _check_size(network, spec)
    return network


def save(network: torch.nn.Module, spec: ModelSpec, folder: Path) -> None:
    """Writes `model.safetensors` and `model.json` into `folder`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as beside:
        save_file(state, beside)
    write_json(folder / SPEC_FILE, spec.model_dump())


def load(folder: Path) -> tuple[torch.nn.Module, ModelSpec]:
    """Rebuilds the network that `save` wrote, in evaluation mode on the CPU.

    Raises:
        NervesegError: a file is missing or damaged, or the weights do not fit the recorded network.
    """
    spec = read_spec(folder)
    network = build(spec)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise NervesegError(
            f"{folder / WEIGHTS_FILE} does not hold the network of {SPEC_FILE} ({reason}): "
            "`dvc repro train` makes it anew, `dvc pull` brings it."
        ) from None
    return network.eval(), spec


def _create(spec: ModelSpec, weights: str | None, channels: int) -> torch.nn.Module:
    try:
        with hub_errors(spec.encoder):
            return smp.create_model(spec.architecture, spec.encoder, weights, in_channels=channels, classes=1)
    except (KeyError, ValueError, AssertionError, AttributeError, RuntimeError) as error:
        raise NervesegError(
            f"model.architecture {spec.architecture} cannot be built on model.encoder {spec.encoder} "
            f"with model.encoder_weights {weights or 'none'}: {error}"
        ) from None


def _check_size(network: torch.nn.Module, spec: ModelSpec) -> None:
    frame = torch.empty(1, 1, spec.height, spec.width, device="meta")  # shapes without pixels: nothing is computed
    try:
        copy.deepcopy(network).to("meta").eval()(frame)
    except (RuntimeError, AssertionError) as error:
        raise NervesegError(
            f"model.architecture {spec.architecture} on model.encoder {spec.encoder} cannot take frames of "
            f"model.height {spec.height} by model.width {spec.width} pixels: {error}"
        ) from None


def _check_names(spec: ModelSpec) -> None:
    architectures = [model.__name__ for model in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    if spec.architecture.lower() not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise NervesegError(f"model.architecture: {spec.architecture} is none of {', '.join(architectures)}.")
    encoders = smp.encoders.get_encoder_names()
    if spec.encoder not in encoders and not spec.encoder.startswith("tu-"):
        near = difflib.get_close_matches(spec.encoder, encoders, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see segmentation_models_pytorch's list of encoders."
        raise NervesegError(f"model.encoder: {spec.encoder} is unknown; {hint}")
