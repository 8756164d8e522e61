"""The batches of a training: resized once, and the same whether a GPU or the CPU augments them."""

from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from nerveseg.data.augment import Augmentation
from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.model.frames import normalise, resize
from nerveseg.model.spec import NetworkSpec
from nerveseg.training.dataset import DeviceDataset, FrameDataset, dataset_for, loader
from nerveseg.training.trainer import worker_count

SPEC = NetworkSpec(architecture="Unet", encoder="tu-test_resnet", height=64, width=96)
ITEMS = [(position, 1000 + seed) for seed in range(20) for position in range(3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Speckled frames of three sizes, larger and smaller than the network's input, and an ellipse each."""
    folder, random = tmp_path_factory.mktemp("store"), np.random.default_rng(1)
    with Writer(folder) as writer:
        for number, (height, width) in enumerate([(105, 145), (210, 290), (40, 50)]):
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (width // 3, height // 2), (width // 6, height // 8), 20, 0, 360, 1, -1)
            frame = cv2.GaussianBlur(random.integers(0, 256, mask.shape, np.uint8), (0, 0), 1) // 2 + 100 * mask
            writer.append(f"{number}.png", str(number), None, frame, mask)
        writer.write_index(pd.Series(["train"] * 3), np.arange(3))
    return FrameStore.open(folder)


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    """A file with all that a GPU can do, each in nearly every frame."""
    file = tmp_path / "pipeline.yaml"
    transforms = [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.7, 1.4), rotate=(-40, 40), shear=(-20, 20), border_mode=cv2.BORDER_REFLECT_101, p=0.9),
        A.VerticalFlip(p=0.5),
        A.RandomGamma((60, 160), p=0.9),
        A.RandomBrightnessContrast(p=0.9),
        A.GaussianBlur(p=0.0),
    ]
    A.save(A.Compose(transforms), file, data_format="yaml")
    return str(file)


def test_frames_are_resized_and_normalised_and_masks_are_where_half_a_pixel_is_nerve(store: FrameStore) -> None:
    dataset = FrameDataset(store, np.array([1, 2]), SPEC, "none")
    assert len(dataset) == 2
    frames, masks = dataset.__getitems__([(1, 0), (0, 0)])
    for row, frame, mask in zip((2, 1), frames, masks, strict=True):
        expected = normalise(resize(store.frame(row), 64, 96), SPEC)
        np.testing.assert_array_equal(frame[0].numpy(), expected)
        area = resize(store.mask(row) * np.uint8(255), 64, 96)
        np.testing.assert_array_equal(mask[0].numpy(), (area > 127).astype(np.float32))


@pytest.mark.parametrize("augmentation", ["none", "soft", "card", "pipeline"])
def test_a_device_makes_the_batches_that_the_cpu_makes(
    store: FrameStore, augmentation: str, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue("pipeline") if augmentation == "pipeline" else augmentation
    assert Augmentation(name).by_batch
    rows = store.rows("train")
    frames, masks = FrameDataset(store, rows, SPEC, name).__getitems__(ITEMS)
    found, found_masks = DeviceDataset(store, rows, SPEC, name, device="cpu").__getitems__(ITEMS)
    assert (found.shape, found.dtype, found_masks.dtype) == ((60, 1, 64, 96), torch.float32, torch.float32)
    grey = 1 / 255 / SPEC.std
    apart = (found - frames).abs()
    assert apart.mean() < 0.02 * grey
    assert apart.max() < 4 * grey, "OpenCV rounds the weights of four pixels to 1/32"
    assert (found_masks != masks).double().mean() < 1e-4
    assert augmentation == "none" or len({frame.numpy().tobytes() for frame in found[::3]}) > 10


@pytest.mark.parametrize(
    "transform",
    [
        A.Affine(border_mode=cv2.BORDER_CONSTANT),
        A.Affine(border_mode=cv2.BORDER_REFLECT_101, interpolation=cv2.INTER_CUBIC),
        A.RandomBrightnessContrast(brightness_by_max=False),
        A.OneOf([A.HorizontalFlip(), A.VerticalFlip()]),
        A.ElasticTransform(),
        A.RandomGamma(),  # before the pixels move
    ],
)
def test_what_a_matrix_and_a_table_cannot_say_stays_with_the_cpu(
    store: FrameStore, tmp_path: Path, transform: A.BasicTransform
) -> None:
    file = tmp_path / "pipeline.json"
    A.save(A.Compose([transform, A.HorizontalFlip()]), file)
    assert not Augmentation(str(file)).by_batch
    dataset = dataset_for("cuda", store, store.rows("train"), SPEC, str(file), tmp_path)
    assert not isinstance(dataset, DeviceDataset)


def test_nothing_is_left_beside_the_checkpoints(store: FrameStore, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    dataset = dataset_for("cpu", store, store.rows("train"), SPEC, "soft", folder)
    assert list(folder.iterdir()) == []
    dataset.__getitems__(ITEMS[:3])


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_do_not_change_the_batches(store: FrameStore, workers: int) -> None:
    """With 2, starts them: they read the memory-mapped pixels of this process."""
    dataset = FrameDataset(store, store.rows("train"), SPEC, "medium")
    (batch,) = list(loader(dataset, 3, 7, workers, training=True))
    (items,) = loader(dataset, 3, 7, 0, training=True).batch_sampler
    for found, expected in zip(batch, dataset.__getitems__(items), strict=True):
        assert torch.equal(found, expected)


def test_processes_augment_for_a_gpu_only_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "4")  # as a container's limit
    assert worker_count(None, "cpu") == 0
    assert worker_count(2, "cpu") == 2
    assert worker_count(None, "cuda") <= 3
    assert worker_count(0, "cuda") == 0
