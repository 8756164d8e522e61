"""Pretrained encoder weights, from the hub or from a file. Loading them never runs pickled code."""

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
    """Turns any error of the Hugging Face hub's client into one that names both ways to solve it."""
    from huggingface_hub.errors import HTTPError  # from the HTTP library it uses

    try:
        yield
    except (HTTPError, OSError, SafetensorError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the client wraps the cause in general advice
            cause = cause.__cause__
        reason = textwrap.shorten(str(cause), 300) or type(cause).__name__
        raise TransientError(
            f"The ImageNet weights of {encoder} could not be fetched from the Hugging Face hub: {reason}\n"
            "Give this machine access to the hub or a mirror of it (HF_ENDPOINT), or put the encoder's weights into "
            "weights/ and name the file in model.encoder_weights (none: train from scratch)."
        ) from None


def load_encoder_weights(encoder: torch.nn.Module, path: Path) -> None:
    """Loads weights for three channels into `encoder`, then sums them so that it takes one greyscale channel.

    Args:
        encoder: an encoder of segmentation_models_pytorch with three input channels.
        path: a state dict with the encoder's names, usually torchvision's; other entries, such as a classifier's,
            are ignored.

    Raises:
        NervesegError: the file is missing or not a plain state dict, or an entry is missing or has the wrong shape.
    """
    set_in_channels = getattr(encoder, "set_in_channels", None)
    if set_in_channels is None:
        raise NervesegError(f"model.encoder_weights: {path} cannot be loaded into a timm encoder (tu-...).")
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
            f"{path} does not contain the encoder's weights: {len(wrong)} of {len(wanted)} entries do not fit "
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
    except Exception as error:  # the readers raise many kinds of errors on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NervesegError(f"{path} is not a file of plain tensors, and nothing else is loaded: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise NervesegError(f"{path} is not a state dict (names to tensors); save only `encoder.state_dict()`.")
    return state
