"""Runs the exported network on the CPU with OpenVINO, without torch."""

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
    """Segments frames of any size; thread-safe.

    A frame's probabilities do not depend on other frames, nor on how many are scored at once, as long as each has the
    same number of threads. It computes in fp32 on every CPU.
    """

    def __init__(self, folder: Path, *, streams: int, threads: int) -> None:
        """Loads `model.onnx` and `model.json`.

        Args:
            folder: contains both.
            streams: number of frames scored at the same time.
            threads: CPU threads, divided among the streams; 0: all.

        Raises:
            NervesegError: a file is missing or damaged.
        """
        import openvino

        self.spec: ModelSpec = read_spec(folder)
        core = openvino.Core()
        try:
            model = core.read_model(folder / ONNX_FILE)
            model.reshape([1, self.spec.height, self.spec.width])  # fixed sizes are faster
            # If pinned, the streams of two processes would share cores.
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
        # Created and used once by one thread: OpenVINO builds a graph at the first use, and has been seen to hang when
        # several threads did so at once.
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            request = compiled.create_infer_request()
            request.infer([np.zeros((1, self.spec.height, self.spec.width), np.uint8)])
            self._requests.put(request)

    def probability(self, frame: Frame) -> Probability:
        """Nerve probability of every pixel of a uint8 greyscale frame (H, W): float32 in [0, 1] of the same shape."""
        small = resize(frame, self.spec.height, self.spec.width)
        request = self._requests.get()  # waits for a free stream
        try:
            return restore(request.infer([small[None]])[0][0], frame.shape)
        finally:
            self._requests.put(request)

    def mask(self, probability: Probability) -> Mask:
        """Like `to_mask`, with the network's own threshold."""
        return to_mask(probability, self.spec)

    def atypicality(self, mask: Mask) -> float:
        """Like `plausibility.atypicality`, compared with the network's training masks; NaN for an older model."""
        return plausibility.atypicality(mask, self.spec.plausibility)
