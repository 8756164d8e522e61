"""MONAI: its transforms, cached dataset and losses in a plain loop, as in its tutorials for 2D segmentation.

https://github.com/Project-MONAI/tutorials/tree/main/2d_segmentation/torch; the U-Net is theirs, too, and far smaller
than those of the other sides. `monai_resnet34` trains a larger one.
"""

from collections.abc import Callable
from importlib.metadata import version

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirstd, RandAffined, RandFlipd, ScaleIntensityd
from monai.utils import set_determinism

from benchmarks.peers.common import DEVICE, Curve, Task, clock, main, predict

BOTH = ("frame", "mask")


def tutorial_network() -> torch.nn.Module:
    features, strides = (16, 32, 64, 128, 256), (2, 2, 2, 2)
    return UNet(2, in_channels=1, out_channels=1, channels=features, strides=strides, num_res_units=2)


def train(task: Task, curve: Curve, build: Callable[[], torch.nn.Module] = tutorial_network) -> None:
    set_determinism(task.seed)
    network = build().to(DEVICE)
    curve.describe(network, version("monai"), "fp16" if DEVICE == "cuda" else "fp32")
    fixed = [EnsureChannelFirstd(BOTH, channel_dim="no_channel"), ScaleIntensityd("frame")]
    drawn = [
        RandFlipd(BOTH, prob=0.5, spatial_axis=1),
        RandAffined(BOTH, prob=0.5, rotate_range=0.17, scale_range=(0.1, 0.1), mode=("bilinear", "nearest")),
    ]
    data = [{"frame": frame, "mask": mask} for frame, mask in zip(task.frames, task.masks, strict=True)]
    dataset = CacheDataset(data, Compose([*fixed, *drawn]), progress=False)
    loader = DataLoader(dataset, batch_size=task.batch, shuffle=True, drop_last=True, num_workers=0)
    unseen = torch.stack([Compose(fixed)({"frame": frame, "mask": frame})["frame"] for frame in task.unseen])
    loss = DiceCELoss(sigmoid=True)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    scaler = torch.amp.GradScaler(DEVICE, enabled=DEVICE == "cuda")
    for _ in range(task.epochs):
        begun = clock()
        network.train()
        for batch in loader:
            frames, masks = (batch[name].to(DEVICE) for name in BOTH)
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
                value = loss(network(frames), masks.float())
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
        seconds = clock() - begun
        curve.add(seconds, predict(network.eval(), unseen.as_tensor(), task.batch))


if __name__ == "__main__":
    main(train)
