"""Pretrained encoder weights, from the hub or from a file, never unpickled into code."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nerveseg.errors import NervesegError, TransientError


@contextmanager
def hub_errors(encoder: str) -> Iterator[None]:
    """Turns whatever the Hugging Face hub's client raises into one error that names both ways out."""
    from huggingface_hub.errors import HTTPError  # of the HTTP library that it uses

    try:
        yield
    except (HTTPError, OSError, SafetensorError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the client wraps what happened in general advice
            cause = cause.__cause__
        reason = textwrap.shorten(str(cause), 300) or type(cause).__name__
        raise TransientError(
            f"The ImageNet weights of {encoder} could not be fetched from the Hugging Face hub: {reason}\n"
            "Either let this machine reach the hub or a mirror of it (HF_ENDPOINT), or put the encoder's weights into "
            "weights/ and name the file in model.encoder_weights (none trains without)."
        ) from None


def load_encoder_weights(encoder: torch.nn.Module, path: Path) -> None:
    """Loads weights for three channels into `encoder`, then makes it take one grey channel (their sum).

    Args:
        encoder: an encoder of segmentation_models_pytorch with three input channels.
        path: a state dict in the encoder's layout, usually torchvision's; further entries, such as those of a
            classifier, are left out.

    Raises:
        NervesegError: the file is missing, is no plain state dict, or lacks or misshapes an entry.
    """
    set_in_channels = getattr(encoder, "set_in_channels", None)
    if set_in_channels is None:
        raise NervesegError(f"model.encoder_weights: {path} cannot be loaded into an encoder of timm (tu-...).")
    given, wanted = _read_state(path), encoder.state_dict()
    wrong = [
        f"{name} is missing"
        if name not in given
        else f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if not name.endswith("num_batches_tracked") and (name not in given or given[name].shape != tensor.shape)
    ]
    if wrong:
        raise NervesegError(
            f"{path} does not hold the encoder's weights: of {len(wanted)} entries {len(wrong)} do not fit "
            f"({'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''}). Check model.encoder."
        )
    encoder.load_state_dict({name: given.get(name, tensor) for name, tensor in wanted.items()})
    set_in_channels(1, pretrained=True)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NervesegError(f"model.encoder_weights: {path} is missing.") from None
    except Exception as error:  # a damaged file makes the readers raise whatever they hit upon
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NervesegError(f"{path} is no file of plain tensors, and nothing else is loaded: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise NervesegError(f"{path} is no state dict (names to tensors); save `encoder.state_dict()` alone.")
    return state
