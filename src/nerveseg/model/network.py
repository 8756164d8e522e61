"""The segmentation network: built by name, saved without pickling, rebuilt from what was saved."""

import copy
import difflib
import textwrap
from collections.abc import Sequence
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
_VIEWS = ((), (3,), (2,), (2, 3))  # axes of (N, 1, H, W) that are flipped
_LEAST = 1e-6  # distance of a mean probability from 0 and 1, so that its logit is finite


class Averaged(torch.nn.Module):
    """Networks that answer together: the logit of their mean probability."""

    def __init__(self, members: Sequence[torch.nn.Module], flips: bool) -> None:
        """
        Args:
            members: networks as `build` makes them.
            flips: whether each is asked for the frame's horizontal flip, its vertical one and both, too.
        """
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self._views = _VIEWS if flips else _VIEWS[:1]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """As the networks: frames, float32 (N, 1, H, W), to logits of the same shape."""
        found = [
            _flip(torch.sigmoid(member(_flip(frames, axes))), axes) for member in self.members for axes in self._views
        ]
        return torch.logit(torch.stack(found).mean(dim=0), eps=_LEAST)


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


def assemble(members: Sequence[torch.nn.Module], spec: ModelSpec) -> torch.nn.Module:
    """What answers for the model: its one network itself, or `Averaged` where flips or more members are asked for.

    Args:
        members: networks as `build` makes them, `spec.members` of them.
    """
    return Averaged(members, spec.flips) if spec.flips or spec.members > 1 else members[0]


def save(network: torch.nn.Module, spec: ModelSpec, folder: Path) -> None:
    """Writes `model.safetensors` and `model.json` into `folder`.

    Args:
        network: a single one as `build` makes it, flips or not; `save_ensemble` is for several.
    """
    _write(network.state_dict(), spec, folder)


def save_ensemble(parts: Sequence[Path], spec: ModelSpec, folder: Path) -> None:
    """Writes the networks of several folders as one model whose probability is the mean of theirs.

    `model.safetensors` holds the members' weights by their number: `0.encoder...`, `1.encoder...`.

    Args:
        parts: folders that `save` wrote, of single networks of the same kind.
        spec: of the ensemble: its threshold, flips and plausibility are its own; `members` is set here.

    Raises:
        NervesegError: a file is missing or damaged, or a network is of another kind than `spec` says.
    """
    state: dict[str, torch.Tensor] = {}
    for number, part in enumerate(parts):
        found = read_spec(part)
        own = {"threshold": spec.threshold, "flips": spec.flips, "plausibility": spec.plausibility}
        if found.model_copy(update=own) != spec.model_copy(update={"members": 1}):
            raise NervesegError(f"{part / SPEC_FILE} describes a network of another kind: it cannot join the ensemble.")
        network = build(found)
        _load_weights(network, part)
        state |= {f"{number}.{name}": tensor for name, tensor in network.state_dict().items()}
    _write(state, spec.model_copy(update={"members": len(parts)}), folder)


def load(folder: Path) -> tuple[torch.nn.Module, ModelSpec]:
    """Rebuilds what `save` or `save_ensemble` wrote, in evaluation mode on the CPU, as `assemble` puts it together.

    Raises:
        NervesegError: a file is missing or damaged, or the weights do not fit the recorded network.
    """
    spec = read_spec(folder)
    members = torch.nn.ModuleList(build(spec) for _ in range(spec.members))
    _load_weights(members if spec.members > 1 else members[0], folder)
    return assemble(list(members), spec).eval(), spec


def _flip(frames: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return frames.flip(axes) if axes else frames  # ONNX knows no flip of no axis


def _write(state: dict[str, torch.Tensor], spec: ModelSpec, folder: Path) -> None:
    with replacing(folder / WEIGHTS_FILE) as beside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, beside)
    write_json(folder / SPEC_FILE, spec.model_dump())


def _load_weights(network: torch.nn.Module, folder: Path) -> None:
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise NervesegError(
            f"{folder / WEIGHTS_FILE} does not hold the network of {SPEC_FILE} ({reason}): "
            "`dvc repro train` makes it anew, `dvc pull` brings it."
        ) from None


def _create(spec: ModelSpec, weights: str | None, channels: int) -> torch.nn.Module:
    try:
        with hub_errors(spec.encoder):
            network: torch.nn.Module = smp.create_model(
                spec.architecture, spec.encoder, weights, in_channels=channels, classes=1
            )
            return network
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
