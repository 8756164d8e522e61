"""Exports the network to ONNX, for scorers without torch."""

import warnings
from pathlib import Path

import torch

from nerveseg.errors import NervesegError
from nerveseg.files import replacing
from nerveseg.model.spec import ModelSpec

_OPSET = 18


class _Exported(torch.nn.Module):
    """The network from pixels to probabilities, with normalisation, so that a scorer needs no constants from us."""

    def __init__(self, network: torch.nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self._network = network
        self._spec = spec

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        inputs = (frames.to(torch.float32) / 255 - self._spec.mean) / self._spec.std
        return torch.sigmoid(self._network(inputs[:, None]))[:, 0]


def export(network: torch.nn.Module, spec: ModelSpec, path: Path) -> None:
    """Writes the network as ONNX. The same network gives the same bytes.

    Its input `frames` is uint8 greyscale (N, H, W), its output `probability` float32 in [0, 1] of the same shape. N is
    arbitrary, and so are H and W as far as the architecture allows: multiples of 32 for a Unet with resnet34.

    Raises:
        NervesegError: the architecture pools to a fixed grid, like PSPNet and UPerNet.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            raise NervesegError(
                f"{spec.architecture} pools to a grid of {module.output_size}, which ONNX does not support for "
                "arbitrary heights and widths. It can be trained and served by MLflow, but not delivered."
            )
    # Two frames, because the tracer would treat a batch size of one as constant.
    example = torch.zeros(2, spec.height, spec.width, dtype=torch.uint8)
    free = {0: "batch", 1: "height", 2: "width"}
    with replacing(path) as beside, warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            _Exported(network, spec).eval(),
            (example,),
            beside,
            input_names=["frames"],
            output_names=["probability"],
            dynamic_axes={"frames": free, "probability": free},
            opset_version=_OPSET,
            dynamo=False,  # docs/adr/0011
        )
