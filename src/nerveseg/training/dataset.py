"""Frames as tensors, the same for any number of workers and after a resume."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from nerveseg.arrays import Ints
from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore
from nerveseg.model.frames import normalise, resize
from nerveseg.model.spec import NetworkSpec
from nerveseg.training.sampling import balanced

Item = tuple[int, int]  # index into the dataset's rows, seed of the augmentation


class FrameDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Frames and masks of some rows of the store at the network's size, float32 (1, height, width) each."""

    def __init__(self, store: FrameStore, rows: Ints, spec: NetworkSpec, augmentation: str) -> None:
        self._store = store
        self._rows = rows
        self._spec = spec
        self._augment = Augmentation(augmentation)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
        position, seed = item
        row = int(self._rows[position])
        size = self._spec.height, self._spec.width
        frame = resize(self._store.frame(row), *size)
        mask = (resize(self._store.mask(row) * np.uint8(255), *size) > 127).astype(np.uint8)
        frame, mask = self._augment(frame, mask, seed)
        return torch.from_numpy(normalise(frame, self._spec))[None], torch.from_numpy(mask.astype(np.float32))[None]


class EpochSampler(Sampler[Item]):
    """The order of the frames in an epoch and the seeds of their augmentation: functions of seed and epoch only.

    Lightning calls `set_epoch` before each epoch. After a resume that is too late for the first one: loader processes
    have drawn from the sampler by then (its issue 21938). So it is made with the epoch that a training begins with.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, epoch: int = 0, groups: Ints | None = None) -> None:
        """Args: groups: if shuffled, the number of each frame's group, as for `balanced`; None: each frame once."""
        self._length = length
        self._groups = groups
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        random = np.random.default_rng([self._seed, self._epoch])
        order = self._order(random) if self._shuffle else np.arange(self._length)
        seeds = random.integers(2**32, size=self._length)
        return iter(list(zip(order.tolist(), seeds.tolist(), strict=True)))

    def _order(self, random: np.random.Generator) -> Ints:
        return random.permutation(self._length) if self._groups is None else balanced(self._groups, random)


def loader(
    dataset: FrameDataset,
    batch_size: int,
    seed: int,
    workers: int,
    training: bool,
    epoch: int = 0,
    groups: Ints | None = None,
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a dataset: for training shuffled, without a smaller last batch; otherwise all frames in order.

    Args:
        epoch: the first one to load, from 0.
        groups: as for `EpochSampler`.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed, shuffle=training, epoch=epoch, groups=groups),
        drop_last=training,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
