"""The exported network on the CPU, by OpenVINO: what batch prediction runs. No torch."""

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from nerveseg.arrays import Frame, Mask, Probability
from nerveseg.errors import NervesegError
from nerveseg.model import plausibility
from nerveseg.model.frames import resize, restore, to_mask
from nerveseg.model.spec import ModelSpec, read_spec

ONNX_FILE = "model.onnx"


class OpenVinoScorer:
    """Segments frames of any size; safe to use from several threads.

    A frame's probabilities do not depend on the frames beside it, nor on how many are scored at once as long as each
    has as many threads. It computes in fp32 on every CPU.
    """

    def __init__(self, folder: Path, *, streams: int, threads: int) -> None:
        """Loads `model.onnx` and `model.json`.

        Args:
            folder: holds both.
            streams: frames that are scored at the same time.
            threads: of the CPU, divided among the streams; 0: all.

        Raises:
            NervesegError: a file is missing or damaged.
        """
        import openvino

        self.spec: ModelSpec = read_spec(folder)
        core = openvino.Core()
        try:
            model = core.read_model(folder / ONNX_FILE)
            model.reshape([1, self.spec.height, self.spec.width])  # fixed sizes run faster
            # Pinned, the streams of two processes would share cores.
            config = {
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "f32",  # masks must not depend on the CPU: docs/adr/0021
            }
            compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise NervesegError(f"{folder / ONNX_FILE} cannot be loaded: {reason}") from None
        # Made and used once by one thread: OpenVINO builds a graph at its first use, and was seen to hang where several
        # threads came to that together.
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            request = compiled.create_infer_request()
            request.infer([np.zeros((1, self.spec.height, self.spec.width), np.uint8)])
            self._requests.put(request)

    def probability(self, frame: Frame) -> Probability:
        """Nerve probability of every pixel of a uint8 grey frame (H, W): float32 in [0, 1] of the same shape."""
        small = resize(frame, self.spec.height, self.spec.width)
        request = self._requests.get()  # waits for one of the streams
        try:
            return restore(request.infer([small[None]])[0][0], frame.shape)
        finally:
            self._requests.put(request)

    def mask(self, probability: Probability) -> Mask:
        """As `to_mask`, at the network's own threshold."""
        return to_mask(probability, self.spec)

    def atypicality(self, mask: Mask) -> float:
        """As `plausibility.atypicality`, compared with the masks of this network's training; NaN for an older model."""
        return plausibility.atypicality(mask, self.spec.plausibility)
