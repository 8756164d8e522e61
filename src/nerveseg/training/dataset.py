"""Frames as tensors, the same for any number of workers and after a resume."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from nerveseg.arrays import Ints
from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore
from nerveseg.model.frames import normalise
from nerveseg.model.spec import NetworkSpec
from nerveseg.training.devices import ALONE, Share, World
from nerveseg.training.resized import Resized
from nerveseg.training.sampling import balanced
from nerveseg.training.warp import recolour, warp

Item = tuple[int, int]  # index into the dataset's rows, seed of the augmentation
Batch = tuple[torch.Tensor, torch.Tensor]
Greys = npt.NDArray[np.uint8]

_UNCHANGED: Greys = np.arange(256, dtype=np.uint8)


class FrameDataset(Dataset[Batch]):
    """Frames and masks of some rows of the store at the network's size, as batches: float32 (N, 1, height, width) each.

    The CPU augments them, frame by frame.
    """

    def __init__(
        self, store: FrameStore, rows: Ints, spec: NetworkSpec, augmentation: str, folder: Path | None = None
    ) -> None:
        """Args: folder: for temporary files; None: the system's."""
        self._spec = spec
        self._augment = Augmentation(augmentation)
        self._pixels = Resized(store, rows, spec.height, spec.width, folder)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitems__(self, items: list[Item]) -> Batch:
        """The batch of these items."""
        positions, seeds = zip(*items, strict=True)
        frames, masks, greys = self._changed(*self._pixels.batch(positions), seeds)
        return recolour(frames, normalise(greys, self._spec))[:, None], masks[:, None].float()

    def _changed(
        self, frames: torch.Tensor, masks: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, Greys]:
        """The pixels in their new places, uint8 (N, height, width) each, and what each grey level then becomes, uint8
        (256,) or, for each frame, (N, 256).
        """
        changed = [
            self._augment(frame, mask, seed)
            for frame, mask, seed in zip(frames.numpy(), masks.numpy(), seeds, strict=True)
        ]
        frames, masks = (torch.from_numpy(np.stack(pixels)) for pixels in zip(*changed, strict=True))
        return frames, masks, _UNCHANGED


class DeviceDataset(FrameDataset):
    """The same batches, up to rounding, augmented as a whole on the network's device."""

    def __init__(
        self,
        store: FrameStore,
        rows: Ints,
        spec: NetworkSpec,
        augmentation: str,
        folder: Path | None = None,
        device: str = "cuda",
    ) -> None:
        """Args: augmentation: one that `Augmentation.by_batch` is true of."""
        super().__init__(store, rows, spec, augmentation, folder)
        self._pixels.move(device)

    def _changed(
        self, frames: torch.Tensor, masks: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, Greys]:
        matrices, greys = self._augment.drawn(seeds, self._spec.height, self._spec.width)
        return *warp(frames, masks, matrices), greys


def dataset_for(
    device: str, store: FrameStore, rows: Ints, spec: NetworkSpec, augmentation: str, folder: Path
) -> FrameDataset:
    """The dataset whose batches cost least for a network on `device`: `cpu`, `mps`, or `cuda`, perhaps with a number.

    OpenCV is three times as fast as torch on a CPU, and torch lacks what `warp` needs on Apple's GPUs.
    """
    if torch.device(device).type == "cuda" and Augmentation(augmentation).by_batch:
        return DeviceDataset(store, rows, spec, augmentation, folder, device)
    return FrameDataset(store, rows, spec, augmentation, folder)


class EpochSampler(Sampler[Item]):
    """The order of the frames in an epoch and the seeds of their augmentation: functions of seed and epoch only.

    Lightning calls `set_epoch` before each epoch. After a resume that is too late for the first one: loader processes
    have drawn from the sampler by then (its issue 21938). So it is made with the epoch that a training begins with, and
    the number of frames that were done of it, which it leaves out. Its length is that of a whole epoch nevertheless:
    Lightning counts the steps of an epoch by it.
    """

    def __init__(
        self, length: int, seed: int, shuffle: bool, epoch: int = 0, done: int = 0, groups: Ints | None = None
    ) -> None:
        """Args: groups: if shuffled, the number of each frame's group, as for `balanced`; None: each frame once."""
        self._length = length
        self._groups = groups
        self._seed = seed
        self._shuffle = shuffle
        self._first = self._epoch = epoch
        self._done = done

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        random = np.random.default_rng([self._seed, self._epoch])
        order = self._order(random) if self._shuffle else np.arange(self._length)
        seeds = random.integers(2**32, size=self._length)
        items = list(zip(order.tolist(), seeds.tolist(), strict=True))
        return iter(items[self._done :] if self._epoch == self._first else items)

    def _order(self, random: np.random.Generator) -> Ints:
        return random.permutation(self._length) if self._groups is None else balanced(self._groups, random)


def loader(
    dataset: FrameDataset,
    batch_size: int,
    seed: int,
    workers: int,
    training: bool,
    epoch: int = 0,
    steps: int = 0,
    groups: Ints | None = None,
    world: World = ALONE,
) -> DataLoader[Batch]:
    """Batches of a dataset: for training shuffled, without a smaller last batch; otherwise all frames in order.

    Args:
        batch_size: of the global batch.
        workers: processes that make batches; 0: this one does, as always where a GPU makes them.
        epoch: the first one to load, from 0.
        steps: batches of that epoch to leave out.
        groups: as for `EpochSampler`.
        world: of several processes, each loads its slice of a training batch, and other batches in turn.
    """
    on_gpu = isinstance(dataset, DeviceDataset)
    if on_gpu:
        workers = 0
    done = steps * batch_size
    sampler: Any = EpochSampler(len(dataset), seed, training, epoch, done, groups)  # torch's types know of int alone
    return DataLoader(
        dataset,
        batch_sampler=Share(BatchSampler(sampler, batch_size, drop_last=training), world, slices=training),
        num_workers=workers,
        collate_fn=_whole,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and not on_gpu,
    )


def _whole(batch: Any) -> Any:
    """The dataset makes whole batches."""
    return batch
