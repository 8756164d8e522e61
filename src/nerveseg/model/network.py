"""The segmentation network: built by name, saved and loaded without pickling."""

import copy
import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from nerveseg.errors import NervesegError
from nerveseg.files import replacing
from nerveseg.model.spec import SPEC_FILE, Flip, ModelSpec, NetworkSpec, read_spec, write_spec
from nerveseg.model.weights import hub_errors, load_encoder_weights

WEIGHTS_FILE = "model.safetensors"
_AXES: dict[Flip, int] = {"horizontal": 3, "vertical": 2}  # of (N, 1, H, W)
_EPSILON = 1e-6  # keeps a mean probability away from 0 and 1, so that its logit is finite


class Averaged(torch.nn.Module):
    """Several networks, or flips of the frame, as one: returns the logit of their mean probability."""

    def __init__(self, members: Sequence[torch.nn.Module], flips: Sequence[Flip]) -> None:
        """
        Args:
            members: networks from `build`.
            flips: each also sees the frame flipped so and, if there are two, by both.
        """
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self._views = _views(flips)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames, float32 (N, 1, H, W), to logits of the same shape, like the members."""
        found = [
            _flip(torch.sigmoid(member(_flip(frames, axes))), axes) for member in self.members for axes in self._views
        ]
        return torch.logit(torch.stack(found).mean(dim=0), eps=_EPSILON)


def build(spec: NetworkSpec, encoder_weights: str = "none") -> torch.nn.Module:
    """A network that maps float32 (N, 1, height, width) to logits of the same shape.

    Args:
        spec: architecture and encoder, by their names in segmentation_models_pytorch.
        encoder_weights: `none`, `imagenet` (from the Hugging Face hub) or the path of a .safetensors or .pth file
            with the encoder's weights for three channels, which are summed in the first convolution.

    Raises:
        NervesegError: an unknown name, an incompatible pair, a size that it does not support, or weights that are
            unavailable or do not fit.
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
    """The module that predicts for the model: its single network, or `Averaged` for flips or several members.

    Args:
        members: `spec.members` networks from `build`.
    """
    return Averaged(members, spec.flips) if spec.flips or spec.members > 1 else members[0]


def save(network: torch.nn.Module, spec: ModelSpec, folder: Path) -> None:
    """Writes `model.safetensors` and `model.json` into `folder`.

    Args:
        network: a single one from `build`, not `Averaged`; for several, use `save_ensemble`.
    """
    save_weights(network, folder)
    write_spec(spec, folder)


def save_weights(network: torch.nn.Module, folder: Path) -> None:
    """Writes `model.safetensors` of a single network as `build` makes it into `folder`."""
    _write(network.state_dict(), folder)


def save_ensemble(parts: Sequence[Path], spec: ModelSpec, folder: Path) -> None:
    """Writes the networks in several folders as one model, which averages their probabilities.

    `model.safetensors` has the members' weights with their number as prefix: `0.encoder...`, `1.encoder...`.

    Args:
        parts: folders written by `save`, with single networks of the same kind.
        spec: of the ensemble, with its own threshold, flips and plausibility; `members` is set here.

    Raises:
        NervesegError: a file is missing or damaged, or a network is not of the kind in `spec`.
    """
    state: dict[str, torch.Tensor] = {}
    for number, part in enumerate(parts):
        found = read_spec(part)
        own = {"threshold": spec.threshold, "flips": spec.flips, "plausibility": spec.plausibility}
        if found.model_copy(update=own) != spec.model_copy(update={"members": 1}):
            raise NervesegError(
                f"{part / SPEC_FILE} describes a different kind of network, which cannot join the ensemble."
            )
        network = build(found)
        _load_weights(network, part)
        state |= {f"{number}.{name}": tensor for name, tensor in network.state_dict().items()}
    _write(state, folder)
    write_spec(spec.model_copy(update={"members": len(parts)}), folder)


def load(folder: Path) -> tuple[torch.nn.Module, ModelSpec]:
    """Loads what `save` or `save_ensemble` wrote: the module from `assemble`, in evaluation mode on the CPU.

    Raises:
        NervesegError: a file is missing or damaged, or the weights do not fit the network in `model.json`.
    """
    spec = read_spec(folder)
    return rebuild(spec, folder), spec


def rebuild(spec: ModelSpec, folder: Path) -> torch.nn.Module:
    """As `load`, of the weights in `folder` and a spec that need not lie there."""
    members = torch.nn.ModuleList(build(spec) for _ in range(spec.members))
    _load_weights(members if spec.members > 1 else members[0], folder)
    return assemble(list(members), spec).eval()


def _views(flips: Sequence[Flip]) -> list[tuple[int, ...]]:
    """The axes that each view of a frame is flipped by; the first view is the frame itself."""
    views: list[tuple[int, ...]] = [()]
    for flip in flips:
        views += [(*view, _AXES[flip]) for view in views]
    return views


def _flip(frames: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return frames.flip(axes) if axes else frames  # ONNX has no flip over zero axes


def _write(state: dict[str, torch.Tensor], folder: Path) -> None:
    content = serialise({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    with replacing(folder / WEIGHTS_FILE) as beside:
        # Not safetensors' `save_file`: it lets nobody else read the file, and its own exception hides a full disk.
        beside.write_bytes(content)


def _load_weights(network: torch.nn.Module, folder: Path) -> None:
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise NervesegError(
            f"{folder / WEIGHTS_FILE} does not contain the network of {SPEC_FILE} ({reason}): "
            "`dvc repro train` recreates it, `dvc pull` fetches it."
        ) from None


def _create(spec: NetworkSpec, weights: str | None, channels: int) -> torch.nn.Module:
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


def _check_size(network: torch.nn.Module, spec: NetworkSpec) -> None:
    frame = torch.empty(1, 1, spec.height, spec.width, device="meta")  # shapes only, nothing is computed
    try:
        copy.deepcopy(network).to("meta").eval()(frame)
    except (RuntimeError, AssertionError) as error:
        raise NervesegError(
            f"model.architecture {spec.architecture} on model.encoder {spec.encoder} does not support frames of "
            f"model.height {spec.height} by model.width {spec.width} pixels: {error}"
        ) from None


def _check_names(spec: NetworkSpec) -> None:
    architectures = [model.__name__ for model in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    if spec.architecture.lower() not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise NervesegError(f"model.architecture: {spec.architecture} is not one of {', '.join(architectures)}.")
    encoders = smp.encoders.get_encoder_names()
    if spec.encoder not in encoders and not spec.encoder.startswith("tu-"):
        near = difflib.get_close_matches(spec.encoder, encoders, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "see the list of encoders in segmentation_models_pytorch."
        )
        raise NervesegError(f"model.encoder: {spec.encoder} is unknown; {hint}")
