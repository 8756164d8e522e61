"""nnU-Net's 2D configuration: its trainer's steps with its network, augmentation, sampling and deep supervision.

The plans are what its planner makes of frames of this size, but for the batch size; its learning rate falls over the
task's epochs, not over 1000. Predictions have no test-time mirroring, like those of the other sides.
"""

import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.peers.common import DEVICE, Curve, Pixels, Task, clock, main

DATASET, PREPROCESSED = "Dataset001_Nerve", "nnUNetPlans_2d"
FEATURES, MOST_FEATURES, SMALLEST_EDGE = 32, 512, 4  # of ExperimentPlanner, as are the 2 convolutions in each stage


def plans(task: Task) -> dict[str, Any]:
    """Those of ExperimentPlanner for one channel and frames of unit spacing."""
    size = task.frames.shape[1:]
    _, strides, kernels, patch, _ = get_pool_and_conv_props((1.0, 1.0), size, SMALLEST_EDGE, 999999)
    stages = len(strides)
    network = {
        "n_stages": stages,
        "features_per_stage": [min(FEATURES * 2**stage, MOST_FEATURES) for stage in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": PREPROCESSED,
        "batch_size": task.batch,
        "patch_size": [int(side) for side in patch],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {"2d": configuration},
        "continue_training": False,
    }


def normalised(frame: Pixels) -> np.ndarray:
    """Each frame by its own mean and deviation, as nnU-Net normalises: float32 (channel, 1, height, width)."""
    values = frame.astype(np.float32)
    return ((values - values.mean()) / max(values.std(), 1e-8))[None, None]


def preprocess(task: Task, folder: Path) -> None:
    """Writes the frames as nnU-Net's preprocessing does, and the split."""
    cases = folder / PREPROCESSED
    cases.mkdir(parents=True)
    names: dict[str, list[str]] = {"train": [], "val": []}
    sides = {"train": (task.frames, task.masks), "val": (task.unseen, task.truths)}
    for side, (frames, masks) in sides.items():
        for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            data, truth = normalised(frame), mask.astype(np.int8)[None, None]
            blocks, chunks = comp_blosc2_params(data.shape, frame.shape)
            places = DefaultPreprocessor._sample_foreground_locations(truth, [1])
            names[side].append(f"{side}_{number}")
            case = str(cases / names[side][-1])
            nnUNetDatasetBlosc2.save_case(data, truth, {"class_locations": places}, case, chunks, blocks)
    (folder / "splits_final.json").write_text(json.dumps([names]))
    (folder / "dataset_fingerprint.json").write_text("{}")  # only copied


@torch.inference_mode()
def predict(trainer: nnUNetTrainer, task: Task) -> np.ndarray:
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    frames = torch.from_numpy(np.stack([normalised(frame)[0] for frame in task.unseen]))
    masks = [trainer.network(part.to(DEVICE)).argmax(1).cpu().numpy() for part in frames.split(task.batch)]
    trainer.set_deep_supervision_enabled(True)
    return np.concatenate(masks)


def train(task: Task, curve: Curve) -> None:
    np.random.seed(task.seed)
    torch.manual_seed(task.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"nnUNet_preprocessed": str(folder / "preprocessed"), "nnUNet_results": str(folder / "results")}
        preprocess(task, folder / "preprocessed" / DATASET)
        labels = {"channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "nerve": 1}}
        trainer = nnUNetTrainer(plans(task), "2d", 0, labels, torch.device(DEVICE))
        trainer.num_epochs = task.epochs
        trainer.on_train_start()
        curve.describe(trainer.network, version("nnunetv2"), "fp16" if DEVICE == "cuda" else "fp32")
        for trainer.current_epoch in range(task.epochs):
            begun = clock()
            trainer.on_train_epoch_start()
            trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(task.steps)])
            seconds = clock() - begun
            curve.add(seconds, predict(trainer, task))
        trainer.on_train_end()


if __name__ == "__main__":
    main(train)
