"""Device and precision of tensors."""

import torch

from nerveseg.errors import NervesegError


def device_name(wanted: str) -> str:
    """`cpu`, `cuda` or `mps`: the one wanted, or for `auto` the best on this machine.

    Raises:
        NervesegError: this machine does not have the wanted device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in available.items() if there)
    if not available[wanted]:
        raise NervesegError(f"NERVESEG_DEVICE is {wanted}, but this machine has none; unset it or set it to cpu.")
    return wanted


def precision_for(device: str, wanted: str) -> str:
    """`fp32`, `bf16` or `fp16`: the one wanted, or for `auto` what suits the device best.

    On a CPU that is bf16 only if it is native: emulated, it is slower than fp32.

    Raises:
        NervesegError: fp16 is wanted on a CPU, which cannot train with it.
    """
    if wanted == "fp16" and device == "cpu":
        raise NervesegError("train.precision: fp16 needs a GPU; use auto, bf16 or fp32 on a CPU.")
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return "bf16"
    return "fp32"
