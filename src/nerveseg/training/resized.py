"""The frames of a split at the network's size, resized once for all epochs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nerveseg.arrays import Ints
from nerveseg.data.frame_store import FrameStore
from nerveseg.model.frames import resize
from nerveseg.training.warp import sent

RESIDENT = 0.25  # share of a GPU's free memory that frames and masks may take, before the network is there


class Resized:
    """Frames and masks of some rows of a store, uint8 (N, height, width) each; masks are 0/1.

    They are in a file without a name that is mapped into memory: it never outlives the process, it is never half
    written, and it may be larger than the memory.
    """

    def __init__(self, store: FrameStore, rows: Ints, height: int, width: int, folder: Path | None = None) -> None:
        """
        Args:
            folder: where the file is; None: the system's folder for temporary files.

        Raises:
            OSError: there is no room for the file.
        """
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for row in rows.tolist():
                file.write(resize(store.frame(row), height, width).data)
            for row in rows.tolist():
                file.write((resize(store.mask(row) * np.uint8(255), height, width) > 127).data)
            file.flush()
            # "c" (copy on write), because torch wants what it may write to; nothing writes
            self._pixels = torch.from_numpy(np.memmap(file, np.uint8, "c", shape=(2, len(rows), height, width)))
        self._device = torch.device("cpu")

    def move(self, device: str) -> None:
        """Makes `batch` return tensors on a device, whose memory takes everything if it fits."""
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._pixels.nbytes > RESIDENT * torch.cuda.mem_get_info(self._device)[0]:
            return
        self._pixels = self._pixels.to(self._device)

    def __len__(self) -> int:
        return self._pixels.shape[1]

    def batch(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and masks, uint8 (N, height, width) each. Args: positions: among the rows."""
        chosen = self._pixels[:, sent(np.array(positions), self._pixels.device)]
        frames, masks = sent(chosen, self._device)
        return frames, masks
